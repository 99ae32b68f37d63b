"""Stitching: equal to a recording of the published code, and correct for moving squares."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.recorded import recorded, recorded_json
from vistool.structures import ClipOutput, ClipPrediction, FrameTracks, Size
from vistool.tracking.postprocess import (
    clip_prediction,
    masks_at,
    results_multi_class,
    results_single_class,
)
from vistool.tracking.stitch import TrackStitcher, soft_sequence_iou
from vistool.tracking.windows import StreamingWindows, clip_windows

CASES: list[dict[str, Any]] = recorded_json("ifc/stitching")


@cache
def recorded_tensors() -> dict[str, Tensor]:
    return recorded("ifc/stitching")


class Recorded:
    """One case of the recording: synthetic clips and the results of the published code."""

    def __init__(self, number: int) -> None:
        self.about = CASES[number]
        self.number = number
        self.clips = [
            ClipPrediction(
                tuple(frame_ids),
                self[f"clip{i}.cls_probs"][:, :-1],  # recorded with "no object"
                self[f"clip{i}.mask_logits"],
            )
            for i, frame_ids in enumerate(self.about["clips"])
        ]

    def __getitem__(self, name: str) -> Tensor:
        return recorded_tensors()[f"c{self.number}.{name}"]

    def stitched(self) -> tuple[TrackStitcher, list[FrameTracks]]:
        """Stitch as a stream: every frame is taken as soon as it is final."""
        stitcher = TrackStitcher(self.about["num_classes"])
        windows = StreamingWindows[None](self.about["T"], self.about["stride"])
        frames: list[FrameTracks] = []
        clips = iter(self.clips)
        for step in range(self.about["length"] + 1):
            window = windows.finish() if step == self.about["length"] else windows.push(None)
            if window is not None:
                clip = next(clips)
                assert clip.frame_ids == tuple(window.frame_ids)
                stitcher.add(clip)
            frames += stitcher.pop_final(windows.final_before)
        return stitcher, frames


every_case = pytest.mark.parametrize("number", range(len(CASES)))


@pytest.mark.parity
@every_case
def test_windows_are_the_recorded_ones(number: int) -> None:
    about = CASES[number]
    windows = [list(w) for w in clip_windows(about["length"], about["T"], about["stride"])]
    assert windows == about["clips"]


@pytest.mark.parity
@every_case
def test_every_instance_goes_to_its_recorded_track(number: int) -> None:
    case = Recorded(number)
    stitcher = TrackStitcher(case.about["num_classes"])
    for clip, tracks in zip(case.clips, case["track_of_input"], strict=True):
        expected = [track + 1 for track in tracks.tolist() if track >= 0]
        assert list(stitcher.add(clip)) == expected
    assert len(stitcher) == case.about["tracks"]


@pytest.mark.parity
@every_case
def test_overlaps_are_the_recorded_ones(number: int) -> None:
    case = Recorded(number)
    stitcher = TrackStitcher(case.about["num_classes"])
    for i, clip in enumerate(case.clips):
        rows, overlaps = stitcher.overlaps(clip.frame_ids, clip.mask_logits.sigmoid())
        expected = case[f"clip{i}.score_matrix"]
        every = torch.zeros_like(expected)  # tracks without shared frames: left out here, 0 there
        every[rows] = overlaps
        # Sums of up to 720 float32 products in another order: 720 * 2**-24 = 4e-5 at worst.
        torch.testing.assert_close(every, expected, rtol=0, atol=1e-5)
        stitcher.add(clip)


@pytest.mark.parity
@every_case
def test_mean_logits_masks_and_classes_are_the_recorded_ones(number: int) -> None:
    case = Recorded(number)
    stitcher, frames = case.stitched()
    assert [frame.frame_id for frame in frames] == list(range(case.about["length"]))
    # Means of at most T float32 numbers of size 10, summed in another order.
    torch.testing.assert_close(stitcher.class_probs(), case["avg_cls"][:, :-1], rtol=0, atol=1e-6)
    logits = torch.full_like(case["avg_logits"], torch.nan)
    masks = torch.zeros_like(case["masks"])
    for frame in frames:
        rows = torch.tensor(frame.track_ids, dtype=torch.int64) - 1
        logits[rows, frame.frame_id] = frame.mask_logits
        if len(rows):
            full = F.interpolate(frame.mask_logits[None], case.about["out"], mode="bilinear")[0]
            masks[rows, frame.frame_id] = (full > 0).to(masks)
    torch.testing.assert_close(logits, case["avg_logits"], rtol=1e-5, atol=1e-5, equal_nan=True)
    assert torch.equal(masks, case["masks"])


@pytest.mark.parity
@every_case
def test_result_lists_are_the_recorded_ones(number: int) -> None:
    case = Recorded(number)
    class_probs = case.stitched()[0].class_probs()
    single, multi = results_single_class(class_probs), results_multi_class(class_probs)
    for name, results in (("single", single), ("multi", multi)):
        assert [label for _, label, _ in results] == case[f"{name}.labels"].tolist()
        scores = torch.tensor([score for _, _, score in results])
        torch.testing.assert_close(scores, case[f"{name}.scores"], rtol=0, atol=1e-6)
    assert [track_id for track_id, _, _ in single] == list(range(1, case.about["tracks"] + 1))
    assert [track_id for track_id, _, _ in multi] == sorted(track_id for track_id, _, _ in multi)


def squares(frame_ids: range, *tracks: tuple[int, float]) -> ClipPrediction:
    """A clip with squares, given by the column on frame 0 and the probability of class 0.

    They move right by half a cell per frame.
    """
    masks = torch.full((len(tracks), len(frame_ids), 8, 60), -6.0)
    for n, (column, _) in enumerate(tracks):
        for t, frame_id in enumerate(frame_ids):
            left = column + frame_id // 2
            masks[n, t, 2:6, left : left + 4] = 6.0
    probs = torch.tensor([[p, 1 - p] for _, p in tracks]).reshape(-1, 2)
    return ClipPrediction(tuple(frame_ids), probs, masks)


def test_an_object_keeps_its_track_whatever_order_the_queries_come_in() -> None:
    stitcher = TrackStitcher(2)
    assert stitcher.add(squares(range(3), (0, 0.9), (10, 0.8))) == (1, 2)
    assert stitcher.add(squares(range(1, 4), (10, 0.6), (0, 0.7), (20, 0.5))) == (2, 1, 3)
    assert stitcher.class_probs()[:, 0].tolist() == pytest.approx([0.8, 0.7, 0.5])


def test_an_object_that_returns_while_clips_overlap_continues_its_track() -> None:
    stitcher = TrackStitcher(2)
    stitcher.add(squares(range(4), (0, 0.9)))
    assert stitcher.add(squares(range(1, 5))) == ()
    assert stitcher.add(squares(range(2, 6), (0, 0.9))) == (1,)
    assert stitcher.add(squares(range(6, 10), (0, 0.9))) == (2,)  # no frame in common


def test_two_instances_of_a_clip_belong_to_different_tracks() -> None:
    stitcher = TrackStitcher(2)
    stitcher.add(squares(range(3), (0, 0.9)))
    assert stitcher.add(squares(range(1, 4), (1, 0.9), (0, 0.9))) == (2, 1)


def test_a_frame_is_the_mean_of_the_clips_with_the_track_on_it() -> None:
    stitcher = TrackStitcher(2)
    first, second = squares(range(2), (0, 0.9)), squares(range(1, 3), (0, 0.9), (20, 0.5))
    stitcher.add(first)
    assert [f.track_ids for f in stitcher.pop_final(1)] == [(1,)]
    stitcher.add(second)
    shared, last = stitcher.pop_final(3)
    assert shared.track_ids == last.track_ids == (1, 2)
    expected = (first.mask_logits[0, 1] + second.mask_logits[0, 0]) / 2
    torch.testing.assert_close(shared.mask_logits[0], expected)
    torch.testing.assert_close(shared.mask_logits[1], second.mask_logits[1, 0])
    assert list(stitcher.pop_final(3)) == []


def test_a_frame_without_tracks_is_returned_too() -> None:
    stitcher = TrackStitcher(2)
    stitcher.add(squares(range(2)))
    frames = list(stitcher.pop_final(2))
    assert [(f.frame_id, f.track_ids, len(f.mask_logits)) for f in frames] == [
        (0, (), 0),
        (1, (), 0),
    ]
    assert stitcher.class_probs().shape == (0, 2)


@given(
    clip_length=st.integers(1, 4),
    stride=st.integers(1, 4),
    seed=st.integers(0, 1000),
    length=st.integers(1, 12),
)
@settings(max_examples=60, deadline=None)
def test_order_of_the_instances_does_not_change_the_tracks(
    clip_length: int, stride: int, seed: int, length: int
) -> None:
    """Random masks in two orders give the same tracks, with other ids."""
    generator = torch.Generator().manual_seed(seed)
    a, b = TrackStitcher(3), TrackStitcher(3)
    same: dict[int, int] = {}
    for window in clip_windows(length, clip_length, min(stride, clip_length)):
        count = int(torch.randint(0, 5, (), generator=generator))
        masks = 4 * torch.randn(count, len(window), 5, 6, generator=generator)
        probs = torch.rand(count, 3, generator=generator)
        order = torch.randperm(count, generator=generator)
        ids_a = a.add(ClipPrediction(tuple(window), probs, masks))
        ids_b = b.add(ClipPrediction(tuple(window), probs[order], masks[order]))
        for place, n in enumerate(order.tolist()):
            assert same.setdefault(ids_a[n], ids_b[place]) == ids_b[place]
    assert len(set(same.values())) == len(same) == len(a) == len(b)
    for track, other in same.items():
        torch.testing.assert_close(a.class_probs()[track - 1], b.class_probs()[other - 1])


def test_memory_does_not_grow_with_the_video() -> None:
    """Every clip starts new tracks; only their class probabilities may be kept."""
    stitcher = TrackStitcher(2)
    for start in range(0, 400, 2):
        clip = squares(range(start % 40, start % 40 + 4), (0, 0.9), (20, 0.9))
        frame_ids = tuple(range(start, start + 4))
        flip = start % 8 < 4  # the objects jump, so tracks end
        masks = clip.mask_logits.flip(-1) if flip else clip.mask_logits
        stitcher.add(ClipPrediction(frame_ids, clip.class_probs, masks))
        list(stitcher.pop_final(start + 1))
    assert len(stitcher) > 50
    assert len(stitcher._recent) <= 4
    assert len(stitcher._pending) <= 4


def test_soft_iou_of_hard_masks_is_plain_iou() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 4, 5, 6, generator=generator) > 0.5
    b = torch.rand(2, 4, 5, 6, generator=generator) > 0.5
    plain = np.array([[(x & y).sum() / (x | y).sum() for y in b] for x in a])
    found = soft_sequence_iou(a.float(), b.float())
    np.testing.assert_allclose(found, plain, atol=1e-6)
    assert soft_sequence_iou(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)).item() == 0


def test_only_queries_that_predict_no_object_are_dropped() -> None:
    logits = torch.tensor([[[3.0, 0, 0], [0, 0, 3], [0.1, 0, 0], [0, 0.2, 0.1]]])
    masks = torch.randn(1, 4, 2, 3, 3).to(torch.bfloat16)
    clip = clip_prediction(ClipOutput(logits, masks), (7, 8))
    kept = [0, 2, 3]
    assert clip.frame_ids == (7, 8)
    assert clip.mask_logits.dtype == clip.class_probs.dtype == torch.float32
    torch.testing.assert_close(clip.class_probs, logits[0].softmax(-1)[kept, :2])
    torch.testing.assert_close(clip.mask_logits, masks[0, kept].float())


def test_mask_aware_scoring_keeps_likely_queries_and_scores_them_by_their_masks() -> None:
    """Query 1 has an empty mask, 2 is "no object", 3 has a high score and an uncertain mask."""
    logits = torch.log(
        torch.tensor([[[0.3, 0.1, 0.6], [0.9, 0.05, 0.05], [0.05, 0.05, 0.9], [0.8, 0.1, 0.1]]])
    )
    masks = torch.full((1, 4, 1, 1, 4), -5.0)
    masks[0, 0, 0, 0, :2] = 20.0
    masks[0, 2, 0, 0, :2] = 20.0
    masks[0, 3, 0, 0, :2] = torch.log(torch.tensor([1.5, 4.0]))  # probabilities 0.6 and 0.8
    clip = clip_prediction(ClipOutput(logits, masks), (0,), scoring="mask-aware")
    expected = torch.tensor([[0.3, 0.1], [0.8 * 0.7, 0.1 * 0.7]])
    torch.testing.assert_close(clip.class_probs, expected)
    torch.testing.assert_close(clip.mask_logits, masks[0, [0, 3]])


def test_a_small_mask_scores_less() -> None:
    """The mask of query 0 is a hundredth of the frame on two frames, and empty on the third."""
    logits = torch.log(torch.tensor([[[0.8, 0.1, 0.1], [0.8, 0.1, 0.1]]]))
    masks = torch.full((1, 2, 3, 10, 10), -20.0)
    masks[0, 0, :2, 4, 4] = 20.0
    masks[0, 1, :, 6:, 3:] = 20.0  # more than a tenth
    clip = clip_prediction(ClipOutput(logits, masks), (0, 1, 2), scoring="mask-aware")
    expected = torch.tensor([[0.8, 0.1], [0.8, 0.1]]) * torch.tensor([[0.1**0.2], [1.0]])
    torch.testing.assert_close(clip.class_probs, expected)


def test_scores_are_computed_after_components_of_other_instances_are_removed() -> None:
    """Query 0 has three cells of its own, and two uncertain ones of query 1's main component."""
    logits = torch.log(torch.tensor([[[0.1, 0.8, 0.1], [0.7, 0.2, 0.1]]]))
    masks = torch.full((1, 2, 1, 10, 10), -20.0)
    masks[0, 0, 0, 0, :3] = 20.0
    masks[0, 0, 0, 9, :2] = 0.5
    masks[0, 1, 0, 9, :2] = 20.0
    clip = clip_prediction(ClipOutput(logits, masks), (0,), scoring="mask-aware")
    factors = torch.tensor([[0.3**0.2], [0.2**0.2]])
    torch.testing.assert_close(clip.class_probs, logits[0].exp()[:, :2] * factors)
    assert (clip.mask_logits[0] > 0).sum() == 3


