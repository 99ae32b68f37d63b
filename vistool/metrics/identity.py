"""IDF1 and the CLEAR MOT measures: identity switches, fragmentations, MOTA.

Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking",
ECCV-W 2016, and Bernardin and Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The
CLEAR MOT Metrics", 2008. The values are equal to those of the TrackEval package on the same masks.
Masks match at an IoU of 0.5 or more. In shapes: F frames, G labelled tracks, P predicted tracks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.optimize import linear_sum_assignment

from vistool.metrics.overlaps import VideoOverlaps
from vistool.metrics.tracking_measures import (
    EPS,
    FramePairs,
    pairs_by_category,
)

THRESHOLD = 0.5
MOSTLY_TRACKED, MOSTLY_LOST = 0.8, 0.2  # shares of a track's frames
NOBODY = -1
CONTINUES = 1000.0  # larger than the sum of all IoUs of a frame


@dataclass(frozen=True, slots=True)
class IdentityCounts:
    """Counts over the frames of a video."""

    num_labelled: int  # masks
    num_predicted: int  # masks
    identified: int  # masks that match if tracks are matched one to one for the whole video
    matches: int  # masks that match if they are matched frame by frame
    iou: float  # summed over the matches
    switches: int  # matches with another track than in the previous match
    fragmentations: int  # matches of a labelled track again after a gap
    mostly_tracked: int  # labelled tracks
    mostly_lost: int  # labelled tracks
    num_tracks: int  # labelled tracks

    def __add__(self, other: IdentityCounts) -> IdentityCounts:
        return IdentityCounts(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )

    def summary(self) -> dict[str, float]:
        """IDF1, IDP, IDR, MOTA and MOTP as fractions; MOTA is below 0 if errors outnumber masks."""
        wrong = self.num_predicted - self.matches
        return {
            "IDF1": _share(2 * self.identified, self.num_labelled + self.num_predicted),
            "IDP": _share(self.identified, self.num_predicted),
            "IDR": _share(self.identified, self.num_labelled),
            "MOTA": (self.matches - wrong - self.switches) / max(1, self.num_labelled),
            "MOTP": _share(self.iou, self.matches),
        }


def identity_of_video(video: VideoOverlaps) -> dict[int, IdentityCounts]:
    """The counts of one video, for every category that is labelled or predicted in it."""
    pairs = pairs_by_category(video)
    return {category: _count(masks) for category, masks in pairs.items()}


def _count(masks: FramePairs) -> IdentityCounts:
    agreeing = (masks.iou >= THRESHOLD).sum(axis=0)  # [G, P] frames
    pairs = linear_sum_assignment(agreeing, maximize=True)
    matched = _follow(masks)  # [F, G]
    share = (matched.partner != NOBODY).sum(axis=0) / np.maximum(1, masks.labelled.sum(axis=0))
    return IdentityCounts(
        num_labelled=int(masks.labelled.sum()),
        num_predicted=int(masks.predicted.sum()),
        identified=int(agreeing[pairs].sum()),
        matches=int((matched.partner != NOBODY).sum()),
        iou=matched.iou,
        switches=matched.switches,
        fragmentations=matched.fragmentations,
        mostly_tracked=int((share > MOSTLY_TRACKED).sum()),
        mostly_lost=int((share < MOSTLY_LOST).sum()),
        num_tracks=len(share),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Followed:
    """The matches of CLEAR MOT."""

    partner: np.ndarray  # [F, G] predicted track, or NOBODY
    iou: float
    switches: int
    fragmentations: int


def _follow(masks: FramePairs) -> _Followed:
    """Match masks frame by frame: pairs of the frame before first, then by overlap."""
    num_frames, num_tracks = masks.labelled.shape
    partner = np.full((num_frames, num_tracks), NOBODY)
    latest = np.full(num_tracks, NOBODY)  # the predicted track of the last match on any frame
    previous = latest.copy()  # the same on the frame before
    starts = np.zeros(num_tracks, np.int64)
    iou, switches = 0.0, 0
    for frame, (rows, columns, overlaps) in enumerate(masks.frames()):
        if overlaps.size == 0:
            continue  # as in TrackEval, such a frame does not interrupt tracks
        worth = CONTINUES * (columns[None] == previous[rows][:, None]) + overlaps
        worth[overlaps < THRESHOLD - EPS] = 0
        g, p = linear_sum_assignment(worth, maximize=True)
        g, p = g[worth[g, p] > 0], p[worth[g, p] > 0]
        tracks, found = rows[g], columns[p]
        switches += int(((latest[tracks] != NOBODY) & (latest[tracks] != found)).sum())
        iou += float(overlaps[g, p].sum())
        starts[tracks] += previous[tracks] == NOBODY
        partner[frame, tracks] = latest[tracks] = found
        previous = partner[frame].copy()
    return _Followed(partner, iou, switches, int(np.maximum(0, starts - 1).sum()))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
