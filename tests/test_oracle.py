"""Error kinds and oracles: every kind is recognised, and correcting errors never lowers AP."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.made_tracks import ap_of
from vistool.annotations.dataset import AnnotatedTrack
from vistool.formats.masks.rle import encode_mask
from vistool.metrics.ap import VideoAP
from vistool.metrics.curves import precision_recall_curves
from vistool.metrics.errors.calibration import calibration
from vistool.metrics.errors.confusion import ConfusionMatrix
from vistool.metrics.errors.diagnosis import Diagnosis, DiagnosisBuilder
from vistool.metrics.errors.kinds import IGNORED, KINDS, RIGHT, ErrorKind, judge
from vistool.metrics.errors.oracle import ErrorBreakdown, OracleEvaluator, break_down
from vistool.metrics.overlaps import NOT_MEASURED, VideoOverlaps, overlaps_of_video
from vistool.structures import RLE, TrackSegmentation

CATEGORIES = (1, 2, 3)
LENGTH, SIDE = 10, 12
Masks = list[RLE | None]
Set = list[tuple[list[AnnotatedTrack], list[TrackSegmentation]]]  # by video, ids from 0


def square(top: int, left: int, side: int = SIDE, *, width: int | None = None) -> RLE:
    mask = np.zeros((48, 64), bool)
    mask[max(top, 0) : top + side, max(left, 0) : left + (width or side)] = True
    return encode_mask(mask)


def track(top: int, frames: range = range(LENGTH), shift: int = 0, side: int = SIDE) -> Masks:
    """A square that moves right, on some of the frames."""
    return [square(top, 4 * t + shift, side) if t in frames else None for t in range(LENGTH)]


def labelled(
    masks: Masks, category: int = 1, video: int = 0, crowd: bool = False
) -> AnnotatedTrack:
    return AnnotatedTrack(video, category, masks, is_crowd=crowd)


def predicted(
    masks: Masks, score: float = 0.9, category: int = 1, video: int = 0
) -> TrackSegmentation:
    return {"video_id": video, "category_id": category, "score": score, "segmentations": masks}


def overlaps(videos: Set) -> list[VideoOverlaps]:
    return [overlaps_of_video(i, *tracks) for i, tracks in enumerate(videos)]


def broken_down(videos: Set) -> ErrorBreakdown:
    judged = [judge(video, CATEGORIES) for video in overlaps(videos)]
    return break_down(OracleEvaluator(judged, CATEGORIES), judged)


def official(videos: Set) -> VideoAP:
    return ap_of(
        [t for truth, _ in videos for t in truth],
        [p for _, predictions in videos for p in predictions],
        video_ids=range(len(videos)),
        category_ids=CATEGORIES,
    )


# Labels: two tracks of category 1 and one of category 2. Predictions: GOOD with one kind of error.
UPPER, MIDDLE, LOWER = track(0), track(16), track(32)
TRUTH = [labelled(UPPER), labelled(MIDDLE), labelled(LOWER, 2)]
GOOD = {
    "upper": predicted(UPPER, 0.8),
    "middle": predicted(MIDDLE, 0.7),
    "lower": predicted(LOWER, 0.6, 2),
}
FIRST, LAST = range(0, 5), range(5, 10)
SWITCHED = [*UPPER[:5], *MIDDLE[5:]], [*MIDDLE[:5], *UPPER[5:]]


def without(*names: str) -> list[TrackSegmentation]:
    return [prediction for name, prediction in GOOD.items() if name not in names]


INJECTED = {
    "another category": (
        ErrorKind.CLASS,
        [*without("upper"), predicted(UPPER, 0.8, 3)],
    ),
    "another category as well": (
        ErrorKind.CLASS,
        [*GOOD.values(), predicted(UPPER, 0.95, 2)],
    ),
    "outlines too small": (
        ErrorKind.SPATIAL,
        [*without("upper"), predicted(track(0, side=6), 0.8)],
    ),
    "outlines shifted": (
        ErrorKind.SPATIAL,
        [*without("upper"), predicted(track(0, shift=7), 0.8)],
    ),
    "ends too early": (
        ErrorKind.TEMPORAL,
        [*without("upper"), predicted(track(0, range(4)), 0.8)],
    ),
    "on two frames of many": (
        ErrorKind.TEMPORAL,
        [*without("upper"), predicted(track(0, range(8, 10)), 0.8)],
    ),
    "split in two": (
        ErrorKind.IDENTITY,
        [*without("upper"), predicted(track(0, FIRST[:4]), 0.8), predicted(track(0, LAST), 0.7)],
    ),
    "split in four": (
        ErrorKind.IDENTITY,
        [
            *without("upper"),
            *(predicted(track(0, range(s, s + 3)), 0.8 + s / 100) for s in range(0, 10, 3)),
        ],
    ),
    "swapped with another": (
        ErrorKind.IDENTITY,
        [*without("upper", "middle"), *(predicted(m, 0.8) for m in map(list, SWITCHED))],
    ),
    "continues on another": (
        ErrorKind.IDENTITY,
        [*without("upper"), predicted([*UPPER[:5], *LOWER[5:]], 0.8)],
    ),
    "predicted twice": (
        ErrorKind.DUPLICATE,
        [*GOOD.values(), predicted(track(0, shift=1), 0.75)],
    ),
    "on no object": (
        ErrorKind.BACKGROUND,
        [*GOOD.values(), predicted(track(20, shift=34), 0.99)],
    ),
    "part of it, another category": (
        ErrorKind.BOTH,
        [*GOOD.values(), predicted(track(0, range(4)), 0.99, 2)],
    ),
    "one track missed": (ErrorKind.MISSED, without("middle")),
    "all tracks missed": (ErrorKind.MISSED, []),
}


@pytest.mark.parametrize("name", INJECTED)
def test_one_kind_of_error_is_recognised_and_ap_is_one_if_it_is_corrected(name: str) -> None:
    kind, predictions = INJECTED[name]
    breakdown = broken_down([(TRUTH, predictions)])
    assert {oracle.kind for oracle in breakdown.kinds if oracle.count} == {kind}
    assert breakdown.ap50 < 1
    for oracle in breakdown.kinds:
        if oracle.kind == kind:
            assert oracle.ap50 == pytest.approx(1)
            assert oracle.ap50_gain == pytest.approx(1 - breakdown.ap50)
        else:
            assert oracle.ap50 == breakdown.ap50


def test_the_labels_themselves_have_no_errors() -> None:
    breakdown = broken_down([(TRUTH, list(GOOD.values()))])
    assert (breakdown.ap, breakdown.ap50) == (1, 1)
    assert (breakdown.num_truth, breakdown.num_right) == (3, 3)
    assert all(oracle.count == 0 and oracle.ap_gain == 0 for oracle in breakdown.kinds)


def test_a_loose_outline_is_right_at_one_half_and_a_spatial_error_above() -> None:
    loose = [predicted([square(0, 4 * t, 14) for t in range(LENGTH)], 0.8)]
    breakdown = broken_down([(TRUTH[:1], loose)])
    spatial = breakdown.kinds[KINDS.index(ErrorKind.SPATIAL)]
    assert (breakdown.ap50, spatial.count) == (1, 0)
    assert breakdown.ap == pytest.approx(0.5)  # 144 / 196 = 0.73
    assert spatial.ap == pytest.approx(1)


def test_a_short_copy_of_a_matched_track_is_not_a_split() -> None:
    copy = predicted(track(0, FIRST[:4]), 0.5)
    breakdown = broken_down([(TRUTH, [*GOOD.values(), copy])])
    assert {m.kind for m in breakdown.kinds if m.count} == {ErrorKind.TEMPORAL}


def test_crowds_are_not_missed_and_predictions_on_them_are_not_wrong() -> None:
    crowd = labelled(track(34, side=14), crowd=True)
    on_crowd = [predicted(track(34, side=14), 0.9), predicted(track(34, side=14), 0.95)]
    breakdown = broken_down([([*TRUTH[:2], crowd], [*without("lower"), *on_crowd])])
    assert (breakdown.ap, breakdown.num_truth, breakdown.num_right) == (1, 2, 2)
    assert not any(oracle.count for oracle in breakdown.kinds)


def test_without_labelled_tracks_nothing_is_measured() -> None:
    breakdown = broken_down([([], [predicted(UPPER)])])
    assert (breakdown.ap, breakdown.ap50) == (NOT_MEASURED, NOT_MEASURED)
    assert {(m.kind, m.ap, m.ap_gain) for m in breakdown.kinds if m.count} == {
        (ErrorKind.BACKGROUND, NOT_MEASURED, 0.0)
    }


# --- properties -----------------------------------------------------------------------------------


@st.composite
def sets(draw: st.DrawFn) -> Set:
    """Up to three videos of six frames with up to four tracks.

    Predictions are copies of the tracks: cut, mixed with each other, or with another category.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [_random_video(rng, video) for video in range(draw(st.integers(1, 3)))]


