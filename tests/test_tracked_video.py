"""Tracked videos: read back as they were saved, written in one pass, deleted when they go."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import supervision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vistool
from tests.conftest import ShapesVideo
from tests.made_squares import LENGTH, SCENE, loaded, pictures, predict_into, source
from tests.test_results import mask_of
from tests.untrained import save_untrained
from vistool.config import OverlayOptions, OverlayStyle, PredictConfig, PredictOptions
from vistool.engine.predict.job import PredictJob
from vistool.engine.predict.video import predict_opened
from vistool.engine.tracked_video import TrackedVideo
from vistool.engine.writers import OUTPUTS, Output, WriteFrame, save_results
from vistool.errors import DataError, UsageError, VistoolError
from vistool.formats.files import atomic_path
from vistool.formats.results.files import Category, VideoMeta
from vistool.formats.results.spool import SegmentationSpool
from vistool.formats.video.reader import VideoReader, open_video
from vistool.structures import RLE, Track, VideoFrame

__all__ = ["source"]  # a fixture

# Read back -------------------------------------------------------------------------------------


def no_source() -> VideoReader:
    raise AssertionError("no picture is wanted")


@st.composite
def videos(draw: st.DrawFn) -> dict[str, Any]:
    """Facts, and tracks with their masks by frame, of videos of 5x6 pixels."""
    length, stride = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    seen = range(0, length, stride)
    times = sorted(draw(st.sets(st.floats(0, 1e4, width=32), min_size=length, max_size=length)))
    names = draw(st.lists(st.text(max_size=5), min_size=1, max_size=3))
    meta = VideoMeta(
        source=draw(st.text(max_size=9)),
        video_id=draw(st.integers(1, 9)),
        width=6,
        height=5,
        length=length,
        complete=draw(st.booleans()),
        first_frame=draw(st.integers(0, 99)),
        times=times,
        frame_stride=stride,
        rotation=90,
        fps=draw(st.floats(1, 100)),
        categories=[Category(id=3 * i, name=name) for i, name in enumerate(names)],
        model={"name": "any"},
        settings={"conf": 0.3, "end": None, "overlay": False, "save": []},
        versions={},
    )
    masks = st.dictionaries(st.sampled_from(seen), st.integers(1, 2**30 - 1), min_size=1)
    found = draw(st.dictionaries(st.integers(1, 500), masks, max_size=5))
    scores = st.lists(st.floats(0, 1), min_size=len(found), max_size=len(found))
    classes = [draw(st.integers(0, len(names) - 1)) for _ in found]
    tracks = [
        (Track(id_, 3 * label, names[label], score, array("I", sorted(numbers))), numbers)
        for (id_, numbers), label, score in zip(found.items(), classes, draw(scores), strict=True)
    ]
    return {"meta": meta, "tracks": tracks}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(made=videos())
def test_a_saved_video_is_read_back_as_it_was(made: dict[str, Any], tmp_path: Path) -> None:
    with SegmentationSpool(tmp_path) as spool:
        numbered = []
        for number, (track, masks) in enumerate(made["tracks"], start=10):
            for frame, bits in masks.items():
                spool.add(frame, number, mask_of(bits))
            numbered.append((track, number))
        video = TrackedVideo(made["meta"], numbered, spool, no_source, name="made")
        save_results(video, tmp_path / "run", [])
        with vistool.load(tmp_path / "run") as again:
            assert again == video
            assert list(again.entries()) == list(video.entries())
            for frame, same in zip(video.frames, again.frames, strict=True):
                assert frame.as_dict() == same.as_dict()


def test_videos_that_differ_in_one_mask_are_not_equal(tmp_path: Path, source: Path) -> None:
    with vistool.predict(source, model=loaded()) as video:
        video.save(tmp_path / "run", overlay=False)
    results = tmp_path / "run" / "results.json"
    entries = json.loads(results.read_text())
    with vistool.load(tmp_path / "run") as one:
        masks = entries[0]["segmentations"]
        masks[3], masks[4] = masks[4], masks[3]
        results.write_text(json.dumps(entries))
        with vistool.load(tmp_path / "run") as other:
            assert one.tracks == other.tracks
            assert one != other


def test_the_meta_file_of_an_earlier_version_is_read(tmp_path: Path, source: Path) -> None:
    """Its tracks have any ids, in no order."""
    predict_into(loaded(), source, tmp_path / "run", PredictConfig(overlay=False))
    meta = tmp_path / "run" / "meta.json"
    content = json.loads(meta.read_text())
    for line, id_ in zip(content["tracks"], (14, 9, 48), strict=True):
        line["track_id"] = id_
    meta.write_text(json.dumps(content))
    with vistool.load(tmp_path / "run") as video:
        assert [track.id for track in video.tracks] == [14, 9, 48]
        assert video.frames[5].track_ids.tolist() == [9, 14, 48]
        assert video.frames[5].class_names.tolist() == ["green", "red", "blue"]


# Frames ----------------------------------------------------------------------------------------


def test_a_frame_has_its_tracks_as_arrays(source: Path) -> None:
    with vistool.predict(source, model=loaded()) as video:
        frame, empty = video.frames[5], video.frames[-1]
        assert (len(video.frames), frame.index, frame.time) == (LENGTH, 5, 0.5)
        assert frame.class_names.tolist() == ["red", "blue", "green"]
        assert frame.class_ids.tolist() == [7, 3, 5]
        assert frame.track_ids.tolist() == [1, 2, 3]
        assert frame.scores.tolist() == [track.score for track, _ in frame.instances]
        assert frame.masks.shape == (3, *video.size)
        for mask, (left, top, right, bottom) in zip(frame.masks, frame.boxes, strict=True):
            ys, xs = mask.nonzero()
            assert (left, top) == (xs.min(), ys.min())
            assert (right, bottom) == (xs.max() + 1, ys.max() + 1)
        assert [track.class_name for track, _ in empty.instances] == ["red", "green"]
        for track in video.tracks:
            on = [n for n, one in enumerate(video.frames) if track.id in one.track_ids]
            assert list(track.frames) == on
    assert [frame.dtype for frame in (frame.boxes, frame.scores)] == [np.float32, np.float64]


def test_supervision_has_the_same_boxes_as_its_own_of_the_masks(source: Path) -> None:
    with vistool.predict(source, model=loaded()) as video:
        for frame in video.frames:
            found: Any = frame.to_supervision()
            assert (found.xyxy == supervision.mask_to_xyxy(found.mask)).all()
            assert found.tracker_id.tolist() == frame.track_ids.tolist()
            assert found.class_id.tolist() == frame.class_ids.tolist()
            assert found["class_name"].tolist() == frame.class_names.tolist()
            assert found.confidence.tolist() == frame.scores.tolist()
    with vistool.predict(source, model=loaded(), conf=1.0) as video:
        assert len(video.frames[0].to_supervision()) == 0


def test_without_supervision_there_is_one_line(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with vistool.predict(source, model=loaded()) as video, pytest.raises(UsageError) as told:
        video.frames[0].to_supervision()
    assert told.value.hint == "pip install supervision"


def test_frames_and_videos_show_themselves(source: Path) -> None:
    with vistool.predict(source, model=loaded()) as video:
        png = video.frames[3]._repr_png_()
        assert png is not None
        shown = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        assert shown is not None
        assert (shown[..., ::-1] == video.frames[3].plot()).all()
        page = video._repr_html_()
        assert page.count("<tr>") == 1 + len(video.tracks)
        assert "data:image/png;base64," in page
    assert "data:image" not in video._repr_html_()  # it is closed
    with vistool.predict(pictures(SCENE, 3), fps=10, model=loaded()) as video:
        assert video.frames[0]._repr_png_() is None
        assert "red" in video._repr_html_()


def test_class_names_are_no_markup(source: Path, tmp_path: Path) -> None:
    with vistool.predict(source, model=loaded()) as video:
        video.save(tmp_path / "run", overlay=False)
    meta = tmp_path / "run" / "meta.json"
    meta.write_text(meta.read_text().replace('"name":"red"', '"name":"<b>red"'))
    with vistool.load(tmp_path / "run") as video:
        assert "&lt;b&gt;red" in video._repr_html_()
        assert "<b>" not in video._repr_html_()


def test_a_frame_without_tracks_has_empty_arrays(source: Path) -> None:
    with vistool.predict(source, model=loaded(), conf=1.0) as video:
        frame = video.frames[0]
        assert (frame.masks.shape, frame.boxes.shape) == ((0, *video.size), (0, 4))
        assert frame.class_names.tolist() == frame.track_ids.tolist() == []
        assert (frame.plot() == frame.image).all()


def test_pictures_can_be_had_in_any_order(shapes_video: ShapesVideo) -> None:
    with vistool.predict(shapes_video.path, model=loaded(), start=0.5) as video:
        first = video.meta.first_frame
        for position in (3, 3, 9, 0, 17, 16):
            image = video.frames[position].image
            assert (image == shapes_video.images[first + position]).all()
            image[:] = 0  # of no consequence: it is a copy
        pairs = list(zip(video.frames, shapes_video.images[first:], strict=True))
        assert all((frame.image == image).all() for frame, image in pairs)
        assert [frame.index for frame in video.frames[2:5]] == [first + 2, first + 3, first + 4]
        with pytest.raises(IndexError):
            video.frames[len(video.frames)]


def test_frames_that_were_not_seen_are_drawn_with_the_masks_of_the_last(source: Path) -> None:
    with vistool.predict(source, model=loaded(), frame_stride=3) as video:
        for frames in (list(video.frames), [video.frames[n] for n in range(LENGTH)]):
            for position, frame in enumerate(frames):
                assert frame.seen == (position % 3 == 0)
                assert frame.shown == frames[position - position % 3].instances
                assert frame.instances == (frame.shown if frame.seen else ())


# Arrays ----------------------------------------------------------------------------------------


def test_arrays_give_the_tracks_of_their_video(source: Path) -> None:
    images = (image for image in pictures(SCENE, LENGTH))
    with (
        vistool.predict(images, fps=10, model=loaded()) as given,
        vistool.predict(source, model=loaded()) as read,
    ):
        assert given.tracks == read.tracks
        assert [frame.shown for frame in given.frames] == [frame.shown for frame in read.frames]
        assert given.times == read.times
        with pytest.raises(UsageError, match="were not kept") as refused:
            given.frames[0].image  # noqa: B018 - the access is the test
        assert "keep_images=True" in refused.value.hint


def test_kept_arrays_can_be_drawn_and_saved(tmp_path: Path, source: Path) -> None:
    reused = np.empty((96, 160, 3), np.uint8)

    def images() -> Generator[np.ndarray, None, None]:
        """In the same memory each time, as a camera's may be."""
        for image in pictures(SCENE, LENGTH):
            reused[:] = image
            yield reused

    with (
        vistool.predict(images(), fps=10, model=loaded(), keep_images=True) as given,
        vistool.predict(source, model=loaded()) as read,
    ):
        for frame, same in zip(given.frames, read.frames, strict=True):
            assert (frame.plot() == same.plot()).all()
        given.save(tmp_path / "run", also=("cutouts",))
    with open_video(tmp_path / "run" / "overlay.mp4") as reader:
        assert len(list(reader.frames())) == LENGTH


