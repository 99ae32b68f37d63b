"""Precision-recall curves of every category, for plotting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vistool.metrics.ap import IOU_THRESHOLDS, RECALL_POINTS, VideoAP
from vistool.metrics.overlaps import NOT_MEASURED

ALL_AREAS, MOST_TRACKS = 0, -1  # indices of the last two axes of a VideoAP
LEVELS = {"IoU 0.5": [0], "IoU 0.75": [5], "mean": list(range(len(IOU_THRESHOLDS)))}


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """Precision at the fixed recalls: of one category, or the mean over those with labels."""

    category_id: int | None  # None: the mean
    precision: dict[str, tuple[float, ...]]  # by level ("IoU 0.5", "IoU 0.75", "mean"): [101]


@dataclass(frozen=True, slots=True)
class PrecisionRecallCurves:
    """The mean first, then the categories that have labelled tracks."""

    recall: tuple[float, ...]  # [101]: 0, 0.01, ... 1
    curves: tuple[PrecisionRecall, ...]  # empty if nothing was measured


def precision_recall_curves(ap: VideoAP) -> PrecisionRecallCurves:
    """The curves of AP: tracks of all sizes, the 100 highest-scoring per video and category."""
    precision = ap.precision[:, :, :, ALL_AREAS, MOST_TRACKS]  # [10, 101, K]
    measured = [k for k in range(precision.shape[2]) if precision[0, 0, k] > NOT_MEASURED]
    if not measured:
        return PrecisionRecallCurves(tuple(RECALL_POINTS.tolist()), ())
    mean = _curve(None, precision[:, :, measured].mean(axis=2))
    each = [_curve(ap.category_ids[k], precision[:, :, k]) for k in measured]
    return PrecisionRecallCurves(tuple(RECALL_POINTS.tolist()), (mean, *each))


def _curve(category_id: int | None, precision: np.ndarray) -> PrecisionRecall:
    """From one category's [10, 101]."""
    levels = {name: precision[rows].mean(axis=0).tolist() for name, rows in LEVELS.items()}
    return PrecisionRecall(category_id, {name: tuple(row) for name, row in levels.items()})
