"""Results on disk: streamed, complete, readable by common tools, and checked when read."""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from vistool.errors import DataError, VistoolError
from vistool.formats.files import atomic_path, new_run_folder
from vistool.formats.masks.rle import decode_mask, encode_mask
from vistool.formats.results.files import (
    Category,
    VideoMeta,
    iterate_results,
    read_meta,
    read_meta_and_ids,
    read_results,
    write_meta,
    write_results,
)
from vistool.formats.results.spool import SegmentationSpool
from vistool.structures import RLE, Track, TrackSegmentation


def mask_of(number: int) -> RLE:
    """A different mask for every number."""
    bits = [bool(number >> bit & 1) for bit in range(30)]
    return encode_mask(np.array(bits).reshape(5, 6))


def entry(segmentations: list[RLE | None], **changes: Any) -> TrackSegmentation:
    plain = {"video_id": 1, "category_id": 3, "score": 0.5, "segmentations": segmentations}
    return TrackSegmentation(**(plain | changes))  # type: ignore[typeddict-item]


# ---- the spool ------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    rows=st.dictionaries(
        st.tuples(st.integers(0, 12), st.integers(1, 5)), st.integers(0, 2**30 - 1), max_size=40
    ),
    batch=st.integers(1, 10),
)
def test_the_spool_returns_the_masks_that_were_added(
    rows: dict[tuple[int, int], int], batch: int, tmp_path: Path
) -> None:
    with SegmentationSpool(tmp_path) as spool:
        spool.BATCH = batch
        for (frame, track), number in rows.items():
            spool.add(frame, track, mask_of(number))
        for track in range(7):
            assert spool.segmentations(track, 13) == [
                mask_of(rows[frame, track]) if (frame, track) in rows else None
                for frame in range(13)
            ]
        for frame in range(14):
            assert spool.frame(frame) == [
                (track, mask_of(rows[frame, track])) for track in range(7) if (frame, track) in rows
            ]


def test_the_spool_leaves_no_file(tmp_path: Path) -> None:
    with SegmentationSpool(tmp_path) as spool:
        for frame in range(2 * spool.BATCH):
            spool.add(frame, 1, mask_of(frame))
        assert any(tmp_path.rglob("*.sqlite3"))
    assert list(tmp_path.iterdir()) == []