@pytest.mark.parametrize(
    ("images", "fps", "kind", "told"),
    [
        ([], 10, DataError, "no pictures"),
        ([np.zeros((4, 6, 3), np.uint8)], None, UsageError, "no time stamps"),
        ([np.zeros((4, 6, 3), np.uint8)], 0, UsageError, "fps 0"),
        ([np.zeros((4, 6, 3))], 10, DataError, r"picture 0 is float64 \(4, 6, 3\)"),
        (
            [np.zeros((4, 6, 3), np.uint8), np.zeros((4, 8, 3), np.uint8)],
            *(10, DataError, r"picture 1 is uint8 \(4, 8, 3\)"),
        ),
        ([np.zeros((4, 6), np.uint8)], 10, DataError, r"picture 0 is uint8 \(4, 6\)"),
    ],
)
def test_arrays_that_are_no_video_are_refused(
    images: list[np.ndarray], fps: float | None, kind: type[VistoolError], told: str
) -> None:
    with pytest.raises(kind, match=told):
        vistool.predict(images, fps=fps, model=loaded())


# One pass --------------------------------------------------------------------------------------


class CountingReader(VideoReader):
    """Counts how often the video is decoded; the second time may end early."""

    def __init__(self, path: Path, second: int | None = None) -> None:
        self._inner, self._second = open_video(path), second
        for name in (
            "path",
            "size",
            "fps",
            "frame_count_hint",
            "rotation",
            "warnings",
            "incomplete",
        ):
            setattr(self, name, getattr(self._inner, name))
        self.pixel_aspect, self.has_audio = self._inner.pixel_aspect, self._inner.has_audio
        self.decodes = 0

    def close(self) -> None:
        self._inner.close()

    def frames(
        self, *, start: float | None = None, end: float | None = None
    ) -> Generator[VideoFrame, None, None]:
        self.decodes += 1
        for frame in self._inner.frames(start=start, end=end):
            if self.decodes == 2 and frame.index == self._second:
                return
            yield frame

    def _pictures(
        self, first: float, beyond: float
    ) -> Generator[tuple[float, np.ndarray | None], None, None]:
        raise AssertionError("frames() is replaced")