def _random_video(
    rng: np.random.Generator, video: int
) -> tuple[list[AnnotatedTrack], list[TrackSegmentation]]:
    def masks() -> Masks:
        top, left, side = map(int, rng.integers((0, 0, 6), (40, 40, 16)))
        start, stop = sorted(rng.integers(0, 7, 2))
        steps = range(start, max(stop, start + 1))
        return [square(top, left + 2 * t, side) if t in steps else None for t in range(6)]

    truth = [
        labelled(masks(), int(rng.integers(1, 4)), video, crowd=rng.random() < 0.1)
        for _ in range(rng.integers(0, 5))
    ]
    predictions = []
    for _ in range(rng.integers(0, 9)):
        near = truth[rng.integers(len(truth))] if truth else None
        other = truth[rng.integers(len(truth))] if truth else None
        guess = masks()
        category = int(rng.integers(1, 4))
        if near is not None and other is not None and rng.random() < 0.85:
            sources: Sequence[Sequence[RLE | None]] = (near.segmentations, other.segmentations)
            weights = [(1.0, 0.0), (0.5, 0.5), (0.7, 0.0)][rng.integers(3)]
            for t in range(6):
                draw = rng.random()
                if draw < weights[0]:
                    guess[t] = sources[0][t]
                elif draw < sum(weights):
                    guess[t] = sources[1][t]
            category = near.category_id if rng.random() < 0.8 else category
        predictions.append(predicted(guess, float(rng.integers(1, 8)) / 8, category, video))
    return truth, predictions


