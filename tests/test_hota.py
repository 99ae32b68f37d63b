"""HOTA: equal to TrackEval on random problems, and properties that hold for any tracks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_tracks import (
    HEIGHT,
    WIDTH,
    MadeTrack,
    MadeVideo,
    hota_of,
    identity_of,
    random_video,
    rectangle,
)
from tests.trackeval_data import trackeval_metric, trackeval_on_files, trackeval_problem
from vistool.metrics.hota import ALPHAS, hota_of_video, hota_summary
from vistool.metrics.overlaps import NOT_MEASURED

PROBLEMS = 60
EXAMPLES = 40  # per property; comparing masks is slow
CATEGORIES = (1, 2, 3)
FIELDS = ("HOTA", "DetA", "AssA", "LocA", "DetRe", "DetPr", "AssRe", "AssPr")


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(PROBLEMS))
def test_hota_equals_trackeval(seed: int) -> None:
    metric = trackeval_metric("HOTA")
    rng = np.random.default_rng(seed)
    videos = [random_video(rng) for _ in range(rng.integers(1, 5))]
    result = hota_of(video.overlaps(i) for i, video in enumerate(videos))
    expected = {}
    for category in CATEGORIES:
        sequences = {
            i: metric.eval_sequence(trackeval_problem(video, category))
            for i, video in enumerate(videos)
        }
        for i, (_, of_video) in enumerate(result.videos):
            if category in of_video:
                equal(of_video[category].curves(), sequences[i])
        expected[category] = metric.combine_sequences(sequences)
    found = result.by_category()
    for category, counts in found.items():
        equal(counts.curves(), expected[category])
        for ours, theirs in (("matches", "TP"), ("missed", "FN"), ("wrong", "FP")):
            np.testing.assert_array_equal(
                getattr(counts, ours), expected[category][f"HOTA_{theirs}"]
            )
    with_truth = {k: v for k, v in expected.items() if v["HOTA_TP"][0] + v["HOTA_FN"][0] > 0}
    if with_truth:
        averaged = metric.combine_classes_class_averaged(with_truth)
        equal(result.class_averaged(), {name: averaged[name].mean() for name in FIELDS})
    total = result.total()
    assert (total is None) == (not found)
    if total:
        averaged = metric.combine_classes_det_averaged(expected)
        equal(total.summary(), {name: averaged[name].mean() for name in FIELDS})


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(5))
def test_hota_and_idf1_equal_what_trackeval_prints_for_youtube_vis_files(
    seed: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng([seed, 4])
    made = (random_video(rng, categories=2) for _ in itertools.count())
    videos = list(itertools.islice((v for v in made if v.truth), 6))
    combined = trackeval_on_files(tmp_path, videos, categories=2)
    overlaps = [video.overlaps(i) for i, video in enumerate(videos)]
    hota, identity = hota_of(overlaps), identity_of(overlaps)
    totals = hota.total(), identity.total()
    assert totals[0]
    assert totals[1]
    assert all(counts.num_labelled for counts in hota.by_category().values())
    for rows, averages in (
        (combined["cls_comb_cls_av"], (hota.class_averaged(), identity.class_averaged())),
        (combined["cls_comb_det_av"], (totals[0].summary(), totals[1].summary())),
    ):
        equal(averages[0], {name: rows["HOTA"][name].mean() for name in FIELDS})
        for name in ("IDF1", "IDP", "IDR"):
            assert averages[1][name] == pytest.approx(rows["Identity"][name], abs=1e-12)


def equal(ours: dict[str, float] | dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    for name in FIELDS:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-12, err_msg=name)


def test_the_numbers_of_a_small_case_follow_from_the_definition() -> None:
    # Frame 1: IoU 1/2 with one track; frames 2 and 3: IoU 1 with another; frame 4: missed.
    whole, half = rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 5)
    nothing = np.zeros_like(whole)
    video = MadeVideo(
        [MadeTrack(np.stack([whole] * 4))],
        [
            MadeTrack(np.stack([half, nothing, nothing, nothing])),
            MadeTrack(np.stack([nothing, whole, whole, nothing])),
        ],
    )
    curves = hota_of_video(video.overlaps())[1].curves()
    low, high = ALPHAS <= 0.5 + 1e-9, ALPHAS > 0.5 + 1e-9
    np.testing.assert_allclose(curves["DetA"][low], 3 / 4)
    np.testing.assert_allclose(curves["DetA"][high], 2 / 5)  # two missed, one wrong
    np.testing.assert_allclose(curves["AssA"][low], (1 / 4 + 2 * 2 / 4) / 3)
    np.testing.assert_allclose(curves["AssA"][high], 2 / 4)
    np.testing.assert_allclose(curves["LocA"][low], 2.5 / 3)
    np.testing.assert_allclose(curves["LocA"][high], 1)
    np.testing.assert_allclose(curves["HOTA"], np.sqrt(curves["DetA"] * curves["AssA"]))


def test_a_prediction_of_another_category_does_not_match() -> None:
    masks = np.stack([rectangle(2, 2, 8, 8)] * 3)
    video = MadeVideo([MadeTrack(masks, 1)], [MadeTrack(masks, 2)])
    result = hota_of([video.overlaps()])
    assert hota_summary(result) == {"HOTA": 0, "DetA": 0, "AssA": 0, "LocA": 1}
    total = result.total()
    assert total
    assert total.summary()["DetA"] == 0
    assert {k: c.num_labelled for k, c in result.by_category().items()} == {1: 3, 2: 0}


def test_without_labels_hota_is_not_measured() -> None:
    masks = np.stack([rectangle(2, 2, 8, 8)])
    for predictions in ([], [MadeTrack(masks)]):
        result = hota_of([MadeVideo([], predictions).overlaps()])
        assert set(hota_summary(result).values()) == {NOT_MEASURED}
    assert hota_of([]).class_averaged() == {}
    assert hota_of([]).total() is None


def test_every_prediction_counts_whatever_its_score() -> None:
    masks = np.stack([rectangle(2, 2, 8, 8)] * 3)
    video = MadeVideo(
        [MadeTrack(masks)], [MadeTrack(masks, score=0.9), MadeTrack(masks, score=0.2)]
    )
    assert hota_summary(hota_of([video.overlaps()]))["DetA"] == pytest.approx(0.5)


def test_a_prediction_in_a_group_is_neither_right_nor_wrong() -> None:
    alone, group = rectangle(0, 0, 8, 8), rectangle(0, 16, 16, 16)
    truth = [
        MadeTrack(np.stack([alone] * 2)),
        MadeTrack(np.stack([group] * 2), is_crowd=True),
    ]
    in_group = rectangle(2, 18, 8, 8)
    half_in_group = rectangle(2, 12, 8, 8)
    right, inside, half, other = (
        MadeTrack(np.stack([mask] * 2), category)
        for mask, category in [(alone, 1), (in_group, 1), (half_in_group, 1), (in_group, 2)]
    )

    def wrong(*predictions: MadeTrack) -> dict[int, int]:
        counts = hota_of_video(MadeVideo(truth, predictions).overlaps())
        return {category: int(c.wrong[0]) for category, c in counts.items()}

    assert hota_summary(hota_of([MadeVideo(truth, [right, inside]).overlaps()])) == {
        "HOTA": 1, "DetA": 1, "AssA": 1, "LocA": 1,
    }  # fmt: skip
    assert wrong(right, inside) == {1: 0}
    assert wrong(right, half) == {1: 2}  # the share must be larger than one half
    assert wrong(right, other) == {1: 0, 2: 2}  # a group affects only its own category


def test_a_prediction_that_matches_an_object_counts_even_in_a_group() -> None:
    mask = rectangle(4, 4, 8, 8)
    group = MadeTrack(np.stack([rectangle(0, 0, 16, 16)]), is_crowd=True)
    video = MadeVideo([MadeTrack(np.stack([mask])), group], [MadeTrack(np.stack([mask]))])
    assert hota_summary(hota_of([video.overlaps()]))["HOTA"] == 1


# --- properties -----------------------------------------------------------------------------------

LANES = 4  # objects that cannot touch: each stays in its own columns


@st.composite
def lane_videos(draw: st.DrawFn) -> MadeVideo:
    """Objects that are each in their own lane, and predictions that each are within one lane."""
    length = draw(st.integers(1, 6))
    lanes = draw(st.integers(1, LANES))
    truth = [MadeTrack(draw(lane_masks(lane, length)), 1) for lane in range(lanes)]
    truth = [track for track in truth if track.masks.any()]
    predictions = [
        MadeTrack(draw(lane_masks(lane, length)), 1, score=draw(st.floats(0, 1)))
        for lane in draw(st.lists(st.integers(0, lanes - 1), max_size=5))
    ]
    return MadeVideo(truth, predictions)


@st.composite
def lane_masks(draw: st.DrawFn, lane: int, length: int) -> np.ndarray:
    side = WIDTH // LANES
    heights = draw(st.lists(st.integers(0, HEIGHT), min_size=length, max_size=length))
    width = draw(st.integers(1, side))
    return np.stack([rectangle(0, lane * side, height, width) for height in heights])


def summary(truth: Sequence[MadeTrack], predictions: Sequence[MadeTrack]) -> dict[str, float]:
    return hota_summary(hota_of([MadeVideo(truth, predictions).overlaps()]))


@settings(max_examples=EXAMPLES)
@given(lane_videos())
def test_hota_of_the_labels_is_one(video: MadeVideo) -> None:
    measured = summary(video.truth, video.truth)
    expected = 1.0 if video.truth else NOT_MEASURED
    assert measured == pytest.approx(dict.fromkeys(("HOTA", "DetA", "AssA", "LocA"), expected))


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_the_order_of_predictions_does_not_matter(seed: int, data: st.DataObject) -> None:
    video = random_video(np.random.default_rng(seed), categories=1)
    if not video.truth:
        return
    shuffled = data.draw(st.permutations(video.predictions))
    assert summary(video.truth, shuffled) == summary(video.truth, video.predictions)


@settings(max_examples=EXAMPLES)
@given(lane_videos(), st.data())
def test_the_order_of_predictions_does_not_matter_when_all_scores_are_equal(
    video: MadeVideo, data: st.DataObject
) -> None:
    equal_scores = [MadeTrack(p.masks, p.category_id) for p in video.predictions]
    shuffled = data.draw(st.permutations(equal_scores))
    assert summary(video.truth, shuffled) == summary(video.truth, equal_scores)


@settings(max_examples=EXAMPLES)
@given(lane_videos(), st.data())
def test_a_duplicate_never_raises_hota_where_every_object_has_one_track(
    video: MadeVideo, data: st.DataObject
) -> None:
    """With several tracks on one object it may: the copy's overlap changes the matching."""
    lanes = {int(p.masks.any((0, 1)).argmax()): p for p in video.predictions if p.masks.any()}
    if not video.truth or not lanes:
        return
    tracks = list(lanes.values())
    more = summary(video.truth, [*tracks, data.draw(st.sampled_from(tracks))])
    assert more["HOTA"] <= summary(video.truth, tracks)["HOTA"] + 1e-12


@settings(max_examples=EXAMPLES)
@given(lane_videos(), st.data())
def test_splitting_a_right_track_lowers_assa_and_nothing_else(
    video: MadeVideo, data: st.DataObject
) -> None:
    tracks = [t for t in video.truth if t.masks.any((1, 2)).sum() > 1]
    if not tracks:
        return
    split = data.draw(st.sampled_from(tracks))
    present = np.flatnonzero(split.masks.any((1, 2)))
    at = data.draw(st.sampled_from(present[1:].tolist()))
    early, late = split.masks.copy(), split.masks.copy()
    early[at:], late[:at] = False, False
    rest = [t for t in video.truth if t is not split]
    measured = summary(video.truth, [*rest, MadeTrack(early), MadeTrack(late)])
    assert measured["AssA"] < 1
    assert measured["HOTA"] < 1
    assert measured["DetA"] == measured["LocA"] == 1
