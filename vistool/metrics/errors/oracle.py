"""Oracles: AP with all errors of one kind corrected, or all errors in one video.

A wrong prediction is corrected by matching it with its target track, at its own score. If the
track is already matched, or a higher-scoring prediction is corrected to it, the prediction is
removed instead. Missed tracks are corrected by removing them from the labels; the AP of a category
without remaining labels is then 1. So a correction never lowers AP, and AP is 1 with all kinds
corrected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vistool.metrics.ap import IOU_THRESHOLDS, precision_and_recall
from vistool.metrics.errors.kinds import (
    HALF,
    IGNORED,
    KINDS,
    MEANT,
    RIGHT,
    ErrorKind,
    JudgedVideo,
)
from vistool.metrics.overlaps import NOT_MEASURED


@dataclass(frozen=True, slots=True)
class Oracle:
    """AP with all errors of one kind corrected."""

    kind: ErrorKind
    count: int  # at IoU 0.5
    ap: float
    ap50: float
    ap_gain: float  # over the AP without corrections
    ap50_gain: float


@dataclass(frozen=True, slots=True)
class ErrorBreakdown:
    """AP, and the oracles of every kind of error; values are -1 if nothing is labelled."""

    ap: float
    ap50: float
    num_truth: int  # crowds left out
    num_right: int  # predictions that are right at IoU 0.5
    kinds: tuple[Oracle, ...]  # one for every ErrorKind


def break_down(evaluator: OracleEvaluator, videos: Sequence[JudgedVideo]) -> ErrorBreakdown:
    """The oracles of every kind of error, over the videos of the evaluator."""
    now = evaluator.corrected(())
    counts = [video.counts() for video in videos]
    kinds = []
    for kind in KINDS:
        then = evaluator.corrected({kind})
        gains = (0.0, 0.0) if now[0] == NOT_MEASURED else (then[0] - now[0], then[1] - now[1])
        kinds.append(Oracle(kind, sum(c[kind] for c in counts), *then, *gains))
    return ErrorBreakdown(
        ap=now[0],
        ap50=now[1],
        num_truth=sum(int((~v.crowd).sum()) for v in videos),
        num_right=sum(int((v.kinds[HALF] == RIGHT).sum()) for v in videos),
        kinds=tuple(kinds),
    )


class OracleEvaluator:
    """Computes AP of a set of judged videos, without and with corrected errors."""

    def __init__(self, videos: Sequence[JudgedVideo], category_ids: Iterable[int]) -> None:
        self._videos = videos
        self._plain = [_outcome(video, ()) for video in videos]
        labelled = {category for outcome in self._plain for category in outcome.num_truth}
        self._labelled = sorted(labelled.intersection(category_ids))
        self._tables = _tables(self._plain, self._labelled)
        self._ap = {category: table.ap() for category, table in self._tables.items()}

    def corrected(self, kinds: Collection[ErrorKind]) -> tuple[float, float]:
        """AP and AP50 with these kinds corrected in all videos; -1 if nothing is labelled."""
        if not kinds:
            return _mean(self._ap)
        tables = _tables([_outcome(video, kinds) for video in self._videos], self._labelled)
        return _mean({category: table.ap() for category, table in tables.items()})

    def lost_in(self, place: int) -> tuple[float, float]:
        """The gain of AP and AP50 if every error in one video is corrected.

        Args: place: index of the video.
        """
        if not self._labelled:
            return 0.0, 0.0
        outcome = _outcome(self._videos[place], KINDS)
        touched = {*np.unique(outcome.categories).tolist(), *outcome.num_truth}
        before, after = (
            _tables([version], sorted(touched.intersection(self._labelled)))
            for version in (self._plain[place], outcome)
        )
        changed = {
            category: self._tables[category].replaced(place, before[category], part).ap()
            for category, part in after.items()
        }
        now, then = _mean(self._ap), _mean({**self._ap, **changed})
        return then[0] - now[0], then[1] - now[1]


@dataclass(frozen=True, slots=True, eq=False)
class _Outcome:
    """The matches of a video after some errors are corrected; predictions by falling score."""

    scores: np.ndarray  # [P]
    categories: np.ndarray  # [10, P]: a corrected class may differ between thresholds
    found: np.ndarray  # [10, P] bool
    ignored: np.ndarray  # [10, P] bool
    num_truth: dict[int, np.ndarray]  # labelled category -> [10]


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """The matches of N predictions of one category, in the order of the videos."""

    scores: np.ndarray  # [N]
    videos: np.ndarray  # [N], rising
    found: np.ndarray  # [10, N] bool
    ignored: np.ndarray  # [10, N] bool
    num_truth: np.ndarray  # [10]

    def ap(self) -> np.ndarray:
        """AP by threshold, [10]; 1 where no labelled track remains."""
        order = np.argsort(-self.scores, kind="stable")
        precision, _ = precision_and_recall(
            self.found[:, order], self.ignored[:, order], np.maximum(self.num_truth, 1)[:, None]
        )
        return np.where(self.num_truth > 0, precision.mean(axis=1), 1.0)

    def replaced(self, video: int, before: _Table, after: _Table) -> _Table:
        """The table with the part of one video, `before`, replaced by `after`."""
        start, stop = np.searchsorted(self.videos, [video, video + 1])

        def put(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
            return np.concatenate([whole[..., :start], part, whole[..., stop:]], axis=-1)

        return _Table(
            put(self.scores, after.scores),
            put(self.videos, np.full(len(after.scores), video)),
            put(self.found, after.found),
            put(self.ignored, after.ignored),
            self.num_truth - before.num_truth + after.num_truth,
        )


def _tables(outcomes: Sequence[_Outcome], category_ids: Sequence[int]) -> dict[int, _Table]:
    """The matches by category."""
    if not category_ids:
        return {}
    scores = np.concatenate([o.scores for o in outcomes])
    videos = np.repeat(np.arange(len(outcomes)), [len(o.scores) for o in outcomes])
    categories, found, ignored = (
        np.concatenate([getattr(o, name) for o in outcomes], axis=1)
        for name in ("categories", "found", "ignored")
    )
    none = np.zeros(len(IOU_THRESHOLDS), np.int64)
    tables = {}
    for category in category_ids:
        here = categories == category
        chosen = np.flatnonzero(here.any(axis=0))
        tables[category] = _Table(
            scores[chosen],
            videos[chosen],
            found[:, chosen],
            ignored[:, chosen] | ~here[:, chosen],
            sum((o.num_truth.get(category, none) for o in outcomes), none),
        )
    return tables


def _mean(ap: dict[int, np.ndarray]) -> tuple[float, float]:
    """AP and AP50 over the categories."""
    if not ap:
        return NOT_MEASURED, NOT_MEASURED
    table = np.stack(list(ap.values()))
    return float(table.mean()), float(table[:, HALF].mean())


def _outcome(video: JudgedVideo, kinds: Collection[ErrorKind]) -> _Outcome:
    order = np.argsort(-video.scores, kind="stable")
    verdicts, targets = video.kinds[:, order], video.targets[:, order]
    corrected = video.of_kind(kinds)[:, order]
    meant = corrected & video.of_kind(MEANT)[:, order]
    taken = video.found() | video.crowd
    # A track is matched with the highest-scoring prediction that is meant for it.
    places = np.argwhere(meant)
    goals = places[:, 0] * len(video.crowd) + targets[meant]
    _, first = np.unique(goals, return_index=True)
    thresholds, winners = places[first].T
    free = ~taken[thresholds, targets[thresholds, winners]]
    thresholds, winners = thresholds[free], winners[free]
    found = verdicts == RIGHT
    found[thresholds, winners] = True
    categories = np.repeat(video.categories[None, order], len(verdicts), axis=0)
    categories[thresholds, winners] = video.truth_categories[targets[thresholds, winners]]
    counted = np.repeat(~video.crowd[None], len(verdicts), axis=0)
    if ErrorKind.MISSED in kinds:
        counted &= ~video.missed()
    return _Outcome(
        scores=video.scores[order],
        categories=categories,
        found=found,
        ignored=(verdicts == IGNORED) | (corrected & ~found),
        num_truth={
            int(category): counted[:, video.truth_categories == category].sum(axis=1)
            for category in np.unique(video.truth_categories[~video.crowd])
        },
    )