def test_clips_without_a_track_reduce_its_score() -> None:
    stitcher = TrackStitcher(2, prior_clips=2)
    for start in range(4):
        seen = [(0, 0.8)] if start else [(0, 0.8), (20, 0.9)]
        stitcher.add(squares(range(start, start + 2), *seen))
    # Of 4 clips, a track in all keeps its mean; a track in one is multiplied by (4 + 2) / 4 / 3.
    assert stitcher.class_probs()[:, 0].tolist() == pytest.approx([0.8, 0.9 * 0.5])
    assert stitcher.class_probs([2])[0].tolist() == pytest.approx([0.45, 0.05])


@given(
    cells=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.builds(Size, st.integers(1, 50), st.integers(1, 50)),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_masks_are_the_enlarged_logits_above_zero(
    cells: tuple[int, int], size: Size, seed: int
) -> None:
    """The frame may be larger or smaller than the logits."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(5, *cells, generator=generator) - 2
    logits[0] = -1
    enlarged = F.interpolate(logits[None], size, mode="bilinear")[0]
    found = dict(masks_at(FrameTracks(0, (2, 3, 5, 7, 8), logits), size))
    for track_id, expected in zip((2, 3, 5, 7, 8), enlarged, strict=True):
        mask = torch.from_numpy(found.get(track_id, np.zeros(size, dtype=bool)))
        assert (expected[mask != (expected > 0)].abs() < 1e-5).all()  # sums in another order
    assert 2 not in found
    assert all(mask.any() for mask in found.values())
