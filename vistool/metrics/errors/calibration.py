"""Calibration: do scores equal the share of tracks that are right, such as 80 % at score 0.8?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_BINS = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The tracks with scores in [low, high), or [low, high] for the last bin."""

    low: float
    high: float
    count: int
    mean_score: float  # 0 where the bin is empty
    share_right: float  # 0 where the bin is empty


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores compared with the share of tracks that are right."""

    count: int
    bins: tuple[ReliabilityBin, ...]
    error: float  # expected calibration error (ECE): mean |score - share right|, weighted by count
    largest_error: float  # of all bins
    bias: float  # mean score minus share right: above 0, the model is overconfident


def calibration(scores: np.ndarray, right: np.ndarray) -> Calibration:
    """Compare scores with outcomes in ten bins of equal width.

    Args: scores: [N] in [0, 1], others count in the outermost bins; right: [N] bool.
    """
    scores, right = np.asarray(scores, float), np.asarray(right, bool)
    place = np.clip((scores * NUM_BINS).astype(int), 0, NUM_BINS - 1)
    bins = tuple(_bin(i, scores[place == i], right[place == i]) for i in range(NUM_BINS))
    gaps = np.array([abs(b.mean_score - b.share_right) for b in bins])
    counts = np.array([b.count for b in bins])
    if not len(scores):
        return Calibration(0, bins, 0.0, 0.0, 0.0)
    return Calibration(
        count=len(scores),
        bins=bins,
        error=float(gaps @ counts / len(scores)),
        largest_error=float(gaps.max()),
        bias=float(scores.mean() - right.mean()),
    )


def _bin(index: int, scores: np.ndarray, right: np.ndarray) -> ReliabilityBin:
    low, high = index / NUM_BINS, (index + 1) / NUM_BINS
    if not len(scores):
        return ReliabilityBin(low, high, 0, 0.0, 0.0)
    return ReliabilityBin(low, high, len(scores), float(scores.mean()), float(right.mean()))
