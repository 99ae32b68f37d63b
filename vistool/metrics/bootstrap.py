"""Whether two results differ by more than chance: a paired bootstrap over the videos of a set.

A sample draws V of the V videos with replacement. The measures of both results are computed
exactly on every sample. The spread of their difference over the samples estimates how it would
vary with another choice of videos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vistool.metrics.ap import (
    AREA_RANGES,
    MAX_TRACKS,
    RECALL_POINTS,
    VideoOutcome,
)
from vistool.metrics.davis import DavisResult
from vistool.metrics.hota import ALPHAS, HotaCounts
from vistool.metrics.overlaps import NOT_MEASURED
from vistool.metrics.tracking_measures import TrackingResult

CONFIDENCE = 0.95
# From the number of times that each of V videos was drawn in each of B samples, [B, V], to the
# values on the samples by name, [B] each.
Measure = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of two results, with the confidence interval of their difference."""

    name: str
    a: float  # on all videos, each once
    b: float
    low: float  # of b - a: the interval with 95 % of the samples
    high: float
    p: float  # two-sided p-value of b - a
    difference: float  # b - a, on all videos


def paired_bootstrap(
    a: Measure, b: Measure, num_videos: int, *, samples: int, seed: int = 0
) -> list[Difference]:
    """Compare two results on the same videos, measure by measure.

    Samples without a labelled track are left out where a measure needs one. Measures that cannot
    be computed on any sample are left out of the list.

    Args: a, b: the same measures of the two results.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_videos, np.full(num_videos, 1 / num_videos), size=samples)
    once = np.ones((1, num_videos), drawn.dtype)
    whole_a, whole_b, sampled_a, sampled_b = a(once), b(once), a(drawn), b(drawn)
    differences = []
    for name, value in whole_a.items():
        both = (sampled_a[name] != NOT_MEASURED) & (sampled_b[name] != NOT_MEASURED)
        if value[0] == NOT_MEASURED or whole_b[name][0] == NOT_MEASURED or not both.any():
            continue
        spread = (sampled_b[name] - sampled_a[name])[both]
        on_all = float(value[0]), float(whole_b[name][0])
        low, high = np.quantile(spread, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        differences.append(
            Difference(
                name, *on_all, float(low), float(high), _two_sided(spread), on_all[1] - on_all[0]
            )
        )
    return differences


def _two_sided(spread: np.ndarray) -> float:
    """The two-sided p-value: twice the share of samples beyond 0, at least 2 / (B + 1)."""
    beyond = min(np.count_nonzero(spread <= 0), np.count_nonzero(spread >= 0))
    return min(1.0, 2 * (beyond + 1) / (len(spread) + 1))


# --- YouTube-VIS ----------------------------------------------------------------------------------


def ap_measure(outcomes: Sequence[VideoOutcome], category_ids: Iterable[int]) -> Measure:
    """The twelve numbers of the benchmark on samples of V videos.

    They are equal to the evaluator's on a set in which every video is repeated as often as it was
    drawn.

    Args: outcomes: of the V videos, in their order, by the groups of `AREA_RANGES`.
    """
    whole = VideoOutcome.joined(outcomes)
    categories = [whole.of_category(category) for category in sorted(set(category_ids))]

    def measure(drawn: np.ndarray) -> dict[str, np.ndarray]:
        def curves(group: int, most: int) -> tuple[np.ndarray, np.ndarray]:
            values = [_on_samples(part, group, most, drawn) for part in categories]
            precision, recall = zip(*values, strict=True)
            return np.stack(precision, axis=-1), np.stack(recall, axis=-1)  # [10, B, K]

        one, ten, hundred = MAX_TRACKS
        precision, recall = curves(0, hundred)
        half, three_quarters = [0], [5]  # the thresholds 0.5 and 0.75
        by_area = {name: curves(g, hundred) for g, name in enumerate(AREA_RANGES) if g}
        return {
            "AP": _mean_measured(precision),
            "AP50": _mean_measured(precision[half]),
            "AP75": _mean_measured(precision[three_quarters]),
            **{f"AP{name}": _mean_measured(found[0]) for name, found in by_area.items()},
            "AR1": _mean_measured(curves(0, one)[1]),
            "AR10": _mean_measured(curves(0, ten)[1]),
            "AR100": _mean_measured(recall),
            **{f"AR{name}": _mean_measured(found[1]) for name, found in by_area.items()},
        }

    return measure


def _on_samples(
    category: VideoOutcome, group: int, most: int, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (mean over the recall points) and recall of a category: both [10, B].

    Values are -1 on samples without a labelled track.
    """
    counting = category.ranks < most
    videos = category.videos[counting]
    to_find = category.truth_videos[category.to_find[group]]
    num_truth = drawn @ np.bincount(to_find, minlength=drawn.shape[1])
    measured = num_truth > 0
    outcomes = category.found[group][:, counting], category.ignored[group][:, counting]
    shape = (len(outcomes[0]), len(drawn))
    precision, recall = np.full(shape, NOT_MEASURED), np.full(shape, NOT_MEASURED)
    for t, (found, ignored) in enumerate(zip(*outcomes, strict=True)):
        right = np.flatnonzero(found & ~ignored)
        wrong = np.flatnonzero(~found & ~ignored)
        reached = np.cumsum(drawn[:, videos[right]], axis=1)  # [B, P] true positives so far
        # The false positives of every video that rank before each true positive.
        before = np.zeros((drawn.shape[1], len(right) + 1), np.int64)
        np.add.at(before, (videos[wrong], np.searchsorted(right, wrong)), 1)
        mistakes = drawn @ np.cumsum(before, axis=1)[:, :-1]
        # Precision falls at every false positive, so its later maximum is at a true positive.
        at_right = reached / np.maximum(reached + mistakes, 1)
        envelope = np.maximum.accumulate(at_right[:, ::-1], axis=1)[:, ::-1]
        share = reached / np.maximum(num_truth, 1)[:, None]
        points = np.searchsorted(RECALL_POINTS, share, side="right")
        gained = np.diff(points, axis=1, prepend=0)
        area = (gained * envelope).sum(1) / len(RECALL_POINTS)
        last = share[:, -1] if share.shape[1] else np.zeros(len(drawn))
        precision[t, measured], recall[t, measured] = area[measured], last[measured]
    return precision, recall


