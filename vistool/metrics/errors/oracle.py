"""Why AP is not 1: what it would be if all errors of one kind were mended, or all of one video.

To mend an error is to make the prediction right, at its own score, if its track is free and no
better-scored one takes it, and otherwise to take the prediction away. Missed tracks are taken out
of the truth, as if they had been found as well as the others; a category of which nothing is left
then scores 1. So mending never lowers AP, and all kinds mended together give 1.
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
class MendedKind:
    """What AP would be if all errors of one kind were mended."""

    kind: ErrorKind
    count: int  # at IoU 0.5
    ap: float
    ap50: float
    ap_gain: float  # over the AP as it is
    ap50_gain: float


@dataclass(frozen=True, slots=True)
class ErrorBreakdown:
    """AP as it is, and with every kind of error mended; -1 where nothing is labelled."""

    ap: float
    ap50: float
    num_truth: int  # crowds left out
    num_right: int  # predictions that are right at IoU 0.5
    kinds: tuple[MendedKind, ...]  # one for every ErrorKind


def break_down(mender: Mender, videos: Sequence[JudgedVideo]) -> ErrorBreakdown:
    """What AP would be with each kind of error mended."""
    now = mender.mended(())
    counts = [video.counts() for video in videos]
    kinds = []
    for kind in KINDS:
        then = mender.mended({kind})
        gains = (0.0, 0.0) if now[0] == NOT_MEASURED else (then[0] - now[0], then[1] - now[1])
        kinds.append(MendedKind(kind, sum(c[kind] for c in counts), *then, *gains))
    return ErrorBreakdown(
        ap=now[0],
        ap50=now[1],
        num_truth=sum(int((~v.crowd).sum()) for v in videos),
        num_right=sum(int((v.kinds[HALF] == RIGHT).sum()) for v in videos),
        kinds=tuple(kinds),
    )


class Mender:
    """AP of a set of judged videos, as it is and with errors mended."""

    def __init__(self, videos: Sequence[JudgedVideo], category_ids: Iterable[int]) -> None:
        self._videos = videos
        self._plain = [_outcome(video, ()) for video in videos]
        labelled = {category for outcome in self._plain for category in outcome.num_truth}
        self._labelled = sorted(labelled.intersection(category_ids))
        self._tables = _tables(self._plain, self._labelled)
        self._ap = {category: table.ap() for category, table in self._tables.items()}

    def mended(self, kinds: Collection[ErrorKind]) -> tuple[float, float]:
        """AP and AP50 with these kinds mended in all videos; -1 where nothing is labelled."""
        if not kinds:
            return _mean(self._ap)
        tables = _tables([_outcome(video, kinds) for video in self._videos], self._labelled)
        return _mean({category: table.ap() for category, table in tables.items()})

    def lost_in(self, place: int) -> tuple[float, float]:
        """How much higher AP and AP50 were with every error of one video mended."""
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
    """What counts in a video after some errors were mended; predictions by falling score."""

    scores: np.ndarray  # [P]
    categories: np.ndarray  # [10, P]: a mended class may be another at every threshold
    found: np.ndarray  # [10, P] bool
    ignored: np.ndarray  # [10, P] bool
    num_truth: dict[int, np.ndarray]  # category -> [10], of those that are labelled


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """All that counts in one category, N predictions, the videos one after the other."""

    scores: np.ndarray  # [N]
    videos: np.ndarray  # [N], rising
    found: np.ndarray  # [10, N] bool
    ignored: np.ndarray  # [10, N] bool
    num_truth: np.ndarray  # [10]

    def ap(self) -> np.ndarray:
        """[10], by threshold; 1 where there is nothing left to find."""
        order = np.argsort(-self.scores, kind="stable")
        precision, _ = precision_and_recall(
            self.found[:, order], self.ignored[:, order], np.maximum(self.num_truth, 1)[:, None]
        )
        return np.where(self.num_truth > 0, precision.mean(axis=1), 1.0)

    def replaced(self, video: int, before: _Table, after: _Table) -> _Table:
        """The table with another outcome of one video, whose part was `before`."""
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
    """What counts in each of these categories."""
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
    mended = video.of_kind(kinds)[:, order]
    meant = mended & video.of_kind(MEANT)[:, order]
    taken = video.found() | video.crowd
    # Of all that are meant for one track, the best-scored one takes it, if it is free.
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
        ignored=(verdicts == IGNORED) | (mended & ~found),
        num_truth={
            int(category): counted[:, video.truth_categories == category].sum(axis=1)
            for category in np.unique(video.truth_categories[~video.crowd])
        },
    )
