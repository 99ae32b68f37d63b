"""IDF1 and CLEAR MOT: equal to TrackEval on random problems; small cases are checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_tracks import MadeTrack, MadeVideo, identity_of, random_video, rectangle
from tests.trackeval_data import trackeval_metric, trackeval_problem
from vistool.metrics.identity import IdentityCounts, identity_of_video

PROBLEMS = 60
EXAMPLES = 40  # per property; comparing masks is slow
CATEGORIES = (1, 2, 3)


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(PROBLEMS))
def test_identity_and_clear_equal_trackeval(seed: int) -> None:
    identity, clear = trackeval_metric("Identity"), trackeval_metric("CLEAR")
    rng = np.random.default_rng([seed, 1])
    videos = [random_video(rng) for _ in range(rng.integers(1, 5))]
    result = identity_of(video.overlaps(i) for i, video in enumerate(videos))
    theirs = {}
    for category in CATEGORIES:
        problems = {i: trackeval_problem(video, category) for i, video in enumerate(videos)}
        by_video = [{i: m.eval_sequence(p) for i, p in problems.items()} for m in (identity, clear)]
        theirs[category] = (
            identity.combine_sequences(by_video[0]),
            clear.combine_sequences(by_video[1]),
        )
    found = result.by_category()
    for category, counts in found.items():
        equal(counts, *theirs[category])
    with_truth = [k for k, counts in found.items() if counts.num_labelled]
    if with_truth:
        averaged = result.class_averaged()
        for metric, names, which in (
            (identity, ("IDF1", "IDP", "IDR"), 0),
            (clear, ("MOTA", "MOTP"), 1),
        ):
            expected = metric.combine_classes_class_averaged(
                {k: theirs[k][which] for k in with_truth}
            )
            assert [averaged[n] for n in names] == pytest.approx([expected[n] for n in names])
    total = result.total()
    if total is not None:
        equal(
            total,
            identity.combine_classes_det_averaged({k: v[0] for k, v in theirs.items()}),
            clear.combine_classes_det_averaged({k: v[1] for k, v in theirs.items()}),
        )


def equal(ours: IdentityCounts, identity: dict[str, float], clear: dict[str, float]) -> None:
    assert {
        "IDTP": ours.identified,
        "IDFN": ours.num_labelled - ours.identified,
        "IDFP": ours.num_predicted - ours.identified,
    } == {name: identity[name] for name in ("IDTP", "IDFN", "IDFP")}
    assert {
        "CLR_TP": ours.matches,
        "CLR_FN": ours.num_labelled - ours.matches,
        "CLR_FP": ours.num_predicted - ours.matches,
        "IDSW": ours.switches,
        "Frag": ours.fragmentations,
        "MT": ours.mostly_tracked,
        "ML": ours.mostly_lost,
        "PT": ours.num_tracks - ours.mostly_tracked - ours.mostly_lost,
    } == {n: clear[n] for n in ("CLR_TP", "CLR_FN", "CLR_FP", "IDSW", "Frag", "MT", "ML", "PT")}
    rates = {**{n: identity[n] for n in ("IDF1", "IDP", "IDR")}, "MOTA": clear["MOTA"]}
    assert ours.summary() == pytest.approx({**rates, "MOTP": clear["MOTP"]}, abs=1e-12)


def counts_of(truth: list[MadeTrack], predictions: list[MadeTrack]) -> IdentityCounts:
    return identity_of_video(MadeVideo(truth, predictions).overlaps())[1]


def track(*present: int, length: int = 6) -> MadeTrack:
    masks = np.zeros((length, *rectangle(0, 0, 8, 8).shape), bool)
    masks[list(present)] = rectangle(4, 4, 8, 8)
    return MadeTrack(masks)


def test_a_change_to_another_track_and_back_counts_as_two_switches() -> None:
    counts = counts_of([track(*range(6))], [track(0, 1, 4, 5), track(2, 3)])
    assert (counts.switches, counts.fragmentations) == (2, 0)
    assert (counts.identified, counts.matches) == (4, 6)
    assert counts.summary() == pytest.approx(
        {"IDF1": 4 / 6, "IDP": 4 / 6, "IDR": 4 / 6, "MOTA": 4 / 6, "MOTP": 1}
    )


def test_a_gap_is_a_fragmentation_and_not_a_switch() -> None:
    elsewhere = MadeTrack(np.stack([rectangle(16, 20, 6, 6)] * 6))
    counts = counts_of([track(*range(6))], [track(0, 1, 4, 5), elsewhere])
    assert (counts.switches, counts.fragmentations) == (0, 1)
    assert (counts.mostly_tracked, counts.mostly_lost, counts.num_tracks) == (0, 0, 1)


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 10**6))
def test_the_labels_score_one_without_a_switch(seed: int) -> None:
    truth = random_video(np.random.default_rng(seed), categories=1).truth
    # Every object gets its own rows, because overlapping ones could be exchanged.
    rows = [MadeTrack(t.masks & rectangle(4 * i, 0, 4, 32)) for i, t in enumerate(truth)]
    rows = [t for t in rows if t.masks.any()]
    if not rows:
        return
    counts = counts_of(rows, rows)
    assert counts.summary() == pytest.approx(dict.fromkeys(counts.summary(), 1.0))
    assert (counts.switches, counts.mostly_tracked) == (0, len(rows))


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_the_order_of_predictions_does_not_matter(seed: int, data: st.DataObject) -> None:
    video = random_video(np.random.default_rng(seed))
    shuffled = MadeVideo(video.truth, data.draw(st.permutations(video.predictions)))
    assert identity_of_video(shuffled.overlaps()) == identity_of_video(video.overlaps())