@settings(max_examples=60)
@given(sets())
def test_uncorrected_ap_is_the_official_one_and_corrections_never_lower_it(videos: Set) -> None:
    breakdown = broken_down(videos)
    summary = official(videos).summary()
    assert (breakdown.ap, breakdown.ap50) == pytest.approx((summary["AP"], summary["AP50"]))
    for oracle in breakdown.kinds:
        assert oracle.ap >= breakdown.ap - 1e-12
        assert oracle.ap50 >= breakdown.ap50 - 1e-12


@settings(max_examples=60)
@given(sets())
def test_with_every_kind_corrected_ap_is_one(videos: Set) -> None:
    judged = [judge(video, CATEGORIES) for video in overlaps(videos)]
    corrected = OracleEvaluator(judged, CATEGORIES).corrected(KINDS)
    assert corrected == ((1, 1) if any((~v.crowd).any() for v in judged) else (-1, -1))


@settings(max_examples=40)
@given(sets())
def test_ap_lost_in_a_video_is_at_least_zero_and_at_most_all_lost_ap(videos: Set) -> None:
    judged = [judge(video, CATEGORIES) for video in overlaps(videos)]
    evaluator = OracleEvaluator(judged, CATEGORIES)
    now, everything = evaluator.corrected(()), evaluator.corrected(KINDS)
    for place in range(len(judged)):
        for lost, ap, best in zip(evaluator.lost_in(place), now, everything, strict=True):
            assert -1e-12 <= lost <= best - ap + 1e-12


