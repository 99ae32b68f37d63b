"""HOTA, with its detection (DetA), association (AssA) and localization (LocA) accuracy.

Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", IJCV 2021. The
values are equal to those of the TrackEval package on the same masks. In shapes: F frames, G
labelled tracks, P predicted tracks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from vistool.metrics.overlaps import NOT_MEASURED, VideoOverlaps, ratio
from vistool.metrics.tracking_measures import (
    EPS,
    FramePairs,
    TrackingResult,
    pairs_by_category,
)

ALPHAS = np.arange(0.05, 0.99, 0.05)  # the 19 IoU thresholds for a match


@dataclass(frozen=True, slots=True, eq=False)
class HotaCounts:
    """The sums over frames from which HOTA is computed, for each of the 19 alphas.

    A match is a pair of a labelled and a predicted mask on one frame. Its association is the number
    of matches between its two tracks, divided by the number of their masks (a match counts once).
    Recall divides by the masks of the labelled track, precision by those of the predicted one.
    """

    matches: np.ndarray  # [19]
    missed: np.ndarray  # [19] labelled masks without a match
    wrong: np.ndarray  # [19] predicted masks without a match
    iou: np.ndarray  # [19] summed over matches, like the next three
    association: np.ndarray  # [19]
    association_recall: np.ndarray  # [19]
    association_precision: np.ndarray  # [19]

    def __add__(self, other: HotaCounts) -> HotaCounts:
        return HotaCounts(
            *(getattr(self, name) + getattr(other, name) for name in HotaCounts.__slots__)
        )

    @property
    def num_labelled(self) -> int:
        return int(self.matches[0] + self.missed[0])

    def curves(self) -> dict[str, np.ndarray]:
        """Every measure at each alpha: [19] in [0, 1]. LocA is 1 without matches."""
        detection = ratio(self.matches, self.matches + self.missed + self.wrong)
        association = ratio(self.association, self.matches)
        return {
            "HOTA": np.sqrt(detection * association),
            "DetA": detection,
            "AssA": association,
            "LocA": np.where(self.matches > 0, ratio(self.iou, self.matches), 1.0),
            "DetRe": ratio(self.matches, self.matches + self.missed),
            "DetPr": ratio(self.matches, self.matches + self.wrong),
            "AssRe": ratio(self.association_recall, self.matches),
            "AssPr": ratio(self.association_precision, self.matches),
        }

    def summary(self) -> dict[str, float]:
        """The means over the alphas: HOTA DetA AssA LocA DetRe DetPr AssRe AssPr."""
        return {name: float(curve.mean()) for name, curve in self.curves().items()}


def hota_of_video(video: VideoOverlaps) -> dict[int, HotaCounts]:
    """The counts of one video, for every category that is labelled or predicted in it.

    Categories are evaluated one by one, as in TrackEval for YouTube-VIS: a prediction matches only
    labelled tracks of its own category. All predictions count, whatever their scores.
    """
    pairs = pairs_by_category(video)
    return {category: _count(masks) for category, masks in pairs.items()}


def hota_summary(result: TrackingResult[HotaCounts]) -> dict[str, float]:
    """HOTA, DetA, AssA and LocA, each the mean over categories; -1 if nothing is labelled.

    Categories without labels in the set are left out; TrackEval includes them with HOTA 0 and
    LocA 1.
    """
    measured = result.class_averaged()
    return {name: measured.get(name, NOT_MEASURED) for name in ("HOTA", "DetA", "AssA", "LocA")}


def _count(masks: FramePairs) -> HotaCounts:
    labelled, predicted = masks.labelled.sum(axis=0), masks.predicted.sum(axis=0)  # [G], [P]
    either = labelled[:, None] + predicted[None]
    agreement = _agreement(masks, either)
    matches = np.zeros((len(ALPHAS), *agreement.shape))  # frames per pair of tracks
    iou = np.zeros(len(ALPHAS))
    for rows, columns, overlaps in masks.frames():
        # One matching for all alphas, by agreement over the video times IoU on this frame.
        g, p = linear_sum_assignment(-agreement[np.ix_(rows, columns)] * overlaps)
        enough = overlaps[g, p] >= ALPHAS[:, None] - EPS
        matches[:, rows[g], columns[p]] += enough
        iou += (enough * overlaps[g, p]).sum(axis=1)
    total = matches.sum(axis=(1, 2))

    def associated(frames: np.ndarray) -> np.ndarray:
        return (matches * matches / np.maximum(1, frames)).sum(axis=(1, 2))

    return HotaCounts(
        matches=total,
        missed=labelled.sum() - total,
        wrong=predicted.sum() - total,
        iou=iou,
        association=associated(either - matches),
        association_recall=associated(labelled[:, None]),
        association_precision=associated(predicted[None]),
    )


def _agreement(masks: FramePairs, either: np.ndarray) -> np.ndarray:
    """The global alignment of every pair of tracks over the whole video: [G, P] in [0, 1].

    On a frame, a pair counts with its IoU, divided by the sum of all IoUs of its two masks.
    """
    shared = np.zeros(either.shape)
    for rows, columns, overlaps in masks.frames():
        all_others = overlaps.sum(0)[None] + overlaps.sum(1)[:, None] - overlaps
        shared[np.ix_(rows, columns)] += ratio(overlaps, all_others)
    return shared / np.maximum(1, either - shared)
