"""J and F of DAVIS: equal to plain loops over pixels and to TrackEval; and their properties."""

from __future__ import annotations

import itertools
import math
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.made_tracks import MadeTrack, MadeVideo, davis_of, random_video, rectangle
from tests.trackeval_data import trackeval_metric
from vistool.annotations.dataset import AnnotatedTrack
from vistool.errors import DataError
from vistool.formats.masks.rle import encode_mask
from vistool.metrics.boundary import boundary_bounds, boundary_measure
from vistool.metrics.davis import (
    MOST_PROPOSALS,
    Comparison,
    DavisResult,
    Statistics,
    best_partners,
    davis_of_video,
)
from vistool.metrics.overlaps import NOT_MEASURED, overlaps_of_video
from vistool.structures import TrackSegmentation

EXAMPLES = 40  # per property; comparing masks is slow
PROBLEMS = 30
NAMES = ("mean", "recall", "decay")

# --- the boundary measure, pixel by pixel ---------------------------------------------------------


def plain_boundary(mask: np.ndarray) -> list[tuple[int, int]]:
    """The boundary by the benchmark's rule, with its own cases for the edges of the mask."""
    height, width = mask.shape
    found = []
    for y in range(height):
        for x in range(width):
            here = mask[y, x]
            east = mask[y, x + 1] if x + 1 < width else False
            south = mask[y + 1, x] if y + 1 < height else False
            south_east = mask[y + 1, x + 1] if y + 1 < height and x + 1 < width else False
            if y == height - 1 and x == width - 1:
                on = False
            elif y == height - 1:
                on = here != east
            elif x == width - 1:
                on = here != south
            else:
                on = here != east or here != south or here != south_east
            if on:
                found.append((y, x))
    return found


def plain_f(mask: np.ndarray, truth: np.ndarray) -> float:
    radius = math.ceil(0.008 * math.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2))
    ours, theirs = plain_boundary(mask), plain_boundary(truth)

    def near(points: list[tuple[int, int]], others: list[tuple[int, int]]) -> float:
        return sum(
            any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in points
        )

    if not ours or not theirs:
        return 1.0 if not ours and not theirs else 0.0
    precision, recall = near(ours, theirs) / len(ours), near(theirs, ours) / len(theirs)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


@given(st.data())
@settings(max_examples=150)
def test_f_equals_plain_loops_on_any_masks(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    mask, truth = (data.draw(arrays.arrays(bool, shape)) for _ in range(2))
    assert boundary_measure([encode_mask(mask)], [encode_mask(truth)]) == pytest.approx(
        plain_f(mask, truth), abs=1e-12
    )


@pytest.mark.parametrize("size", [(90, 120), (130, 260), (300, 60)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_f_equals_plain_loops_where_boundaries_may_lie_some_pixels_apart(
    size: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]

    def disc(y: float, x: float, radius: float) -> np.ndarray:
        return np.asarray((rows - y) ** 2 + (columns - x) ** 2 < radius**2)

    y, x = rng.uniform((0, 0), size)
    radius = rng.uniform(8, 20)
    truth = disc(y, x, radius) | disc(y + 9, x - 14, 7)  # often cut by the edge
    mask = disc(y + rng.normal(0, 2), x + rng.normal(0, 2), radius + rng.normal(0, 2))
    expected = plain_f(mask, truth)
    assert 0 < expected < 1
    assert boundary_measure([encode_mask(mask)], [encode_mask(truth)]) == pytest.approx(expected)


def test_f_of_masks_that_are_absent_or_fill_the_picture() -> None:
    nothing = np.zeros((20, 30), bool)
    some = rectangle(2, 3, 5, 5)[:20, :30]
    full, empty = encode_mask(~nothing), encode_mask(nothing)
    track = [None, None, full, empty, None, full, encode_mask(some)]
    truth = [None, empty, None, full, encode_mask(some), encode_mask(some), encode_mask(some)]
    # F of two masks without a boundary (empty or full) is 1.
    assert boundary_measure(track, truth).tolist() == [1, 1, 1, 1, 0, 0, 1]


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 10**6))
def test_f_never_exceeds_what_the_boxes_allow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tracks = [t.codes() for t in random_video(rng).truth]
    if tracks:
        exact = np.array([[boundary_measure(a, b) for b in tracks] for a in tracks])
        bounds = boundary_bounds(tracks, tracks)
        assert (exact.transpose(2, 0, 1) <= bounds).all()


# --- the region measure ---------------------------------------------------------------------------


def block(left: int, right: int, height: int = 10) -> Any:
    """Columns `left` to `right` of a mask 30 pixels wide."""
    mask = np.zeros((height, 30), bool)
    mask[:, left:right] = True
    return encode_mask(mask)


def region_similarity(track: Any, truth: Any) -> np.ndarray:
    """J of every frame of one pair: [F]."""
    predicted = TrackSegmentation(video_id=1, category_id=1, score=1.0, segmentations=track)
    video = overlaps_of_video(1, [AnnotatedTrack(1, 1, truth)], [predicted])
    return Comparison(video).regions([0], [0])[:, 0, 0]


def test_j_is_the_overlap_of_each_frame_and_one_where_both_are_empty() -> None:
    empty = block(0, 0)
    truth = [block(0, 10), block(0, 10), None, empty, None]
    track = [block(0, 10), block(5, 15), empty, None, block(0, 1)]
    assert region_similarity(track, truth).tolist() == [1, pytest.approx(1 / 3), 1, 1, 0]


def test_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="sizes 10x30 and 12x30"):
        region_similarity([block(0, 5)], [block(0, 5, height=12)])