@settings(max_examples=60)
@given(sets())
def test_every_prediction_has_one_kind_and_a_matched_track_is_not_missed(videos: Set) -> None:
    for video in overlaps(videos):
        judged = judge(video, CATEGORIES)
        assert set(np.unique(judged.kinds)) <= {RIGHT, IGNORED, *range(len(KINDS) - 1)}
        meant = judged.of_kind({ErrorKind.CLASS, ErrorKind.SPATIAL, ErrorKind.TEMPORAL})
        meant |= judged.of_kind({ErrorKind.IDENTITY}) | (judged.kinds == RIGHT)
        assert (judged.targets[meant] >= 0).all()
        assert not judged.crowd[judged.targets[meant]].any()
        # A track has at most one right prediction, and is then not missed.
        for targets, kinds, missed in zip(
            judged.targets, judged.kinds, judged.missed(), strict=True
        ):
            right = targets[kinds == RIGHT]
            assert len(set(right.tolist())) == len(right)
            assert not missed[right].any()


@settings(max_examples=30)
@given(sets(), st.randoms(use_true_random=False))
def test_the_order_of_tracks_does_not_matter(videos: Set, random: Random) -> None:
    for _, predictions in videos:
        for rank, prediction in enumerate(predictions):
            prediction["score"] += rank / 1000  # no equal scores: there, the order decides
    for video in overlaps(videos):
        assume(all(len(set(row[row > 0])) == (row > 0).sum() for row in video.iou()))
    breakdown = broken_down(videos)
    shuffled = [(random.sample(t, len(t)), random.sample(p, len(p))) for t, p in videos]
    again = broken_down(shuffled)
    assert (again.ap, again.ap50, again.num_right) == pytest.approx(
        (breakdown.ap, breakdown.ap50, breakdown.num_right)
    )
    for ours, theirs in zip(again.kinds, breakdown.kinds, strict=True):
        assert (ours.count, ours.ap) == pytest.approx((theirs.count, theirs.ap))


# --- the other parts of a diagnosis ---------------------------------------------------------------


def diagnosed(videos: Set, min_score: float = 0.5) -> Diagnosis:
    builder = DiagnosisBuilder(CATEGORIES, min_score=min_score)
    for video in overlaps(videos):
        builder.add(video)
    return builder.diagnosis()


def confusion(predictions: list[TrackSegmentation]) -> ConfusionMatrix:
    return diagnosed([(TRUTH, predictions)]).confusion


def test_the_confusion_matrix_counts_pairs_background_and_misses() -> None:
    assert confusion(list(GOOD.values())).counts == (
        (2, 0, 0, 0),
        (0, 1, 0, 0),
        (0, 0, 0, 0),
        (0, 0, 0, 0),
    )
    mixed = [
        predicted(UPPER, 0.8, 3),
        predicted(track(0, shift=1), 0.9, 2),  # is matched first
        predicted(MIDDLE, 0.4),  # below `min_score`
        *without("upper", "middle"),
        predicted(LOWER, 0.6, 77),  # a category that is not in the set
    ]
    assert confusion(mixed).counts == (
        (0, 1, 0, 1),
        (0, 1, 0, 0),
        (0, 0, 0, 0),
        (0, 0, 1, 0),
    )


def test_between_tracks_in_one_place_a_prediction_matches_its_own_category() -> None:
    truth = [labelled(UPPER, 2), labelled(UPPER, 1), labelled(UPPER, 3)]
    matrix = diagnosed([(truth, [predicted(UPPER, 0.9, 1)])]).confusion
    assert [row[0] for row in matrix.counts] == [1, 0, 0, 0]


