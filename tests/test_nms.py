"""Duplicate removal (NMS): only the higher-scoring one of two overlapping tracks is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vistool.structures import FrameTracks
from vistool.tracking.nms import TrackOverlaps


def frame(number: int, masks: dict[int, np.ndarray]) -> FrameTracks:
    """masks: track id -> [h, w] bool."""
    ids = tuple(sorted(masks))
    logits = torch.tensor(np.array([np.where(masks[i], 3.0, -1.0) for i in ids]))
    return FrameTracks(number, ids, logits.reshape(len(ids), 6, 8))


def box(left: int, width: int) -> np.ndarray:
    mask = np.zeros((6, 8), bool)
    mask[:, left : left + width] = True
    return mask


def made(*frames: dict[int, np.ndarray]) -> TrackOverlaps:
    overlaps = TrackOverlaps()
    for number, masks in enumerate(frames):
        overlaps.add(frame(number, masks))
    return overlaps


def test_the_iou_is_over_all_frames() -> None:
    # On the first frame, two of four columns are shared; on the second, there is only one track.
    overlaps = made({1: box(0, 3), 2: box(1, 3)}, {2: box(0, 4)})
    assert overlaps.iou(1, 2) == overlaps.iou(2, 1) == pytest.approx(2 / 8)
    assert overlaps.iou(1, 3) == 0


def classes(*tracks: int) -> dict[int, int]:
    """A different class for every track; tracks are given by falling score."""
    return {track: track for track in tracks}


def test_the_lower_scoring_of_two_tracks_is_left_out() -> None:
    overlaps = made({1: box(0, 4), 2: box(0, 3), 3: box(5, 2)})
    assert overlaps.duplicates(classes(2, 1, 3), 0.5) == {1}
    assert overlaps.duplicates(classes(1, 2, 3), 0.5) == {2}
    assert overlaps.duplicates(classes(1, 2, 3), 0.75) == set()  # IoU 3 / 4 is not above it


def test_a_track_inside_a_higher_scoring_one_of_its_class_is_left_out() -> None:
    overlaps = made({1: box(0, 6), 2: box(0, 1)}, {1: box(0, 6), 2: box(4, 4)})
    assert (overlaps.inside(2, 1), overlaps.inside(1, 2)) == (3 / 5, 3 / 12)
    dog, cat = 7, 8
    assert overlaps.duplicates({1: dog, 2: dog}, 0.5) == set()  # 3 / 5 is not above INSIDE
    head = made({1: box(0, 6), 2: box(0, 2)}, {1: box(0, 6), 2: box(3, 4)})
    head.add(frame(2, {1: box(0, 6), 2: box(0, 3)}))  # eight of nine columns
    assert head.duplicates({1: dog, 2: dog}, 0.5) == {2}
    assert head.duplicates({1: dog, 2: cat}, 0.5) == set()  # a cat on a sofa
    assert head.duplicates({2: dog, 1: dog}, 0.5) == set()  # the larger one is not inside


def test_a_track_that_is_left_out_does_not_remove_others() -> None:
    # The IoU of 2 with either is 3 / 5, that of 1 and 3 is 1 / 3.
    chain = made({1: box(0, 4), 2: box(1, 4), 3: box(2, 4)})
    assert chain.duplicates(classes(1, 2, 3), 0.5) == {2}


@given(
    st.lists(
        st.dictionaries(st.integers(1, 4), st.tuples(st.integers(0, 7), st.integers(1, 8))),
        max_size=4,
    ),
    st.permutations([1, 2, 3, 4]),
    st.floats(0, 1),
)
def test_kept_tracks_do_not_overlap_and_the_others_overlap_a_kept_one(
    frames: list[dict[int, tuple[int, int]]], order: list[int], most: float
) -> None:
    masks = [{i: box(*place) for i, place in one.items()} for one in frames]
    overlaps = made(*masks)
    stacks = {
        i: np.array([one.get(i, np.zeros((6, 8), bool)) for one in masks] or [np.zeros((6, 8))])
        for i in order
    }

    def iou(a: int, b: int) -> float:
        union = np.logical_or(stacks[a], stacks[b]).sum()
        return float(np.logical_and(stacks[a], stacks[b]).sum() / max(1, union))

    left_out = overlaps.duplicates(classes(*order), most)
    kept = [i for i in order if i not in left_out]
    for place, a in enumerate(kept):
        assert all(iou(a, b) <= most for b in kept[:place])
    for a in left_out:
        assert any(iou(a, b) > most for b in kept if order.index(b) < order.index(a))
    assert order[0] in kept