def _mean_measured(values: np.ndarray) -> np.ndarray:
    """The mean of the values that are not -1 over the first and last axis: [N, B, K] -> [B]."""
    measured = values != NOT_MEASURED
    count = measured.sum((0, 2))
    total = np.where(measured, values, 0.0).sum((0, 2))
    return np.where(count > 0, total / np.maximum(count, 1), NOT_MEASURED)


# --- tracking -------------------------------------------------------------------------------------


def hota_measure(result: TrackingResult[HotaCounts], video_ids: Sequence[int]) -> Measure:
    """HOTA, DetA, AssA and LocA, each the mean over categories, on samples of the videos."""
    place = {video_id: i for i, video_id in enumerate(video_ids)}
    names = HotaCounts.__slots__
    counts: dict[int, np.ndarray] = {}  # category -> [V, 7, 19]
    for video_id, categories in result.videos:
        for category, counted in categories.items():
            empty = np.zeros((len(place), len(names), len(ALPHAS)))
            of_video = [getattr(counted, name) for name in names]
            counts.setdefault(category, empty)[place[video_id]] = of_video

    def measure(drawn: np.ndarray) -> dict[str, np.ndarray]:
        sums = [
            HotaCounts(*np.einsum("bv,vna->nba", drawn, array, optimize=True))
            for array in counts.values()
        ]
        shape = (len(sums), len(drawn), len(ALPHAS))
        labelled = np.reshape([total.matches + total.missed > 0 for total in sums], shape)[..., 0]
        curves = [total.curves() for total in sums]

        def mean(name: str) -> np.ndarray:
            values = np.reshape([curve[name] for curve in curves], shape).mean(axis=-1)  # [K, B]
            return _mean_measured(np.where(labelled, values, NOT_MEASURED).T[None])

        return {name: mean(name) for name in ("HOTA", "DetA", "AssA", "LocA")}

    return measure


def davis_measure(result: DavisResult, video_ids: Sequence[int]) -> Measure:
    """The means of J and F over the labelled objects, on samples of the videos."""
    place = {video_id: i for i, video_id in enumerate(video_ids)}
    objects = np.zeros((len(place), 3))  # number of objects, sums of J and F
    for followed in result.objects:
        row = [1.0, followed.region.mean(), followed.boundary.mean()]
        objects[place[followed.video_id]] += row

    def measure(drawn: np.ndarray) -> dict[str, np.ndarray]:
        number, *sums = (drawn @ objects).T
        return {
            name: np.where(number > 0, total / np.maximum(number, 1), NOT_MEASURED)
            for name, total in zip(("J_mean", "F_mean"), sums, strict=True)
        }

    return measure