def test_the_spool_leaves_no_file_after_an_interruption(tmp_path: Path) -> None:
    def interrupted() -> None:
        with SegmentationSpool(tmp_path) as spool:
            spool.add(0, 1, mask_of(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_the_spool_is_intact_after_an_interruption_while_writing(tmp_path: Path) -> None:
    class Interrupted(sqlite3.Connection):
        commits = 0

        def __exit__(self, *error: Any) -> Any:
            self.commits += 1
            if self.commits == 2:
                super().__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
                raise KeyboardInterrupt
            return super().__exit__(*error)

    connect = functools.partial(sqlite3.connect, factory=Interrupted)
    large = {track: RLE(size=[5, 6], counts=str(track) * 20_000) for track in range(1, 4)}
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr("vistool.formats.results.spool.sqlite3.connect", connect)
        spool = stack.enter_context(SegmentationSpool(tmp_path))
        spool.BATCH = 300  # more than SQLite keeps in memory
        with pytest.raises(KeyboardInterrupt):
            add_frames(spool, range(200), large)
        assert spool._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert all(spool.frame(frame) == list(large.items()) for frame in range(200))


def add_frames(spool: SegmentationSpool, frames: range, masks: dict[int, RLE]) -> None:
    for frame in frames:
        for track, mask in masks.items():
            spool.add(frame, track, mask)


def test_a_full_disk_is_reported_in_one_line(tmp_path: Path) -> None:
    with SegmentationSpool(tmp_path) as spool:
        spool._db.execute("PRAGMA max_page_count = 4")
        for frame in range(spool.BATCH - 1):
            spool.add(frame, 1, mask_of(frame))
        with pytest.raises(VistoolError, match="database or disk is full") as caught:
            spool.add(spool.BATCH, 1, mask_of(0))
        assert str(caught.value).startswith(f"{tmp_path}: masks ")
        assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_later_mask_replaces_an_earlier_one(tmp_path: Path) -> None:
    with SegmentationSpool(tmp_path) as spool:
        spool.add(3, 1, mask_of(1))
        spool.add(3, 1, mask_of(2))
        assert spool.frame(3) == [(1, mask_of(2))]


def test_masks_beyond_the_requested_length_are_left_out(tmp_path: Path) -> None:
    with SegmentationSpool(tmp_path) as spool:
        spool.add(1, 1, mask_of(1))
        spool.add(5, 1, mask_of(2))
        assert spool.segmentations(1, 3) == [None, mask_of(1), None]


def test_the_spool_may_be_filled_by_another_thread(tmp_path: Path) -> None:
    with SegmentationSpool(tmp_path) as spool:

        def fill() -> None:
            for frame in range(600):
                spool.add(frame, 1, mask_of(frame))

        thread = threading.Thread(target=fill)
        thread.start()
        thread.join()
        assert spool.segmentations(1, 600)[599] == mask_of(599)


# ---- results.json ---------------------------------------------------------------------------


def test_results_survive_writing_and_reading(tmp_path: Path) -> None:
    results = [entry([mask_of(1), None, mask_of(0)]), entry([None] * 3, score=0.25)]
    path = tmp_path / "results.json"
    assert write_results(path, iter(results)) == 2
    assert read_results(path) == results
    assert list(tmp_path.iterdir()) == [path]


def test_no_results_are_an_empty_list(tmp_path: Path) -> None:
    assert write_results(tmp_path / "results.json", []) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == []
    assert read_results(tmp_path / "results.json") == []


def test_common_tools_read_the_file(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((4, 30, 20)) < 0.3
    path = tmp_path / "results.json"
    write_results(path, [entry([encode_mask(mask) for mask in masks])])
    (loaded,) = json.loads(path.read_text())
    assert set(loaded) == {"video_id", "category_id", "score", "segmentations"}
    for mask, segmentation in zip(masks, loaded["segmentations"], strict=True):
        assert segmentation["size"] == [30, 20]
        np.testing.assert_array_equal(coco.decode(segmentation), mask)
        assert coco.area(segmentation) == mask.sum()


def test_results_that_fail_half_way_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, [entry([None])])

    def failing() -> Iterator[TrackSegmentation]:
        yield entry([mask_of(1)])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_results(path, failing())
    assert read_results(path) == [entry([None])]
    assert list(tmp_path.iterdir()) == [path]


def test_results_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    good = msgspec.json.encode(entry([mask_of(5)]))
    path.write_bytes(b"[" + good + b', {"video_id": 1}]')
    entries = iterate_results(path)
    assert next(entries) == entry([mask_of(5)])
    with pytest.raises(DataError, match="result 1"):
        next(entries)


GOOD = mask_of(77)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b'[{"video_id": 1, ', "truncated"),
        (b"\xff\xfe[]", "malformed"),
        (b"{}", "an object, not a list of results"),
        ([{}], "result 0: Object missing required field `video_id`"),
        ([entry([None], score="high")], "result 0: Expected `float`, got `str` - at `$.score`"),
        ([entry([None], category_id=1.5)], "result 0: Expected `int`, got `float`"),
        ([entry([GOOD, {"size": [5, 6]}])], "result 0: Object missing required field `counts`"),  # type: ignore[list-item]
        (
            [entry([]), entry([{"size": [5, 6], "counts": [30]}])],  # type: ignore[list-item]
            "result 1: Expected `str`, got `array` - at `$.segmentations[0].counts`",
        ),
        (
            [entry([None, GOOD, RLE(size=[6, 5], counts=GOOD["counts"])])],
            "result 0, frame 2: a mask of size [6, 5], expected [5, 6]",
        ),
        ([entry([RLE(size=[5, 6, 1], counts="0")])], "result 0, frame 0: size [5, 6, 1] is not"),
        ([entry([RLE(size=[5, 6], counts="0")])], "frame 0: malformed mask, runs of 0 pixels"),
        ([entry([RLE(size=[90_000] * 2, counts="0")])], "frame 0: a mask of 90000x90000 pixels"),
    ],
)
def test_damaged_results_are_refused_with_place_and_reason(
    content: bytes | list[Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content if isinstance(content, bytes) else msgspec.json.encode(content))
    with pytest.raises(DataError) as caught:
        read_results(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_an_infinite_score_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for score in ("1e999", "NaN"):
        path.write_text(
            f'[{{"video_id": 1, "category_id": 1, "score": {score}, "segmentations": []}}]'
        )
        with pytest.raises(DataError, match=r"results\.json"):
            read_results(path)


def test_missing_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"results\.json: no such file"):
        read_results(tmp_path / "results.json")


# ---- meta.json ------------------------------------------------------------------------------


META = VideoMeta(
    source="walk.mp4",
    video_id=1,
    width=64,
    height=48,
    length=3,
    first_frame=10,
    times=[1.0, 1.04, 1.1],
    frame_stride=2,
    rotation=90,
    fps=25.0,
    categories=[Category(id=1, name="person")],
    model={"name": "ifc-lite", "sha256": "ab"},
    settings={"conf": 0.3, "end": None},
    versions={"vistool": "0.1.0"},
)
LINE = {"track_id": 4, "category_id": 1, "score": 0.9, "first_frame": 0, "last_frame": 2}
TRACK = Track(4, 1, "person", 0.9, array("I", [0, 2]))


def test_meta_survives_writing_and_reading_and_leaves_one_file(tmp_path: Path) -> None:
    write_meta(tmp_path / "meta.json", META, [TRACK])
    assert read_meta(tmp_path / "meta.json") == META
    assert read_meta_and_ids(tmp_path / "meta.json") == (META, [4])
    assert [path.name for path in tmp_path.iterdir()] == ["meta.json"]
    assert json.loads((tmp_path / "meta.json").read_text())["tracks"] == [LINE]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": [1.0, 1.04]}, "2 time stamps for 3 frames"),
        ({"times": [1.0, 1.04, 1.04]}, "its time stamps do not increase"),
        ({"times": [1.0, "x", 2.0]}, "Expected `float`, got `str` - at `$.times[1]`"),
        ({"width": 0}, "0x48 pixels"),
        ({"frame_stride": 0}, "frame stride 0"),
        ({"first_frame": -1}, "first frame -1"),
        ({"tracks": [{**LINE, "last_frame": 3}]}, "frames 0 to 3"),
        ({"categories": [{"id": 1}]}, "missing required field `name`"),
        ({"length": None}, "Expected `int`, got `null`"),
    ],
)
def test_inconsistent_meta_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "meta.json"
    whole = msgspec.to_builtins(META) | {"tracks": [LINE]}
    path.write_bytes(msgspec.json.encode(whole | changes))
    with pytest.raises(DataError) as caught:
        read_meta(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_missing_meta_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"meta\.json: no such file"):
        read_meta(tmp_path / "meta.json")