def test_calibration_is_the_distance_of_scores_from_the_share_that_is_right() -> None:
    sure = calibration(np.array([0.95] * 10), np.array([True] * 5 + [False] * 5))
    assert (sure.error, sure.largest_error, sure.bias) == pytest.approx((0.45, 0.45, 0.45))
    assert [b.count for b in sure.bins] == [0] * 9 + [10]
    mixed = calibration(np.array([0.25, 0.25, 0.65, 1.0]), np.array([False, True, True, True]))
    # |0.25 - 0.5| twice, |0.65 - 1| once, 0 once
    assert mixed.error == pytest.approx((2 * 0.25 + 0.35) / 4)
    assert calibration(np.empty(0), np.empty(0)).error == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_calibration_errors_are_at_most_one_and_in_order(
    pairs: list[tuple[float, bool]],
) -> None:
    scores, right = (np.array(column) for column in zip(*pairs, strict=True))
    found = calibration(scores, right)
    assert sum(b.count for b in found.bins) == found.count == len(pairs)
    assert abs(found.bias) - 1e-12 <= found.error <= found.largest_error + 1e-12 <= 1 + 2e-12


def test_the_calibration_leaves_out_ignored_predictions() -> None:
    crowd = labelled(LOWER, crowd=True)
    found = diagnosed([([TRUTH[0], crowd], [predicted(LOWER, 0.9), predicted(UPPER, 0.8)])])
    assert found.calibration.count == 1
    assert found.calibration.bias == pytest.approx(-0.2)


def test_the_mean_of_each_curve_is_ap() -> None:
    videos = [(TRUTH, [*without("middle"), predicted(track(20, shift=34), 0.75)])]
    ap = official(videos)
    curves = precision_recall_curves(ap)
    assert [curve.category_id for curve in curves.curves] == [None, 1, 2]
    for curve in curves.curves[1:]:
        assert curve.category_id is not None
        numbers = ap.by_category()[curve.category_id]
        for level, name in {"IoU 0.5": "AP50", "IoU 0.75": "AP75", "mean": "AP"}.items():
            assert np.mean(curve.precision[level]) == pytest.approx(numbers[name])
    assert np.mean(curves.curves[0].precision["mean"]) == pytest.approx(ap.summary()["AP"])
    assert precision_recall_curves(official([([], [])])).curves == ()


def test_videos_are_ordered_by_lost_ap() -> None:
    good = (TRUTH, list(GOOD.values()))
    slightly = (TRUTH, [*GOOD.values(), predicted(track(20, shift=34), 0.75)])
    badly = (TRUTH, without("upper", "lower"))
    found = diagnosed([good, slightly, badly])
    assert [video.video_id for video in found.videos] == [2, 1, 0]
    worst, middle, best = found.videos
    assert worst.ap_lost > middle.ap_lost > best.ap_lost == 0
    assert (worst.num_truth, worst.num_found, worst.num_false) == (3, 1, 0)
    assert worst.kinds["missed"] == 2
    # In a set of one video, all AP is lost in that video.
    alone = diagnosed([badly])
    assert alone.videos[0].ap_lost == pytest.approx(1 - alone.breakdown.ap)
    assert alone.videos[0].ap50_lost == pytest.approx(1 - alone.breakdown.ap50)


def test_every_labelled_track_is_listed_with_its_best_prediction_by_rising_iou() -> None:
    predictions = [*without("upper", "middle"), predicted(track(0, FIRST[:4]), 0.8)]
    tracks = diagnosed([(TRUTH, predictions)]).tracks
    assert [(t.truth, t.kind) for t in tracks] == [
        (1, ErrorKind.MISSED),
        (0, ErrorKind.TEMPORAL),
        (2, None),
    ]
    assert [(t.prediction, t.iou, t.score) for t in tracks] == [
        (None, 0.0, 0.0),
        (1, pytest.approx(0.4), 0.8),
        (0, 1.0, 0.6),
    ]
    assert all(t.num_frames == LENGTH for t in tracks)


def test_false_positives_are_listed_by_score_with_their_targets() -> None:
    stray, copy = predicted(track(20, shift=34), 0.3), predicted(UPPER, 0.7)
    found = diagnosed([(TRUTH, [*GOOD.values(), stray, copy])]).false_positives
    assert [(f.prediction, f.kind, f.truth) for f in found] == [
        (4, ErrorKind.DUPLICATE, 0),
        (3, ErrorKind.BACKGROUND, None),
    ]
    assert [(f.score, f.iou) for f in found] == [(0.7, 1.0), (0.3, 0.0)]
