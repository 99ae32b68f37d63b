"""Overlaps of tracks: equal to pycocotools' for every pair; malformed masks are refused."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from tests.pairwise_ap import pair_iou
from vistool.annotations.dataset import AnnotatedTrack
from vistool.errors import DataError
from vistool.formats.masks.rle import encode_mask, rle_fault
from vistool.formats.masks.runs import compiled, decode_runs
from vistool.metrics import overlaps as module
from vistool.metrics.overlaps import (
    VideoOverlaps,
    overlaps_of_video,
    overlaps_of_videos,
    shared_pixels,
)
from vistool.structures import RLE, Size, TrackSegmentation

HEIGHT, WIDTH = 11, 7


@st.composite
def masks(draw: st.DrawFn, height: int = HEIGHT, width: int = WIDTH) -> RLE:
    """Noise, blocks, whole columns, empty or full masks."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["noise", "block", "empty", "full", "columns"]))
    mask = np.zeros((height, width), bool)
    if kind == "noise":
        mask = rng.random((height, width)) < rng.random()
    elif kind == "block":
        top, left = rng.integers(0, height), rng.integers(0, width)
        mask[top : top + rng.integers(1, height + 1), left : left + rng.integers(1, width + 1)] = 1
    elif kind == "columns":
        mask[:, rng.integers(0, width) :] = 1
    elif kind == "full":
        mask[:] = True
    return encode_mask(mask)


def tracks(length: int, most: int) -> st.SearchStrategy[list[list[RLE | None]]]:
    track = st.lists(st.none() | masks(), min_size=length, max_size=length)
    return st.lists(track, max_size=most)


# --- runs -----------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.lists(masks(), min_size=1, max_size=6))
def test_areas_boxes_and_intersections_are_those_of_pycocotools(codes: list[RLE]) -> None:
    runs = decode_runs(codes)
    assert runs.sound.all()
    assert runs.areas.tolist() == coco.area(codes).tolist()
    left, top, width, height = coco.toBbox(codes).T
    expected = np.stack([left, top, left + width, top + height], axis=1)
    expected[runs.areas == 0] = 0
    np.testing.assert_array_equal(runs.boxes(HEIGHT), expected)
    everyone = np.arange(len(codes))[None]
    shared = [[coco.area(coco.merge([a, b], True)) for b in codes] for a in codes]
    np.testing.assert_array_equal(runs.intersections(everyone, everyone)[0], shared)


@settings(max_examples=300, deadline=None)
@given(code=masks(), data=st.data())
def test_a_damaged_code_is_sound_exactly_if_it_is_safe_to_decode(
    code: RLE, data: st.DataObject
) -> None:
    counts = list(code["counts"])
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(counts)))
        letter = data.draw(st.sampled_from([*"0123oO_`^PQ~/ n", "é", "\U0001f600", ""]))
        counts[place : place + data.draw(st.integers(0, 1))] = letter
    damaged = RLE(size=code["size"], counts="".join(counts))
    runs = decode_runs([code, damaged, code])
    assert runs.sound.tolist() == [True, not rle_fault(damaged, Size(HEIGHT, WIDTH)), True]
    assert runs.areas[0] == runs.areas[2] == coco.area(code)


def test_a_mask_of_impossible_size_is_not_decoded() -> None:
    for size in ([0, 5], [-3, -4], [1 << 20, 1 << 20]):
        assert not decode_runs([RLE(size=size, counts="0")]).sound.any()
    assert len(decode_runs([]).areas) == 0


def test_loops_are_compiled_where_machine_code_cannot_be_cached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jit = numba.njit

    def without_a_place(*, nogil: bool, cache: bool = False) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return jit(nogil=nogil)

    monkeypatch.setattr(numba, "njit", without_a_place)

    @compiled
    def total(numbers: np.ndarray) -> int:
        result = 0
        for number in numbers:
            result += number
        return result

    assert total(np.arange(5)) == 10
    assert total.signatures  # type: ignore[attr-defined]  # it was compiled


