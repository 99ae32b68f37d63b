"""AP by occlusion, length and speed: the groups of tracks, and the predictions that count there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_tracks import random_video
from vistool.annotations.dataset import AnnotatedTrack
from vistool.errors import DataError
from vistool.formats.masks.rle import encode_masks
from vistool.metrics.ap import Grouping, average_precision
from vistool.metrics.breakdown import (
    Breakdown,
    BreakdownBuilder,
    box_overlap,
    occlusion_of,
)
from vistool.metrics.overlaps import NOT_MEASURED, VideoOverlaps, overlaps_of_video
from vistool.structures import RLE, TrackSegmentation

NO, SLIGHT, SEVERE = "no_occlusion", "slight_occlusion", "severe_occlusion"


def track(
    frames: int, step: int = 0, top: int = 0, length: int = 24, side: int = 10
) -> list[RLE | None]:
    """A square that is visible on the first frames of `length` and moves right by `step` pixels."""
    masks = np.zeros((frames, 40, 40 + step * frames), bool)
    wide = np.zeros((frames, 40, 400), bool)
    for frame, mask in enumerate(masks):
        mask[top : top + side, frame * step : frame * step + side] = True
        wide[frame, :, : mask.shape[1]] = mask
    return [*encode_masks(wide), *[None] * (length - frames)]


def video(
    truth: Sequence[AnnotatedTrack], found: Sequence[list[RLE | None]], number: int = 1
) -> VideoOverlaps:
    predictions: list[TrackSegmentation] = [
        {"video_id": number, "category_id": 1, "score": 1 - place / 10, "segmentations": masks}
        for place, masks in enumerate(found)
    ]
    return overlaps_of_video(number, truth, predictions)


def labelled(masks: list[RLE | None], *levels: str | None, crowd: bool = False) -> AnnotatedTrack:
    return AnnotatedTrack(1, 1, masks, crowd, occlusion=levels)


def ap50(groups: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: row["AP50"] for name, row in groups.items()}


def counts(groups: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: row["truth"] for name, row in groups.items()}


def breakdown(*videos: VideoOverlaps, category_ids: Sequence[int] = (1,)) -> Breakdown:
    builder = BreakdownBuilder(category_ids)
    for video in videos:
        builder.add(video)
    return builder.result()


# --- occlusion ------------------------------------------------------------------------------------


def test_the_occlusion_of_a_track_is_the_mean_of_its_labelled_frames() -> None:
    assert occlusion_of([NO, NO, None]) == 0
    assert occlusion_of([NO, SEVERE]) == 0.375
    assert occlusion_of([SLIGHT, None, SEVERE, SEVERE]) == pytest.approx(1.75 / 3)
    assert np.isnan(occlusion_of([None, None]))
    assert np.isnan(occlusion_of([]))


def test_ap_is_computed_for_each_occlusion_group() -> None:
    light, heavy, group = track(5), track(5, top=15), track(5, top=28)
    truth = [
        labelled(light, *[NO] * 5),
        labelled(heavy, *[SEVERE] * 5),
        labelled(group, *[SEVERE] * 5, crowd=True),
    ]
    found = breakdown(video(truth, [light, group]))["occlusion"]
    assert ap50(found) == {"light": 1, "medium": NOT_MEASURED, "heavy": 0}
    assert counts(found) == {"light": 1, "medium": 0, "heavy": 1}


def test_an_unmatched_prediction_counts_in_every_occlusion_group() -> None:
    truth = [labelled(track(5), *[NO] * 5), labelled(track(5, top=15), *[SEVERE] * 5)]
    found = breakdown(video(truth, [track(5, top=28), track(5), track(5, top=15)]))["occlusion"]
    assert ap50(found) == {"light": 0.5, "medium": NOT_MEASURED, "heavy": 0.5}


def test_without_occlusion_labels_the_table_is_left_out() -> None:
    assert list(breakdown(video([labelled(track(5))], [track(5)]))) == ["length", "speed"]


def test_an_unknown_occlusion_level_is_refused_with_its_video() -> None:
    with pytest.raises(DataError, match="video 4: unknown occlusion 'half'") as caught:
        breakdown(video([labelled(track(5), "half")], [], number=4))
    assert "slight_occlusion" in caught.value.hint


# --- length ---------------------------------------------------------------------------------------


def test_the_length_of_a_track_is_its_number_of_visible_frames() -> None:
    truth = [labelled(track(n, top=10 * i)) for i, n in enumerate([10, 11, 21])]
    truth.append(labelled(track(0, top=30)))  # never visible: in no group
    length = breakdown(video(truth, [track(10), track(21, top=20)]))["length"]
    assert counts(length) == {"short": 1, "medium": 1, "long": 1}
    assert ap50(length) == {"short": 1, "medium": 0, "long": 1}


def test_an_unmatched_prediction_counts_only_in_the_group_of_its_length() -> None:
    truth = [labelled(track(5)), labelled(track(24, top=15))]
    nothing = track(24, top=28)
    length = breakdown(video(truth, [nothing, track(5), track(24, top=15)]))["length"]
    assert ap50(length) == {"short": 1, "medium": NOT_MEASURED, "long": 0.5}


# --- speed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 3, 9, 10, 15])
def test_the_overlap_of_neighbouring_boxes_follows_from_the_step(step: int) -> None:
    expected = max(0, 10 - step) / (10 + min(step, 10))
    assert box_overlap([track(6, step)]) == pytest.approx([expected])


def test_frames_without_a_neighbour_have_no_speed() -> None:
    moving = track(4, 5)
    apart: list[RLE | None] = [moving[0], None, moving[2], None]
    joined: list[RLE | None] = [moving[0], None, moving[2], moving[2]]
    overlap = box_overlap([apart, joined, [None] * 4])
    np.testing.assert_array_equal(overlap, [np.nan, 1, np.nan])
    assert box_overlap([]).shape == (0,)
    assert np.isnan(box_overlap([[None, None]])).all()


def test_ap_is_computed_for_each_speed_group() -> None:
    slow, medium, fast = track(8), track(8, 1, top=12), track(8, 6, top=24)
    truth = [labelled(masks) for masks in (slow, medium, fast)]
    speed = breakdown(video(truth, [slow, fast]))["speed"]
    assert counts(speed) == {"slow": 1, "medium": 1, "fast": 1}
    assert ap50(speed) == {"slow": 1, "medium": 0, "fast": 1}


# --- properties -----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_group_of_all_tracks_has_the_ap_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    videos = [random_video(rng).overlaps(number) for number in (1, 2)]

    def one_for_all(video: VideoOverlaps) -> tuple[np.ndarray, None]:
        return np.ones(len(video.truth)), None

    whole = average_precision(videos, category_ids=[1, 2, 3])
    grouped = average_precision(
        videos,
        category_ids=[1, 2, 3],
        grouping=Grouping({"all": (1, 1), "none": (2, 3)}, one_for_all),
    )
    np.testing.assert_array_equal(grouped.precision[..., 0, :], whole.precision[..., 0, :])
    np.testing.assert_array_equal(grouped.recall[..., 0, :], whole.recall[..., 0, :])
    assert (grouped.precision[..., 1, :] == NOT_MEASURED).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ap_of_the_labels_is_one_in_every_group_with_tracks(seed: int) -> None:
    made = random_video(np.random.default_rng(seed))
    truth = [AnnotatedTrack(1, t.category_id, t.codes()) for t in made.truth]
    predictions: list[TrackSegmentation] = [
        {
            "video_id": 1,
            "category_id": t.category_id,
            "score": 0.5,
            "segmentations": list(t.segmentations),
        }
        for t in truth
    ]
    visible = [any(t.segmentations) for t in truth]
    truth = [t for t, seen in zip(truth, visible, strict=True) if seen]
    found = breakdown(overlaps_of_video(1, truth, predictions), category_ids=[1, 2, 3])
    for row in (*found["length"].values(), *found["speed"].values()):
        assert row["AP"] == (1 if row["truth"] else NOT_MEASURED)
    assert sum(row["truth"] for row in found["length"].values()) == len(truth)