# ---- folders and files ----------------------------------------------------------------------


def test_a_run_folder_is_never_used_twice_unless_requested(tmp_path: Path) -> None:
    parent = tmp_path / "runs" / "predict"
    names = [new_run_folder(parent, "walk", exist_ok=False).name for _ in range(3)]
    assert names == ["walk", "walk-2", "walk-3"]
    assert new_run_folder(parent, "walk", exist_ok=True) == parent / "walk"
    assert new_run_folder(parent, "run", exist_ok=True).is_dir()


def test_a_file_in_the_way_of_a_run_folder_is_stepped_over(tmp_path: Path) -> None:
    (tmp_path / "walk").touch()
    assert new_run_folder(tmp_path, "walk", exist_ok=False).name == "walk-2"
    with pytest.raises(DataError, match=r"walk: is a file"):
        new_run_folder(tmp_path, "walk", exist_ok=True)


def test_simultaneous_callers_get_different_run_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda _: new_run_folder(tmp_path, "walk", exist_ok=False), range(60))
        assert len(set(made)) == 60


def test_a_file_appears_at_its_path_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with atomic_path(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, ".txt")
        temporary.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "all of it"
    assert list(path.parent.iterdir()) == [path]


def test_decoded_masks_are_those_that_were_written(tmp_path: Path) -> None:
    mask = np.random.default_rng(3).random((48, 64)) < 0.4
    write_results(tmp_path / "results.json", [entry([encode_mask(mask)])])
    (result,) = read_results(tmp_path / "results.json")
    (segmentation,) = result["segmentations"]
    assert segmentation is not None
    np.testing.assert_array_equal(decode_mask(segmentation), mask)
