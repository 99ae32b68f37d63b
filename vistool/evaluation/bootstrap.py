"""Whether two results differ by more than chance: a paired bootstrap over the videos of a set.

A sample draws V of the V videos with replacement; a measure is computed anew on it, exactly, for
both results, from what is kept of every video. Only the difference's spread over the samples tells
what another choice of videos might have said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vistool.evaluation.video_ap import NOT_MEASURED, RECALL_POINTS

SAMPLES = 2000
CONFIDENCE = 0.95
# How often each of V videos was drawn in each of B samples, [B, V] -> a number a sample, [B] each.
Measure = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Difference:
    """One number of two results, and how sure their difference is."""

    name: str
    a: float  # on all videos, each once
    b: float
    low: float  # of b - a: the interval that holds 95 % of the samples
    high: float
    p: float  # two-sided: how often chance alone gives a difference of this sign, times two

    @property
    def difference(self) -> float:
        """b - a, on all videos."""
        return self.b - self.a


@dataclass(frozen=True, slots=True, eq=False)
class CategoryMatches:
    """The D predictions of a category in all videos, by falling score, and what they hit."""

    videos: np.ndarray  # [D] place of the video among the V
    found: np.ndarray  # [10, D] bool: matches a labelled track at the threshold
    ignored: np.ndarray  # [10, D] bool: neither right nor wrong
    num_truth: np.ndarray  # [V] labelled tracks that should be found


def paired_bootstrap(
    a: Measure, b: Measure, num_videos: int, *, samples: int = SAMPLES, seed: int = 0
) -> list[Difference]:
    """Compare two results on the same videos, number by number.

    Samples on which a number cannot be measured for both (no labelled track was drawn) are left
    out of it; a number that can never be is left out of the list.

    Args: a, b: the same measures of either result.
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
        low, high = np.quantile(spread, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        differences.append(
            Difference(
                name,
                float(value[0]),
                float(whole_b[name][0]),
                float(low),
                float(high),
                _two_sided(spread),
            )
        )
    return differences


def _two_sided(spread: np.ndarray) -> float:
    """Twice the share of samples on the other side of 0, never below what B samples can tell."""
    beyond = min(np.count_nonzero(spread <= 0), np.count_nonzero(spread >= 0))
    return min(1.0, 2 * (beyond + 1) / (len(spread) + 1))


def average_precision(
    categories: Sequence[CategoryMatches], drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (mean over 101 recall points) and recall of categories on samples of the videos.

    Equal to what the evaluator says of a set in which every video stands as often as it was drawn.

    Args: drawn: [B, V], how often a video is in a sample.
    Returns: both [10, B, K]; -1 where a sample has no labelled track of the category.
    """
    precision = [_category_precision(category, drawn) for category in categories]
    return (
        np.stack([p for p, _ in precision], axis=-1),
        np.stack([r for _, r in precision], axis=-1),
    )


def _category_precision(
    category: CategoryMatches, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[10, B] each."""
    num_truth = drawn @ category.num_truth
    measured = num_truth > 0
    shape = (len(category.found), len(drawn))
    precision, recall = np.full(shape, NOT_MEASURED), np.full(shape, NOT_MEASURED)
    for t, (found, ignored) in enumerate(zip(category.found, category.ignored, strict=True)):
        right = np.flatnonzero(found & ~ignored)
        wrong = np.flatnonzero(~found & ~ignored)
        reached = np.cumsum(drawn[:, category.videos[right]], axis=1)  # [B, P] right so far
        mistakes = drawn @ _before(category, wrong, right)
        # Precision falls at every mistake, so the best that is still to come is at a right one.
        at_right = reached / np.maximum(reached + mistakes, 1)
        envelope = np.maximum.accumulate(at_right[:, ::-1], axis=1)[:, ::-1]
        share = reached / np.maximum(num_truth, 1)[:, None]
        points = np.searchsorted(RECALL_POINTS, share, side="right")
        gained = np.diff(points, axis=1, prepend=0)
        area = (gained * envelope).sum(1) / len(RECALL_POINTS)
        last = share[:, -1] if share.shape[1] else np.zeros(len(drawn))
        precision[t, measured], recall[t, measured] = area[measured], last[measured]
    return precision, recall


def _before(category: CategoryMatches, wrong: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[V, P]: the mistakes of every video that rank before each right prediction."""
    counts = np.zeros((len(category.num_truth), len(right) + 1), np.int64)
    np.add.at(counts, (category.videos[wrong], np.searchsorted(right, wrong)), 1)
    return np.cumsum(counts, axis=1)[:, :-1]


def mean_measured(values: np.ndarray) -> np.ndarray:
    """The mean over all axes but the samples', of what could be measured: [N, B, K] -> [B]."""
    measured = values != NOT_MEASURED
    count = measured.sum((0, 2))
    total = np.where(measured, values, 0.0).sum((0, 2))
    return np.where(count > 0, total / np.maximum(count, 1), NOT_MEASURED)
