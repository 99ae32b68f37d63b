"""The confusion matrix: counts of labelled tracks by labelled and predicted category."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from vistool.metrics.overlaps import VideoOverlaps

MIN_IOU = 0.5


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """Labelled tracks by row, predicted ones by column, in the order of `category_ids`.

    The last row is the background: predictions without a labelled track. The last column is for
    missed tracks. The last entry of both is 0.
    """

    category_ids: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]  # [K + 1][K + 1]
    min_score: float  # predictions below it are left out
    min_iou: float  # tracks that overlap less are not matched


def confusions(
    video: VideoOverlaps, category_ids: Collection[int], *, min_score: float
) -> np.ndarray:
    """[K + 1, K + 1] counts of one video, the categories by rising id.

    By falling score, every prediction is matched with the unmatched labelled track that it overlaps
    most, whatever their categories. The IoU must be at least `MIN_IOU`; if IoUs are equal, a track
    of its own category is preferred. Predictions that match only a crowd are not counted.
    """
    place = {category: i for i, category in enumerate(sorted(set(category_ids)))}
    counts = np.zeros((len(place) + 1, len(place) + 1), np.int64)
    iou = video.iou()
    truth = [place.get(t.category_id) for t in video.truth]
    crowd = np.array([t.is_crowd for t in video.truth], bool)
    free = ~crowd & np.array([row is not None for row in truth], bool)
    scores = np.array([p["score"] for p in video.predictions], float)
    for p in np.argsort(-scores, kind="stable"):
        column = place.get(video.predictions[p]["category_id"])
        if column is None or scores[p] < min_score:
            continue
        candidates = np.flatnonzero(free & (iou[p] >= MIN_IOU))
        if len(candidates):
            best = max(candidates, key=lambda g: (iou[p, g], truth[g] == column))
            free[best] = False
            counts[truth[best], column] += 1
        elif not (iou[p, crowd] >= MIN_IOU).any():
            counts[-1, column] += 1
    for g in np.flatnonzero(free):
        counts[truth[g], -1] += 1
    return counts
