"""IDF1, and what CLEAR MOT counts: identity switches, fragmentations, MOTA.

Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking",
ECCV-W 2016, and Bernardin and Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The
CLEAR MOT Metrics", 2008; equal to the TrackEval package on the same masks. A mask can match from an
overlap of one half on. F frames, G labelled and P predicted tracks.
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
CONTINUES = 1000.0  # weighs more than all overlaps of a frame together


@dataclass(frozen=True, slots=True)
class IdentityCounts:
    """What is counted over the frames of a video: masks, unless it says tracks."""

    num_labelled: int
    num_predicted: int
    # each labelled track with one predicted track, for the whole video
    identified: int
    # each labelled mask with a predicted one, frame by frame
    matches: int
    iou: float  # summed over the matches
    switches: int  # matches with another track than the last time
    fragmentations: int  # times that a labelled track is matched again after a gap
    mostly_tracked: int  # labelled tracks
    mostly_lost: int  # labelled tracks
    num_tracks: int  # labelled tracks

    def __add__(self, other: IdentityCounts) -> IdentityCounts:
        return IdentityCounts(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )

    def summary(self) -> dict[str, float]:
        """IDF1 IDP IDR MOTA MOTP as fractions; MOTA is below 0 where errors outnumber masks."""
        wrong = self.num_predicted - self.matches
        return {
            "IDF1": _share(2 * self.identified, self.num_labelled + self.num_predicted),
            "IDP": _share(self.identified, self.num_predicted),
            "IDR": _share(self.identified, self.num_labelled),
            "MOTA": (self.matches - wrong - self.switches) / max(1, self.num_labelled),
            "MOTP": _share(self.iou, self.matches),
        }


def identity_of_video(video: VideoOverlaps) -> dict[int, IdentityCounts]:
    """The counts of every category that is labelled or predicted in a video, as `hota_of_video`."""
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
    """Match masks frame by frame: pairs that hold on go first, then what overlaps most."""
    num_frames, num_tracks = masks.labelled.shape
    partner = np.full((num_frames, num_tracks), NOBODY)
    latest = np.full(num_tracks, NOBODY)  # whom a track was last matched with, ever
    previous = latest.copy()  # and in the frame before
    starts = np.zeros(num_tracks, np.int64)
    iou, switches = 0.0, 0
    for frame, (rows, columns, overlaps) in enumerate(masks.frames()):
        if overlaps.size == 0:
            continue  # as in TrackEval, such a frame interrupts nothing
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