EVERYTHING = ("csv", "jsonl", "davis", "mots", "cutouts")


@pytest.mark.parametrize(
    ("config", "decodes", "passes"),
    [
        (PredictConfig(save=EVERYTHING), 2, 1),
        (PredictConfig(save=EVERYTHING, overlay=False, frame_stride=3), 2, 1),
        (PredictConfig(save=("csv", "jsonl", "davis", "mots"), overlay=False), 1, 1),
        (PredictConfig(overlay=False), 1, 0),
    ],
)
def test_all_outputs_are_made_in_one_pass(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: PredictConfig,
    decodes: int,
    passes: int,
) -> None:
    read: Counter[int] = Counter()

    class CountingSpool(SegmentationSpool):
        def frame(self, frame: int) -> list[tuple[int, RLE]]:
            read[frame] += 1
            return super().frame(frame)

    monkeypatch.setattr("vistool.engine.predict.video.SegmentationSpool", CountingSpool)
    reader = CountingReader(source)
    predict_opened(PredictJob(loaded(), config), reader, tmp_path / "run")
    assert reader.decodes == decodes
    seen = range(0, LENGTH, config.frame_stride)
    assert read == Counter(dict.fromkeys(seen, passes) if passes else {})


def test_a_source_that_ends_early_costs_only_what_is_made_of_its_pictures(
    tmp_path: Path, source: Path
) -> None:
    config, run = PredictConfig(save=EVERYTHING), tmp_path / "run"
    reader = CountingReader(source, second=8)
    with pytest.raises(VistoolError) as caught:
        predict_opened(PredictJob(loaded(), config), reader, run)
    for kind in ("cutouts", "overlay"):
        assert f"{kind}: tracks of {source}: results of {LENGTH} frames, but" in str(caught.value)
    assert {path.name for path in run.iterdir()} == {
        *("results.json", "meta.json", "tracks.csv", "frames.jsonl", "davis"),
        *("mots.txt", "mots_categories.json"),
    }
    assert len((run / "frames.jsonl").read_text().splitlines()) == LENGTH
    assert len(list((run / "davis").iterdir())) == LENGTH