# --- tracks ---------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(data=st.data(), length=st.integers(0, 4), at_once=st.sampled_from([1, 5, 4096]))
def test_every_pair_on_every_frame_is_compared_as_pycocotools_does(
    data: st.DataObject, length: int, at_once: int
) -> None:
    predicted, labelled = data.draw(tracks(length, 4)), data.draw(tracks(length, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MASKS_AT_ONCE", at_once)
        both, areas, labelled_areas = shared_pixels(predicted, labelled)
    frames = length if predicted or labelled else 0
    assert both.shape == (frames, len(predicted), len(labelled))
    assert areas.tolist() == areas_of(predicted, frames)
    assert labelled_areas.tolist() == areas_of(labelled, frames)
    for f, p, g in np.ndindex(both.shape):
        pair = [predicted[p][f], labelled[g][f]]
        shared = coco.area(coco.merge(pair, True)) if all(pair) else 0
        assert both[f, p, g] == shared


@settings(max_examples=60, deadline=None)
@given(data=st.data(), length=st.integers(1, 4))
def test_overlap_over_time_is_that_of_the_loop_to_the_last_bit(
    data: st.DataObject, length: int
) -> None:
    predicted, labelled = data.draw(tracks(length, 3)), data.draw(tracks(length, 3))
    expected = [[pair_iou(ours, theirs) for theirs in labelled] for ours in predicted]
    found = compare(predicted, labelled).iou()
    assert found.tolist() == expected


def areas_of(several: Sequence[Sequence[RLE | None]], frames: int) -> list[list[int]]:
    return [[int(coco.area(t[f])) if t[f] else 0 for t in several] for f in range(frames)]


def compare(
    predicted: Sequence[list[RLE | None]], labelled: Sequence[list[RLE | None]], video: int = 1
) -> VideoOverlaps:
    results: list[TrackSegmentation] = [
        {"video_id": video, "category_id": 1, "score": 0.5, "segmentations": track}
        for track in predicted
    ]
    return overlaps_of_video(
        video, [AnnotatedTrack(video, 1, track) for track in labelled], results
    )


def square(at: int, side: int = 3, size: tuple[int, int] = (20, 20)) -> RLE:
    mask = np.zeros(size, bool)
    mask[at : at + side, at : at + side] = True
    return encode_mask(mask)


def test_videos_keep_their_order_whichever_thread_is_first() -> None:
    videos: list[tuple[int, list[AnnotatedTrack], list[TrackSegmentation]]] = []
    for video in range(30):
        length = 1 + 200 * (video % 3 == 0)  # some take longer
        masks: list[RLE | None] = [square(video % 10)] * length
        videos.append(
            (
                video,
                [AnnotatedTrack(video, 1, masks)],
                [{"video_id": video, "category_id": 1, "score": 0.5, "segmentations": masks}],
            )
        )
    compared = list(overlaps_of_videos(iter(videos)))
    assert [video.video_id for video in compared] == list(range(30))
    assert all((video.intersections == 9).all() for video in compared)


def test_videos_are_read_on_demand() -> None:
    taken = []

    def endless() -> object:
        for video in range(10_000):
            taken.append(video)
            yield video, [AnnotatedTrack(video, 1, [square(0)])], []

    compared = overlaps_of_videos(endless())  # type: ignore[arg-type]
    for _ in range(5):
        next(compared)
    compared.close()  # type: ignore[attr-defined]
    assert len(taken) < 1000


def test_differing_lengths_or_sizes_are_refused_with_the_video_and_both_values() -> None:
    with pytest.raises(DataError, match="video 7: tracks have 1 and 2 frames"):
        compare([[square(0)]], [[square(0), None]], video=7)
    with pytest.raises(DataError, match="video 7: masks of sizes 20x20 and 20x30"):
        compare([[square(0)]], [[square(0, size=(20, 30))]], video=7)


def test_a_malformed_mask_is_refused_with_its_frame() -> None:
    bad = RLE(size=[20, 20], counts="ooooooo")
    with pytest.raises(DataError, match="video 7, frame 1: malformed mask"):
        compare([[square(0), bad]], [[square(0), None]], video=7)
    truth = [AnnotatedTrack(3, 1, [bad])]
    with pytest.raises(DataError, match="video 3, frame 0"):
        list(overlaps_of_videos([(3, truth, [])]))