# --- statistics -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "decay"),
    [
        ([0.7], 0.0),
        ([0.9, 0.4], 0.5),
        # eight frames: edges at 1 2.75 4.5 6.25 8, so frames 1-3 minus 6-8
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], 0.8 - 0.3),
        # 300 frames: edges at 1 75.75 150.5 225.25 300, so 1-76 minus 225-300
        ([1.0] * 76 + [0.5] * 148 + [0.25] * 76, 0.75),
    ],
    ids=["1", "2", "8", "300"],
)
def test_decay_is_the_first_quarter_minus_the_last(values: list[float], decay: float) -> None:
    assert Statistics.of(np.array(values)).decay == pytest.approx(decay)


def test_recall_counts_frames_above_one_half() -> None:
    statistics = Statistics.of(np.array([0.5, 0.51, 0.9, 0.1]))
    assert [statistics.mean, statistics.recall] == pytest.approx([0.5025, 0.5])


# --- protocols ------------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(PROBLEMS))
def test_the_unsupervised_protocol_equals_trackeval(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = trackeval_metric("JAndF")
    metric.optim_type = "J&F"
    # TrackEval uses only the disk of scikit-image.
    morphology = ModuleType("skimage.morphology")
    monkeypatch.setattr(morphology, "disk", disk, raising=False)
    monkeypatch.setitem(sys.modules, "skimage", ModuleType("skimage"))
    monkeypatch.setitem(sys.modules, "skimage.morphology", morphology)
    rng = np.random.default_rng([seed, 2])
    videos = [visible(random_video(rng)) for _ in range(rng.integers(1, 4))]
    videos = [v for v in videos if v.truth] or [MadeVideo([still(A)], [still(B)])]
    result = davis_of(video.overlaps(i) for i, video in enumerate(videos))
    sequences = {i: metric.eval_sequence(as_trackeval(v)) for i, v in enumerate(videos)}
    for i in {followed.video_id for followed in result.objects}:
        objects = tuple(o for o in result.objects if o.video_id == i)
        agree(DavisResult(objects).summary(), sequences[i])
    agree(result.summary(), metric.combine_sequences(sequences))


def visible(video: MadeVideo) -> MadeVideo:
    """The video without objects that are never visible: TrackEval does not accept them."""
    return MadeVideo([t for t in video.truth if t.masks.any()], video.predictions)


def agree(ours: dict[str, float], theirs: dict[str, float]) -> None:
    names = {f"{m}_{which}": f"{m}-{which.title()}" for m in "JF" for which in NAMES}
    assert ours == pytest.approx(
        {"J&F_mean": theirs["J&F"], **{k: theirs[v] for k, v in names.items()}}, abs=1e-12
    )


def disk(radius: float) -> np.ndarray:
    rows, columns = np.mgrid[-int(radius) : int(radius) + 1, -int(radius) : int(radius) + 1]
    return np.asarray(rows**2 + columns**2 <= radius**2)


def as_trackeval(video: MadeVideo) -> dict[str, Any]:
    length = len(video.truth[0].masks)
    data: dict[str, Any] = {"num_timesteps": length}
    for name, tracks in (("gt", video.truth), ("tracker", video.predictions)):
        codes = [t.codes() for t in tracks]
        there = [[n for n, c in enumerate(codes) if c[t] is not None] for t in range(length)]
        data[f"num_{name}_ids"] = len(tracks)
        data[f"{name}_ids"] = [np.array(ids, int) for ids in there]
        data[f"{name}_dets"] = [[codes[n][t] for n in ids] for t, ids in enumerate(there)]
    return data


@pytest.mark.parametrize("seed", range(8))
def test_the_best_partners_are_the_best_of_all_assignments(seed: int) -> None:
    rng = np.random.default_rng([seed, 3])
    video = next(v for v in (visible(random_video(rng)) for _ in itertools.count()) if v.truth)
    truth, predictions = video.truth[:3], [*video.predictions[:4]]
    predictions += [MadeTrack(np.zeros_like(truth[0].masks), score=0.0)] * 3
    overlaps = MadeVideo(truth, predictions).overlaps()
    worth = [
        [
            np.mean(region_similarity(p.codes(), t.codes()))
            + np.mean([plain_f(a, b) for a, b in zip(p.masks, t.masks, strict=True)])
            for t in truth
        ]
        for p in predictions
    ]
    best = max(
        sum(worth[p][g] for g, p in enumerate(order))
        for order in itertools.permutations(range(len(predictions)), len(truth))
    )
    chosen = best_partners(Comparison(overlaps))
    assert len(set(chosen.values())) == len(truth)
    assert sum(worth[p][g] for g, p in chosen.items()) == pytest.approx(best)


def still(mask: np.ndarray, score: float = 1.0, length: int = 4) -> MadeTrack:
    return MadeTrack(np.stack([mask] * length), score=score)


A, B, ELSEWHERE = rectangle(1, 1, 8, 8), rectangle(12, 2, 8, 12), rectangle(4, 22, 9, 9)


def test_an_object_is_compared_with_the_track_that_follows_it_best_whatever_its_score() -> None:
    video = MadeVideo([still(A), still(B)], [still(B, 0.3), still(ELSEWHERE, 0.9), still(A, 0.2)])
    overlaps = video.overlaps()
    assert best_partners(Comparison(overlaps)) == {0: 2, 1: 0}
    assert davis_of([overlaps]).summary()["J&F_mean"] == 1


def test_objects_without_a_prediction_and_groups() -> None:
    absent_later = still(A).masks.copy()
    absent_later[2:] = False
    truth = [MadeTrack(absent_later), MadeTrack(still(B).masks, is_crowd=True)]
    (followed,) = davis_of_video(MadeVideo(truth, []).overlaps())
    assert (followed.truth, followed.prediction) == (0, None)
    # As in the benchmark, J and F are 1 where both are empty.
    assert followed.region.tolist() == followed.boundary.tolist() == [0, 0, 1, 1]


def test_without_objects_nothing_is_measured() -> None:
    result = davis_of([MadeVideo([], [still(A)]).overlaps(), MadeVideo([], []).overlaps()])
    assert set(result.summary().values()) == {NOT_MEASURED}
    assert result.objects == ()


def test_only_the_highest_scoring_proposals_take_part() -> None:
    others = [still(ELSEWHERE, 0.9)] * (MOST_PROPOSALS - 1)
    last = MadeVideo([still(A)], [*others, still(A, 0.1)]).overlaps()
    one_more = MadeVideo([still(A)], [*others, still(B, 0.9), still(A, 0.1)]).overlaps()
    assert davis_of([last]).summary()["J_mean"] == 1
    assert davis_of([one_more]).summary()["J_mean"] == 0


@pytest.mark.parametrize("seed", range(6))
def test_void_pixels_count_neither_as_object_nor_as_background(seed: int) -> None:
    # The official code computes J from the pixels outside void, and F from masks without void.
    rng = np.random.default_rng([seed, 5])
    length = 3
    objects = [MadeTrack(np.stack([A | B] * length)), MadeTrack(np.stack([ELSEWHERE] * length))]
    corners = rng.integers(0, 20, (length, 2)).tolist()
    void = np.stack([rectangle(top, left, 8, 9) for top, left in corners])
    void[1] = False
    shift = rng.integers(-2, 3, 2)
    predictions = [MadeTrack(np.roll(t.masks, shift, (1, 2)), score=0.5) for t in objects]
    video = MadeVideo([*objects, MadeTrack(void, is_crowd=True)], predictions)
    followed = davis_of_video(video.overlaps())
    assert [(o.truth, o.prediction) for o in followed] == [(0, 0), (1, 1)]
    for quality, object_, prediction in zip(followed, objects, predictions, strict=True):
        for t in range(length):
            ours, theirs = prediction.masks[t] & ~void[t], object_.masks[t] & ~void[t]
            assert quality.region[t] == (ours & theirs).sum() / (ours | theirs).sum()
            assert quality.boundary[t] == pytest.approx(plain_f(ours, theirs), abs=1e-12)


# --- properties -----------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 10**6))
def test_j_and_f_of_the_labels_are_one(seed: int) -> None:
    truth = visible(random_video(np.random.default_rng(seed))).truth
    video = MadeVideo(truth, truth).overlaps()
    summary = davis_of([video]).summary()
    for name in ("J&F_mean", "J_mean", "F_mean", "J_recall", "F_recall"):
        assert summary[name] == (1 if truth else NOT_MEASURED)
    assert summary["J_decay"] == (0 if truth else NOT_MEASURED)


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_the_order_of_predictions_does_not_matter(seed: int, data: st.DataObject) -> None:
    video = random_video(np.random.default_rng(seed))
    shuffled = MadeVideo(video.truth, data.draw(st.permutations(video.predictions)))
    assert davis_of([shuffled.overlaps()]).summary() == davis_of([video.overlaps()]).summary()


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 10**6))
def test_one_more_proposal_never_lowers_j_and_f_together(seed: int) -> None:
    video = visible(random_video(np.random.default_rng(seed)))
    if not video.truth or not video.predictions:
        return
    fewer = MadeVideo(video.truth, video.predictions[1:])
    less = davis_of([fewer.overlaps()]).summary()["J&F_mean"]
    # On frames without the object, a wrong track scores lower than an empty one.
    if len(fewer.predictions) >= len(video.truth):
        assert davis_of([video.overlaps()]).summary()["J&F_mean"] >= less - 1e-12