def test_an_output_is_added_by_a_function_and_a_line(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def write_counts(folder: Path, _: TrackedVideo) -> Iterator[WriteFrame]:
        with atomic_path(folder / "counts.txt") as path, path.open("w") as file:
            yield lambda frame: print(len(frame.instances), file=file)

    monkeypatch.setitem(OUTPUTS, "counts", Output(write_counts, ("counts.txt",)))
    config = PredictConfig(save=("counts",), overlay=False)
    predict_into(loaded(), source, tmp_path / "run", config)
    counts = (tmp_path / "run" / "counts.txt").read_text().split()
    with vistool.load(tmp_path / "run") as video:
        assert counts == [str(len(frame.track_ids)) for frame in video.frames]
    predict_into(loaded(), source, tmp_path / "run", PredictConfig(overlay=False))
    assert not (tmp_path / "run" / "counts.txt").exists()  # a later run takes it away


# What is refused -------------------------------------------------------------------------------


def test_results_are_replaced_only_when_told_to(tmp_path: Path, source: Path) -> None:
    run = tmp_path / "run"
    with vistool.predict(source, model=loaded()) as video:
        video.save(run, overlay=False, also=["csv"])
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        with pytest.raises(UsageError, match=r"results\.json: is there already"):
            video.save(run)
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before
        assert video.save(str(run), overlay=False, exist_ok=True) == run
        assert {path.name for path in run.iterdir()} == {"results.json", "meta.json"}
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "tracks.csv").write_text("mine")
        with pytest.raises(UsageError, match=r"tracks\.csv: is there already"):
            video.save(tmp_path / "mine", also=["csv"])
        with pytest.raises(UsageError, match="tiff: no such output"):
            video.save(tmp_path / "other", also=["tiff"])
        assert not (tmp_path / "other").exists()


