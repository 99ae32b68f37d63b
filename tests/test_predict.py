"""Predict: the whole path with a model that sees coloured squares, and with the recorded one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vistool
from tests.recorded import recorded, recorded_json
from tests.test_ifc import small_ifc
from vistool.config import IFCConfig, PixelConfig, PredictConfig, Scoring
from vistool.engine.device import choose_device, choose_dtype
from vistool.engine.predict import iterate_video, predict_video, predict_videos
from vistool.engine.segment import AHEAD, SegmentedFrame, Segmenter
from vistool.errors import (
    DataError,
    OutOfMemoryError,
    PartialFailureError,
    UsageError,
    VistoolError,
)
from vistool.formats.results import (
    SegmentationSpool,
    VideoMeta,
    read_meta,
    read_results,
    write_meta,
)
from vistool.formats.rle import decode_mask
from vistool.formats.video import open_video
from vistool.formats.video_writer import VideoWriter
from vistool.models.weights import LoadedModel, WeightsHeader
from vistool.structures import RLE, ClipOutput, FrameFeatures, Size, TrackSegmentation, VideoFrame
from vistool.tracking.postprocess import masks_at, results_multi_class, results_single_class

CPU = torch.device("cpu")
SIZE = Size(96, 160)
COLOURS = {"red": (220, 0, 0), "green": (0, 220, 0), "blue": (0, 0, 220)}
QUIET = PredictConfig(overlay=False)

# Of every object: name, the frames it is on, row, column on frame 0, columns a frame. A side is 40.
Scene = list[tuple[str, range, int, int, int]]
LENGTH = 14
SCENE: Scene = [
    ("red", range(14), 8, 8, 4),
    ("green", range(4, 14), 52, 100, -4),
    ("blue", range(9), 8, 112, 0),
]


class SquareFinder(nn.Module):
    """A model with a known answer: a query for every colour, "no object" where it is not seen.

    The order of its queries changes from clip to clip, as nothing ties a query to an object.
    """

    config = IFCConfig(
        class_names=tuple(COLOURS),
        category_ids=(7, 5, 3),
        pixels=PixelConfig(mean=(0, 0, 0), std=(255, 255, 255)),
        clip_length=4,
        clip_stride=2,
        test_short_side=96,
    )

    def __init__(self, longest_clip: int = 10**6) -> None:
        super().__init__()
        self.longest_clip = longest_clip
        self.encoded = 0
        self.clips: list[tuple[int, int]] = []  # B, T

    def encode_frames(self, pixels: Tensor) -> FrameFeatures:
        self.encoded += len(pixels)
        cells = [F.avg_pool2d(pixels, stride, ceil_mode=True) for stride in (32, 16, 8)]
        return FrameFeatures(cells[0], tuple(cells[1:]), None)

    def decode_clips(self, features: FrameFeatures, num_frames: int) -> ClipOutput:
        if num_frames > self.longest_clip:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        frames = features.laterals[-1].unflatten(0, (-1, num_frames))  # [B, T, 3, h, w]
        colours = torch.tensor(list(COLOURS.values())) / 255
        distance = (frames[:, None] - colours[:, None, :, None, None]).norm(dim=3)
        masks = 20 * (0.4 - distance)  # [B, 3, T, h, w]
        seen = (masks > 0).flatten(2).any(2)
        logits = torch.where(
            seen[..., None],
            torch.tensor([[4.0, 0, 0, 0], [0, 3, 0, 0], [0, 0, 2, 0]]),
            torch.tensor([0.0, 0, 0, 3]),
        )
        order = torch.arange(3).roll(len(self.clips))
        self.clips.append((len(frames), num_frames))
        return ClipOutput(logits[:, order], masks[:, order])


def score_of(name: str) -> float:
    strength = {"red": 4.0, "green": 3.0, "blue": 2.0}[name]
    return float(np.exp(strength) / (np.exp(strength) + 3))


def loaded(model: nn.Module | None = None) -> LoadedModel:
    model = model or SquareFinder()
    config: Any = model.config
    header = WeightsHeader(Path("squares.safetensors"), config, {})
    return LoadedModel(model, header, "0" * 64)  # type: ignore[arg-type]


def truth(scene: Scene, name: str, frame: int) -> np.ndarray | None:
    """The mask of an object, None where it is absent."""
    for other, frames, row, column, speed in scene:
        if other == name and frame in frames:
            left = column + speed * frame
            mask = np.zeros(SIZE, dtype=bool)
            mask[row : row + 40, left : left + 40] = True
            return mask
    return None


def pictures(scene: Scene, length: int) -> Iterator[np.ndarray]:
    for frame in range(length):
        image = np.full((*SIZE, 3), 110, np.uint8)
        for name, *_ in scene:
            mask = truth(scene, name, frame)
            if mask is not None:
                image[mask] = COLOURS[name]
        yield image


def save_frames(folder: Path, scene: Scene = SCENE, length: int = LENGTH) -> Path:
    """A folder of frames, which vistool shows at 10 a second."""
    folder.mkdir(parents=True)
    for i, image in enumerate(pictures(scene, length)):
        cv2.imwrite(str(folder / f"{i:03}.png"), image[..., ::-1])
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_frames(tmp_path / "squares")


def outcome(folder: Path) -> tuple[list[TrackSegmentation], VideoMeta]:
    return read_results(folder / "results.json"), read_meta(folder / "meta.json")


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def assert_tracks_follow_the_squares(
    results: list[TrackSegmentation], seen: range, names: tuple[str, ...] = ("red", "green", "blue")
) -> None:
    """One track an object, on exactly the frames it is on; `seen`: frames the model saw."""
    name_of = dict(zip((7, 5, 3), COLOURS, strict=True))
    assert [name_of[r["category_id"]] for r in results] == list(names)
    for result, name in zip(results, names, strict=True):
        for frame, mask in enumerate(result["segmentations"]):
            expected = truth(SCENE, name, frame) if frame in seen else None
            assert (mask is None) == (expected is None), (name, frame)
            if mask is not None and expected is not None:
                # A mask's outline is only known to a cell of 8 pixels; a square has 40.
                assert overlap(decode_mask(mask), expected) > 0.8


class DoubleFinder(SquareFinder):
    """Finds the red square twice: once more as a green one, a little smaller and less sure."""

    def __init__(self, scoring: Scoring) -> None:
        super().__init__()
        self.config = msgspec.structs.replace(SquareFinder.config, scoring=scoring)

    def decode_clips(self, features: FrameFeatures, num_frames: int) -> ClipOutput:
        found = super().decode_clips(features, num_frames)
        red = found.class_logits[..., 0].argmax(1)
        masks = found.mask_logits[torch.arange(len(red)), red][:, None] - 0.5
        logits = torch.tensor([0.0, 2.5, 0, 0]).expand(len(red), 1, -1)
        return ClipOutput(
            torch.cat([found.class_logits, logits], 1), torch.cat([found.mask_logits, masks], 1)
        )


@pytest.mark.parametrize(
    ("scoring", "max_overlap", "times"),
    [
        ("mask-aware", None, 1),
        ("mask-aware", 1.0, 2),
        ("published", None, 2),
        ("published", 0.5, 1),
    ],
)
def test_of_two_tracks_on_one_instance_the_surer_is_reported(
    tmp_path: Path, source: Path, scoring: Scoring, max_overlap: float | None, times: int
) -> None:
    model = loaded(DoubleFinder(scoring))
    config = PredictConfig(conf=0.2, max_overlap=max_overlap, overlay=False)
    predict_video(model, source, tmp_path / "run", config)
    results, _ = outcome(tmp_path / "run")
    assert sorted(r["category_id"] for r in results) == sorted([7, 5, 3, *[5] * (times - 1)])
    for frame in iterate_video(model, source, config):
        names = [instance.class_name for instance in frame.instances]
        assert names.count("red") == 1
        assert names.count("green") == (4 <= frame.index < 14) + (times - 1)


@pytest.mark.parametrize("overlap", [-0.1, 1.1])
def test_an_overlap_is_a_share(tmp_path: Path, source: Path, overlap: float) -> None:
    with pytest.raises(UsageError, match="an IoU lies between 0 and 1"):
        predict_video(loaded(), source, tmp_path / "run", PredictConfig(max_overlap=overlap))


@pytest.mark.parametrize(
    ("clip_length", "clip_stride", "batch"),
    [(None, None, None), (4, 1, 8), (5, 3, 4), (14, 1, 4), (40, 1, 4), ("all", None, 5)],
)
def test_tracks_follow_the_squares_whatever_the_clips(
    tmp_path: Path, source: Path, clip_length: Any, clip_stride: int | None, batch: int | None
) -> None:
    model = SquareFinder()
    config = PredictConfig(
        clip_length=clip_length, clip_stride=clip_stride, batch=batch, overlay=False
    )
    predicted = predict_video(loaded(model), source, tmp_path / "run", config)
    results, meta = outcome(tmp_path / "run")
    assert_tracks_follow_the_squares(results, range(LENGTH))
    assert (predicted.frames, predicted.tracks) == (LENGTH, 3)
    assert [r["score"] for r in results] == pytest.approx([score_of(n) for n in COLOURS])
    assert meta.length == len(meta.times) == LENGTH
    assert meta.complete
    assert [(t.first_frame, t.last_frame) for t in meta.tracks] == [(0, 13), (4, 13), (0, 8)]
    assert model.encoded == LENGTH  # every frame through the backbone once


@pytest.mark.parametrize(
    "size", [Size(96, 160), Size(101, 163), Size(163, 101), Size(1080, 1920), Size(50, 75)]
)
def test_masks_sit_on_the_objects_in_pictures_of_any_size_and_shape(size: Size) -> None:
    """Portrait, odd sides, enlarged or reduced for the model: a corner object is covered."""
    square = min(size) * 2 // 5
    for corner in (np.s_[:square, :square], np.s_[-square:, -square:]):
        expected = np.zeros(size, dtype=bool)
        expected[corner] = True
        image = np.full((*size, 3), 110, np.uint8)
        image[corner] = COLOURS["red"]
        segmenter = Segmenter(SquareFinder(), PredictConfig(clip_length=1), CPU)
        (frame,) = segmenter.frames([VideoFrame(0, 0.0, image)])
        assert frame.tracks is not None
        ((_, mask),) = masks_at(frame.tracks, size)
        # Cells of 8 pixels, of which the last row and column may hang over the picture's edge.
        assert overlap(mask, expected) > 0.75


def test_frames_the_model_does_not_see_have_no_masks(tmp_path: Path, source: Path) -> None:
    model = SquareFinder()
    config = PredictConfig(frame_stride=3, clip_length=2, clip_stride=1, overlay=False)
    predict_video(loaded(model), source, tmp_path / "run", config)
    results, meta = outcome(tmp_path / "run")
    assert_tracks_follow_the_squares(results, range(0, LENGTH, 3))
    assert model.encoded == len(range(0, LENGTH, 3))
    assert meta.frame_stride == 3
    seen = [frame.seen for frame in iterate_video(loaded(), source, config)]
    assert seen == [i % 3 == 0 for i in range(LENGTH)]


def test_start_and_end_choose_the_frames(tmp_path: Path, source: Path) -> None:
    config = PredictConfig(start=0.3, end=1.0, overlay=False)
    predict_video(loaded(), source, tmp_path / "run", config)
    results, meta = outcome(tmp_path / "run")
    assert (meta.first_frame, meta.length) == (3, 7)
    assert meta.times == pytest.approx([i / 10 for i in range(3, 10)])
    for result, name in zip(results, COLOURS, strict=True):
        present = [mask is not None for mask in result["segmentations"]]
        assert present == [truth(SCENE, name, i) is not None for i in range(3, 10)]


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (PredictConfig(conf=0.8, overlay=False), ("red", "green")),
        (PredictConfig(classes=("blue", "green"), overlay=False), ("green", "blue")),
        (PredictConfig(conf=0.99, overlay=False), ()),
    ],
)
def test_only_likely_tracks_of_wanted_classes_are_reported(
    tmp_path: Path, source: Path, config: PredictConfig, names: tuple[str, ...]
) -> None:
    predict_video(loaded(), source, tmp_path / "run", config)
    assert_tracks_follow_the_squares(outcome(tmp_path / "run")[0], range(LENGTH), names)
    shown = {
        i.class_name for frame in iterate_video(loaded(), source, config) for i in frame.instances
    }
    assert shown == set(names)


def test_a_video_without_objects_has_an_empty_result(tmp_path: Path) -> None:
    source = save_frames(tmp_path / "empty", [], 3)
    predicted = predict_video(loaded(), source, tmp_path / "run")
    results, meta = outcome(tmp_path / "run")
    assert (results, meta.tracks, meta.length) == ([], [], 3)
    assert predicted.overlay is not None
    assert predicted.overlay.exists()


def test_iterated_frames_carry_the_masks_of_the_results(tmp_path: Path, source: Path) -> None:
    predict_video(loaded(), source, tmp_path / "run", QUIET)
    results, meta = outcome(tmp_path / "run")
    frames = list(iterate_video(loaded(), str(source), QUIET))
    assert [frame.index for frame in frames] == list(range(LENGTH))
    assert [frame.time for frame in frames] == meta.times
    masks = {
        track.track_id: r["segmentations"] for track, r in zip(meta.tracks, results, strict=True)
    }
    for frame in frames:
        expected = {i: m[frame.index] for i, m in masks.items() if m[frame.index] is not None}
        assert {i.track_id: i.segmentation for i in frame.instances} == expected


def endless(read: list[int]) -> Iterator[VideoFrame]:
    """Frames without an end; `read` holds the number of the last."""
    for index, image in enumerate(itertools.cycle(pictures(SCENE, LENGTH))):
        read[0] = index
        yield VideoFrame(index, index / 10, image)


@pytest.mark.parametrize("frame_stride", [1, 4])
def test_frames_come_out_while_the_video_goes_on_and_little_is_kept(frame_stride: int) -> None:
    read = [0]
    config = PredictConfig(batch=4, clip_length=4, clip_stride=3, frame_stride=frame_stride)
    segmenter = Segmenter(SquareFinder(), config, CPU)
    frames = segmenter.frames(endless(read))
    # A clip and its stride, two batches, and what waits between threads, decoded or segmented.
    most = frame_stride * (4 + 3 + 2 * 4) + 2 * (4 + AHEAD + 2)
    for index, frame in enumerate(itertools.islice(frames, 300)):
        assert frame.index == index
        assert read[0] - index <= most
    frames.close()
    assert len(segmenter._windows) <= 4
    assert len(segmenter._waiting) <= most


def stop_at(done: int, error: BaseException) -> Callable[[str, int, int | None], None]:
    def on_progress(stage: str, frames: int, total: int | None) -> None:
        if (stage, frames) == ("segmenting", done):
            raise error

    return on_progress


def test_what_is_final_when_interrupted_is_written_as_a_valid_result(
    tmp_path: Path, source: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        predict_video(loaded(), source, folder, on_progress=stop_at(6, KeyboardInterrupt()))
    results, meta = outcome(folder)
    assert (meta.length, meta.complete) == (6, False)
    assert_tracks_follow_the_squares(results, range(6))
    assert {len(r["segmentations"]) for r in results} == {6}
    assert sorted(path.name for path in folder.iterdir()) == ["meta.json", "results.json"]


def test_an_interrupt_before_the_first_final_frame_leaves_nothing(
    tmp_path: Path, source: Path
) -> None:
    class Interrupted(SquareFinder):
        def decode_clips(self, features: FrameFeatures, num_frames: int) -> ClipOutput:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_video(loaded(Interrupted()), source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_result_has_its_final_name_before_it_is_complete(tmp_path: Path, source: Path) -> None:
    """So whatever kills the process, what stands there is whole."""
    folder = tmp_path / "run"
    stages: dict[str, set[str]] = {}

    def on_progress(stage: str, done: int, total: int | None) -> None:
        files = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        stages[stage] = stages.get(stage, set()) | files

    predict_video(loaded(), source, folder, on_progress=on_progress)
    assert stages == {"segmenting": set(), "drawing": {"results.json", "meta.json"}}
    assert {p.name for p in folder.iterdir()} == {"results.json", "meta.json", "overlay.mp4"}


@pytest.mark.parametrize("frame_stride", [1, 3])
def test_the_overlay_is_what_render_draws_from_the_files(
    tmp_path: Path, source: Path, frame_stride: int
) -> None:
    config = PredictConfig(start=0.2, end=1.2, frame_stride=frame_stride, classes=("green", "red"))
    overlay = predict_video(loaded(), source, tmp_path / "run", config).overlay
    again = vistool.render_video(source, tmp_path / "run", tmp_path / "again.mp4")
    assert overlay is not None
    with open_video(overlay) as one, open_video(again) as other:
        pairs = list(zip(one.frames(), other.frames(), strict=True))
    assert len(pairs) == 10
    assert all(np.array_equal(a.image, b.image) for a, b in pairs)


def test_a_new_result_does_not_stand_beside_an_old_overlay(tmp_path: Path, source: Path) -> None:
    predict_video(loaded(), source, tmp_path / "run")
    predict_video(loaded(), source, tmp_path / "run", QUIET)
    assert not (tmp_path / "run" / "overlay.mp4").exists()


def test_frames_before_a_damaged_one_are_not_lost(tmp_path: Path, source: Path) -> None:
    (source / "009.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"009\.png"):
        predict_video(loaded(), source, tmp_path / "run", QUIET)
    results, meta = outcome(tmp_path / "run")
    assert not meta.complete
    assert 0 < meta.length < 9
    assert_tracks_follow_the_squares(results, range(meta.length))


def test_one_bad_source_does_not_stop_the_others(tmp_path: Path, source: Path) -> None:
    bad = save_frames(tmp_path / "bad", SCENE, 3)
    (bad / "000.png").write_bytes(b"no picture")
    other = save_frames(tmp_path / "more" / "squares", SCENE, 5)
    failures: list[tuple[Path, VistoolError]] = []
    with pytest.raises(PartialFailureError, match=r"1 of 3 sources failed: .*bad"):
        predict_videos(
            loaded(),
            [source, bad, other],
            tmp_path / "runs",
            QUIET,
            on_failure=lambda *failure: failures.append(failure),
        )
    assert [(path, type(error)) for path, error in failures] == [(bad, DataError)]
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["squares", "squares-2"]
    assert outcome(tmp_path / "runs" / "squares-2")[1].length == 5
    with pytest.raises(DataError, match=r"000\.png"):
        predict_videos(loaded(), [bad], tmp_path / "runs", QUIET)


def test_sources_of_one_name_do_not_overwrite_each_other(tmp_path: Path, source: Path) -> None:
    other = save_frames(tmp_path / "more" / "squares", SCENE, 5)
    for _ in range(2):
        done = predict_videos(loaded(), [source, other], tmp_path / "runs", QUIET, exist_ok=True)
        assert len({video.folder for video in done}) == 2
    assert outcome(tmp_path / "runs" / "squares")[1].length == LENGTH


def test_sources_of_one_name_have_the_same_folders_again(tmp_path: Path) -> None:
    """Whatever their suffix is, and whether they are files or folders."""
    sources = [
        save_frames(tmp_path / name, SCENE, length)
        for length, name in enumerate(("seq.01", "seq.02", "more/seq.01", "seq.01-2"), start=1)
    ]
    video = tmp_path / "seq.01.mp4"
    with VideoWriter(video, SIZE, fps=10.0) as writer:
        for n, image in enumerate(pictures(SCENE, 5)):
            writer.write(image, n / 10)
    for _ in range(2):
        done = predict_videos(loaded(), [*sources, video], tmp_path / "runs", QUIET, exist_ok=True)
        assert [v.folder.name for v in done] == [
            *("seq.01", "seq.02", "seq.01-2", "seq.01-2-2", "seq.01-3"),
        ]
        assert [outcome(v.folder)[1].length for v in done] == [1, 2, 3, 4, 5]
    assert len(list((tmp_path / "runs").iterdir())) == 5


@pytest.mark.parametrize("name", ["overlay.mp4", "davis", "cutouts/001", "."])
def test_a_source_that_results_would_replace_is_refused_before_anything_is_done(
    tmp_path: Path, name: str
) -> None:
    run = tmp_path / "overlay"
    source = run / name
    if source.suffix:
        run.mkdir()
        with VideoWriter(source, SIZE, fps=10.0) as writer:
            writer.write(next(pictures(SCENE, 1)), 0.0)
    else:
        save_frames(source, SCENE, 2)
    before = sorted(tmp_path.rglob("*"))
    model = SquareFinder()
    with pytest.raises(UsageError, match="where results would be written"):
        predict_video(loaded(model), source, run)
    link = tmp_path / f"link{source.suffix}"
    link.symlink_to(source)
    with pytest.raises(UsageError, match="where results would be written"):
        predict_video(loaded(model), link, run)
    link.unlink()
    assert model.encoded == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_source_that_another_ones_results_would_replace_is_refused(
    tmp_path: Path, source: Path
) -> None:
    runs = tmp_path / "runs"
    predict_videos(loaded(), [source], runs, PredictConfig())
    overlay = runs / "squares" / "overlay.mp4"
    with pytest.raises(UsageError, match="where results would be written"):
        predict_videos(loaded(), [source, overlay], runs, QUIET, exist_ok=True)
    assert overlay.exists()
    predict_videos(loaded(), [source, overlay], runs, QUIET)  # folders of their own
    assert overlay.exists()
    assert {path.name for path in runs.iterdir()} == {"squares", "squares-2", "overlay"}


def test_a_source_may_lie_beside_its_results(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    source = save_frames(folder / "frames", SCENE, 2)
    assert predict_video(loaded(), source, folder, QUIET).frames == 2
    assert len(list(source.iterdir())) == 2


@pytest.mark.parametrize("damaged", [False, True])
def test_a_part_does_not_replace_the_results_of_a_whole_video(
    tmp_path: Path, source: Path, damaged: bool
) -> None:
    folder = tmp_path / "run"
    config = PredictConfig(save=("csv",))
    predict_video(loaded(), source, folder, config)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if damaged:
        (source / "009.png").write_bytes(b"no picture")
    for number in ("", "-2"):
        stop = None if damaged else stop_at(6, KeyboardInterrupt())
        with pytest.raises((KeyboardInterrupt, DataError)) as caught:
            predict_video(loaded(), source, folder, config, on_progress=stop)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        part = tmp_path / f"run-partial{number}"
        _, meta = outcome(part)
        assert not meta.complete
        assert (part / "tracks.csv").exists()
        assert caught.value.__notes__ == [
            f"the {meta.length} frames that were done are in {part}; {folder} keeps the results of "
            "an earlier run"
        ]


def test_a_part_replaces_another_part(tmp_path: Path, source: Path) -> None:
    for length in (6, 4):
        with pytest.raises(KeyboardInterrupt) as caught:
            predict_video(
                loaded(), source, tmp_path / "run", on_progress=stop_at(length, KeyboardInterrupt())
            )
        assert outcome(tmp_path / "run")[1].length == length
        assert caught.value.__notes__ == [
            f"the {length} frames that were done are in {tmp_path / 'run'}"
        ]


def test_an_earlier_result_is_whole_until_the_new_one_is_on_disk(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    predict_video(loaded(), source, folder, PredictConfig(save=("csv",)))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vistool.engine.predict_record.write_meta", full)
    with pytest.raises(OSError, match="No space left") as caught:
        predict_video(loaded(), source, folder, QUIET)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (note,) = caught.value.__notes__
    assert note.startswith(f"the {LENGTH} frames that were done could not be saved: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "squares"]


def test_an_interrupt_while_results_are_written_loses_nothing(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        write_meta(*arguments)

    monkeypatch.setattr("vistool.engine.predict_record.write_meta", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_video(loaded(), source, tmp_path / "run", QUIET)
    results, meta = outcome(tmp_path / "run")
    assert meta.length == LENGTH
    assert_tracks_follow_the_squares(results, range(LENGTH))


def test_an_interrupt_while_drawing_says_where_the_results_are(
    tmp_path: Path, source: Path
) -> None:
    def stop(stage: str, *_: object) -> None:
        if stage == "drawing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        predict_video(loaded(), source, tmp_path / "run", on_progress=stop)
    assert caught.value.__notes__ == [
        f"the results of all {LENGTH} frames are in {tmp_path / 'run'}"
    ]
    assert outcome(tmp_path / "run")[1].complete


@pytest.mark.parametrize("by_sqlite", [True, False])
def test_a_disk_that_refuses_one_source_does_not_stop_the_others(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, by_sqlite: bool
) -> None:
    class Refusing(SegmentationSpool):
        BATCH = 1

        def add(self, frame: int, track: int, rle: RLE) -> None:
            if self._folder.name == "squares":
                if not by_sqlite:
                    raise OSError(28, "No space left on device")
                self._db.execute("PRAGMA query_only = ON")
            super().add(frame, track, rle)

    monkeypatch.setattr("vistool.engine.predict.SegmentationSpool", Refusing)
    other = save_frames(tmp_path / "other", SCENE, 3)
    failures: list[VistoolError] = []
    with pytest.raises(PartialFailureError, match="1 of 2 sources failed"):
        predict_videos(
            loaded(),
            [source, other],
            tmp_path / "runs",
            QUIET,
            on_failure=lambda _, failure: failures.append(failure),
        )
    assert [type(failure) for failure in failures] == [VistoolError]
    told = "attempt to write a readonly database" if by_sqlite else "No space left on device"
    assert told in str(failures[0])
    assert outcome(tmp_path / "runs" / "other")[1].length == 3


def test_too_little_memory_names_a_clip_length_that_was_tried(tmp_path: Path, source: Path) -> None:
    config = PredictConfig(clip_length=9, overlay=False)
    with pytest.raises(OutOfMemoryError, match="a clip of 9 frames") as caught:
        predict_video(loaded(SquareFinder(longest_clip=3)), source, tmp_path / "run", config)
    assert caught.value.hint == "--clip-length 2 fits"
    assert not (tmp_path / "run").exists()
    hints = {}
    for batch in (4, 20):
        config = PredictConfig(clip_length=2, batch=batch, overlay=False)
        with pytest.raises(OutOfMemoryError) as caught:
            predict_video(loaded(SquareFinder(longest_clip=0)), source, tmp_path / "run", config)
        hints[batch] = caught.value.hint
    assert hints == {4: "try --batch 2", 20: "try --batch 2"}


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        (PredictConfig(classes=("red", "cat")), "unknown class 'cat'", "red, green, blue"),
        (PredictConfig(conf=1.5), "conf 1.5", ""),
        (PredictConfig(batch=0), "batch 0", ""),
        (PredictConfig(frame_stride=0), "frame stride 0", ""),
        (PredictConfig(clip_stride=5), "clip stride 5 is more than the clip length 4", "1 to 4"),
        (PredictConfig(device="cuda:99"), "cuda:99 is not available", "--device cpu"),
        (PredictConfig(device="tpu"), "unknown device 'tpu'", "cuda:0"),
        (PredictConfig(start=2.0, end=1.0), "no time lies between", ""),
        (PredictConfig(end=float("inf")), "end inf: not a number of seconds", ""),
        (PredictConfig(start=float("nan")), "start nan: not a number of seconds", ""),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_written(
    tmp_path: Path, source: Path, config: PredictConfig, message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        predict_videos(loaded(), [source], tmp_path / "runs", config)
    assert hint in caught.value.hint
    assert not list(tmp_path.glob("runs/*"))


def test_a_cpu_computes_in_float32_unless_asked_otherwise() -> None:
    assert choose_dtype("auto", choose_device("cpu")) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        choose_dtype("fp8", CPU)  # type: ignore[arg-type]


def test_in_bfloat16_the_recorded_model_finds_nearly_the_same_masks() -> None:
    frames = list(recorded_frames(0))
    masks = {}
    for precision in ("fp32", "bf16"):
        segmenter, found = segmented(frames, clip_length=3, clip_stride=1, precision=precision)
        assert segmenter.class_probs().dtype == torch.float32
        masks[precision] = [f.tracks.mask_logits for f in found if f.tracks]
    assert all(m.dtype == torch.float32 for m in masks["bf16"])
    same = [
        ((a.amax(0) > 0) == (b.amax(0) > 0)).float().mean()
        for a, b in zip(masks["fp32"], masks["bf16"], strict=True)
    ]
    assert min(same) > 0.98


# What the published code made of whole videos.
CASES = recorded_json("ifc/small_meta")["e2e"]


def recorded_frames(number: int) -> Iterator[VideoFrame]:
    for index, frame in enumerate(recorded("ifc/small_e2e")[f"v{number}.in"]):
        image = np.ascontiguousarray(frame.permute(1, 2, 0).numpy())
        yield VideoFrame(index, index / 10, image)


def segmented(frames: list[VideoFrame], **settings: Any) -> tuple[Segmenter, list[SegmentedFrame]]:
    config = PredictConfig(size=min(frames[0].image.shape[:2]), **settings)
    segmenter = Segmenter(small_ifc(), config, CPU)
    return segmenter, list(segmenter.frames(frames))


@pytest.mark.parity
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_streamed_video_gives_the_recorded_masks_and_scores(number: int, batch: int) -> None:
    """Near-online with strides 1 to 3, and offline where the clip is longer than the video."""
    about, record = CASES[number], recorded("ifc/small_e2e")
    segmenter, frames = segmented(
        list(recorded_frames(number)),
        clip_length=about["T"],
        clip_stride=about["stride"],
        batch=batch,
    )
    # The record's own float32 is 1e-4 off its float64 for one clip; ours sums in another order.
    tolerance: dict[str, Any] = {"rtol": 0, "atol": 5e-4}
    class_probs = segmenter.class_probs()
    torch.testing.assert_close(class_probs, record[f"v{number}.avg_cls"][:, :-1], **tolerance)
    logits = torch.full_like(record[f"v{number}.avg_logits"], torch.nan)
    masks = torch.zeros_like(record[f"v{number}.track_masks"])
    size = Size(about["out_h"], about["out_w"])
    for frame in frames:
        assert frame.tracks is not None
        rows = torch.tensor(frame.tracks.track_ids) - 1
        logits[rows, frame.index] = frame.tracks.mask_logits
        for track_id, mask in masks_at(frame.tracks, size):
            masks[track_id - 1, frame.index] = torch.from_numpy(mask)
    expected = record[f"v{number}.avg_logits"]
    torch.testing.assert_close(logits, expected, equal_nan=True, **tolerance)
    # Masks may differ only where the logit, enlarged as published, is 0 within the tolerance.
    enlarged = F.interpolate(expected.nan_to_num(-1), size, mode="bilinear")
    unlike = masks != record[f"v{number}.track_masks"]
    assert (enlarged[unlike].abs() < 5e-4).all()
    results = (
        results_multi_class(class_probs)
        if about["multi_cls"]
        else results_single_class(class_probs)
    )
    assert [r.label for r in results] == record[f"v{number}.labels"].tolist()
    assert [r.track_id - 1 for r in results] == record[f"v{number}.result_track"].tolist()
    scores = torch.tensor([r.score for r in results])
    torch.testing.assert_close(scores, record[f"v{number}.scores"], **tolerance)


@pytest.mark.parity
def test_the_whole_video_as_one_clip_is_the_recorded_offline_mode() -> None:
    number = next(i for i, about in enumerate(CASES) if about["T"] >= about["length"])
    segmenter, _ = segmented(list(recorded_frames(number)), clip_length="all")
    torch.testing.assert_close(
        segmenter.class_probs(),
        recorded("ifc/small_e2e")[f"v{number}.avg_cls"][:, :-1],
        rtol=0,
        atol=5e-4,
    )


def test_the_public_names_can_be_had_and_cost_nothing_before() -> None:
    assert {name for name in vistool.__all__ if not hasattr(vistool, name)} == set()
    assert set(vistool.__all__) <= set(dir(vistool))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vistool.nothing  # noqa: B018 - the access is the test
