"""Predict: the tracks, frames and files that it gives, with a model that sees coloured squares."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

import vistool
from tests.made_squares import (
    COLOURS,
    LENGTH,
    QUIET,
    SCENE,
    SquareFinder,
    assert_tracks_follow_the_squares,
    loaded,
    outcome,
    overlap,
    pictures,
    predict_into,
    save_frames,
    score_of,
    source,
    truth,
)
from vistool.config import PredictConfig, Scoring
from vistool.engine.device import choose_device, choose_dtype
from vistool.engine.predict.job import PredictJob
from vistool.engine.predict.segment import AHEAD, Segmenter
from vistool.engine.predict.sources import predict_videos
from vistool.engine.predict.video import iterate
from vistool.engine.tracked_video import TrackedFrame
from vistool.errors import UsageError
from vistool.formats.video.reader import open_video
from vistool.models.checkpoints.files import LoadedModel
from vistool.structures import ClipOutput, FrameFeatures, Size, VideoFrame
from vistool.tracking.postprocess import masks_at

__all__ = ["source"]  # a fixture
CPU = torch.device("cpu")


def streamed(model: LoadedModel, source: Path, config: PredictConfig) -> Iterator[TrackedFrame]:
    with open_video(source) as reader:
        job = PredictJob(model, config)
        yield from iterate(job, reader, job.segmenter())


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
    predicted = predict_into(loaded(model), source, tmp_path / "run", config)
    results, meta = outcome(tmp_path / "run")
    assert_tracks_follow_the_squares(results, range(LENGTH))
    assert (len(predicted.frames), len(predicted.tracks)) == (LENGTH, 3)
    assert [r["score"] for r in results] == pytest.approx([score_of(n) for n in COLOURS])
    assert meta.length == len(meta.times) == LENGTH
    assert meta.complete
    assert [list(t.frames) for t in predicted.tracks] == [
        *(list(range(14)), list(range(4, 14)), list(range(9))),
    ]
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
    predict_into(loaded(model), source, tmp_path / "run", config)
    results, meta = outcome(tmp_path / "run")
    assert_tracks_follow_the_squares(results, range(0, LENGTH, 3))
    assert model.encoded == len(range(0, LENGTH, 3))
    assert meta.frame_stride == 3
    seen = [frame.seen for frame in streamed(loaded(), source, config)]
    assert seen == [i % 3 == 0 for i in range(LENGTH)]


def test_start_and_end_choose_the_frames(tmp_path: Path, source: Path) -> None:
    config = PredictConfig(start=0.3, end=1.0, overlay=False)
    predict_into(loaded(), source, tmp_path / "run", config)
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
    predict_into(loaded(), source, tmp_path / "run", config)
    assert_tracks_follow_the_squares(outcome(tmp_path / "run")[0], range(LENGTH), names)
    shown = {
        track.class_name
        for frame in streamed(loaded(), source, config)
        for track, _ in frame.instances
    }
    assert shown == set(names)


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
    predict_into(model, source, tmp_path / "run", config)
    results, _ = outcome(tmp_path / "run")
    assert sorted(r["category_id"] for r in results) == sorted([7, 5, 3, *[5] * (times - 1)])
    for frame in streamed(model, source, config):
        names = [track.class_name for track, _ in frame.instances]
        assert names.count("red") == 1
        assert names.count("green") == (4 <= frame.index < 14) + (times - 1)


def test_a_video_without_objects_has_an_empty_result(tmp_path: Path) -> None:
    source = save_frames(tmp_path / "empty", [], 3)
    predicted = predict_into(loaded(), source, tmp_path / "run")
    results, meta = outcome(tmp_path / "run")
    assert (results, predicted.tracks, meta.length) == ([], (), 3)
    assert (tmp_path / "run" / "overlay.mp4").exists()


def test_streamed_frames_carry_the_masks_of_the_results(source: Path) -> None:
    frames = list(streamed(loaded(), source, QUIET))
    assert [frame.index for frame in frames] == list(range(LENGTH))
    with vistool.predict(source, model=loaded()) as video:
        assert [frame.time for frame in frames] == video.times
        for frame, final in zip(frames, video.frames, strict=True):
            masks = {track.class_name: rle for track, rle in frame.instances}
            assert masks == {track.class_name: rle for track, rle in final.instances}


class FadingFinder(SquareFinder):
    """After the first clip, the blue square is most likely no object."""

    def decode_clips(self, features: FrameFeatures, num_frames: int) -> ClipOutput:
        found = super().decode_clips(features, num_frames)
        if len(self.clips) == 1:
            return found
        blue = found.class_logits[..., 2:3] == 2
        logits = torch.where(blue, torch.tensor([0.0, 0, 0.2, 0]), found.class_logits)
        return ClipOutput(logits, found.mask_logits)


def test_results_number_what_they_report_and_streams_what_they_have_shown(source: Path) -> None:
    """Blue is shown at first, but not likely enough in the end."""
    config = PredictConfig(batch=1)
    with vistool.predict(source, model=loaded(), batch=1) as video:
        ids = {track.class_name: track.id for track in video.tracks}
    assert ids == {"red": 1, "blue": 2, "green": 3}
    with vistool.predict(source, model=loaded(FadingFinder()), batch=1) as video:
        assert [(track.class_name, track.id) for track in video.tracks] == [
            ("red", 1),
            ("green", 2),
        ]
    shown: dict[str, int] = {}
    for frame in streamed(loaded(FadingFinder()), source, config):
        assert frame.track_ids.tolist() == sorted(frame.track_ids)
        for track, _ in frame.instances:
            assert shown.setdefault(track.class_name, track.id) == track.id
    assert shown == {"red": 1, "blue": 2, "green": 3}


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


@pytest.mark.parametrize("frame_stride", [1, 3])
def test_the_overlay_is_what_render_draws_from_the_files(
    tmp_path: Path, source: Path, frame_stride: int
) -> None:
    config = PredictConfig(start=0.2, end=1.2, frame_stride=frame_stride, classes=("green", "red"))
    predict_into(loaded(), source, tmp_path / "run", config)
    with vistool.load(tmp_path / "run") as video:
        again = video.render(tmp_path / "again.mp4")
    with open_video(tmp_path / "run" / "overlay.mp4") as one, open_video(again) as other:
        pairs = list(zip(one.frames(), other.frames(), strict=True))
    assert len(pairs) == 10
    assert all(np.array_equal(a.image, b.image) for a, b in pairs)


def test_a_new_result_does_not_stand_beside_an_old_overlay(tmp_path: Path, source: Path) -> None:
    predict_into(loaded(), source, tmp_path / "run")
    predict_into(loaded(), source, tmp_path / "run", QUIET)
    assert not (tmp_path / "run" / "overlay.mp4").exists()


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


@pytest.mark.parametrize("overlap", [-0.1, 1.1])
def test_an_overlap_is_a_share(tmp_path: Path, source: Path, overlap: float) -> None:
    with pytest.raises(UsageError, match="an IoU lies between 0 and 1"):
        predict_into(loaded(), source, tmp_path / "run", PredictConfig(max_overlap=overlap))


def test_a_cpu_computes_in_float32_unless_asked_otherwise() -> None:
    assert choose_dtype("auto", choose_device("cpu")) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        choose_dtype("fp8", CPU)  # type: ignore[arg-type]


def test_the_public_names_can_be_had_and_cost_nothing_before() -> None:
    assert {name for name in vistool.__all__ if not hasattr(vistool, name)} == set()
    assert set(vistool.__all__) <= set(dir(vistool))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vistool.nothing  # noqa: B018 - the access is the test