def test_a_moved_source_is_not_replaced(tmp_path: Path, source: Path) -> None:
    run = tmp_path / "run"
    with vistool.predict(source, model=loaded()) as video:
        video.save(run, overlay=False)
    moved = source.rename(run / "davis")
    with (
        vistool.load(run, source=moved) as video,
        pytest.raises(UsageError, match="where results would be written"),
    ):
        video.save(run, also=["davis"], exist_ok=True)
    assert len(list(moved.iterdir())) == LENGTH


def test_a_part_does_not_replace_the_results_of_a_whole_video(tmp_path: Path, source: Path) -> None:
    with vistool.predict(source, model=loaded()) as video:
        video.save(tmp_path / "whole", overlay=False)
        video.save(tmp_path / "part", overlay=False)
    meta = tmp_path / "part" / "meta.json"
    meta.write_text(meta.read_text().replace('"complete":true', '"complete":false'))
    with (
        vistool.load(tmp_path / "part") as part,
        pytest.raises(UsageError, match="the results of a whole video are in it"),
    ):
        part.save(tmp_path / "whole", exist_ok=True)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"confidence": 0.5}, "unknown setting 'confidence'"),
        ({"conf": 2.0}, "conf 2"),
        ({"classes": "red"}, "Expected `array`, got `str`"),
        ({"clip_length": 2, "clip_stride": 3}, "clip stride 3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    source: Path, settings: dict[str, Any], told: str
) -> None:
    for function in (vistool.predict, vistool.track):
        with pytest.raises(UsageError, match=told):
            list(getattr(function(source, model=loaded(), **settings), "frames", []))
    with vistool.predict(source, model=loaded()) as video:
        for wrong in ({"alpha": 2}, {"colour": "red"}):
            with pytest.raises(UsageError, match="style"):
                video.frames[0].plot(**wrong)


def test_settings_as_arguments_are_those_of_the_command() -> None:
    """But for those of what is written, which `save` has."""
    fields = {field.name for field in msgspec.structs.fields(PredictConfig)}
    assert PredictOptions.__annotations__.keys() == fields - {"overlay", "save"}
    style = {field.name for field in msgspec.structs.fields(OverlayStyle)}
    assert OverlayOptions.__annotations__.keys() == style


def test_weights_are_loaded_once_by_name(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = save_untrained(tmp_path / "tiny.safetensors", ("cat",), num_queries=2)
    read = []

    def counted(path: Path) -> vistool.LoadedModel:
        read.append(path)
        return vistool.load_model(path)

    monkeypatch.setattr("vistool.engine.predict.video.load_model", counted)
    for model in (weights, str(weights)):
        vistool.predict(source, model=model, end=0.2).close()
    assert len(read) == 1
    save_untrained(weights, ("dog",), num_queries=2)  # trained on, say
    os.utime(weights, ns=(0, 0))
    with vistool.predict(source, model=weights, end=0.2) as video:
        assert [category.name for category in video.categories] == ["dog"]


# The end ---------------------------------------------------------------------------------------


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".masks-*")]


def test_masks_are_deleted_when_the_video_is_closed_or_collected(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    video = vistool.predict(source, model=loaded())
    assert len(left_in(tmp_path)) == 1
    video.close()
    assert left_in(tmp_path) == []
    video.close()
    with pytest.raises(UsageError, match="closed"):
        video.frames[0]
    assert video.tracks[0].class_name == "red"

    frame = vistool.predict(source, model=loaded()).frames[2]
    assert (frame.image == next(pictures(SCENE, 3))).any()  # a frame keeps its video
    assert len(left_in(tmp_path)) == 1
    del frame
    gc.collect()
    assert left_in(tmp_path) == []


def test_masks_are_deleted_at_the_end_of_the_program(
    tmp_path: Path, source: Path, shapes_video: ShapesVideo
) -> None:
    with vistool.predict(source, model=loaded()) as video:
        video.save(tmp_path / "run", overlay=False)
    script = (
        "import vistool, tempfile, pathlib; video = vistool.load('run'); kept = video.frames[1];"
        "print(len(list(pathlib.Path(tempfile.gettempdir()).glob('.masks-*'))))"
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"TMPDIR": str(temporary), "PYTHONPATH": str(Path(vistool.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1"]
    assert left_in(temporary) == []
