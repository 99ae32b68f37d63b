"""Common parts of the tracking measures: masks by frame and category, and sums of counts.

In shapes: F frames, G labelled and P predicted tracks of one category in one video.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from vistool.metrics.overlaps import VideoOverlaps, ratio

CROWD_SHARE = 0.5  # unmatched masks with a larger share inside a group are ignored
EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, slots=True, eq=False)
class FramePairs:
    """All labelled and predicted masks of one category in one video."""

    iou: np.ndarray  # [F, G, P] in [0, 1], 0 where either is absent
    labelled: np.ndarray  # [F, G] bool: the mask is not empty
    predicted: np.ndarray  # [F, P] bool: the mask is not empty or ignored

    def frames(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For every frame: its labelled tracks [g], its predicted tracks [p], their IoU [g, p]."""
        for iou, labelled, predicted in zip(self.iou, self.labelled, self.predicted, strict=True):
            rows, columns = np.flatnonzero(labelled), np.flatnonzero(predicted)
            yield rows, columns, iou[np.ix_(rows, columns)]


def pairs_by_category(video: VideoOverlaps) -> dict[int, FramePairs]:
    """The masks of every category that is labelled or predicted in the video, by rising id.

    Groups (`is_crowd`) are not evaluated. A predicted mask that matches no object and lies in a
    group of its category is ignored on that frame, as in MOTS.
    """
    truth: dict[int, list[int]] = defaultdict(list)
    crowds: dict[int, list[int]] = defaultdict(list)
    found: dict[int, list[int]] = defaultdict(list)
    for g in np.flatnonzero(video.truth_areas.any(axis=0)).tolist():
        track = video.truth[g]
        (crowds if track.is_crowd else truth)[track.category_id].append(g)
    for p in by_score(video):
        prediction = video.predictions[p]
        if video.predicted_areas[:, p].any():
            found[prediction["category_id"]].append(p)
    return {
        category: _compare(video, truth[category], found[category], crowds[category])
        for category in sorted({*truth, *found})
    }


def by_score(video: VideoOverlaps) -> list[int]:
    """The indices of the predictions by falling score; equal scores are ordered by their masks.

    The order of a results file then has no effect on the choice between equally good matches.
    """

    def rank(place: int) -> tuple[float, int, list[str]]:
        prediction = video.predictions[place]
        masks = ["" if mask is None else mask["counts"] for mask in prediction["segmentations"]]
        return -prediction["score"], prediction["category_id"], masks

    return sorted(range(len(video.predictions)), key=rank)


def _compare(
    video: VideoOverlaps, truth: list[int], found: list[int], crowds: list[int]
) -> FramePairs:
    both = video.intersections[:, found].transpose(0, 2, 1)  # [F, all labelled, P]
    areas, truth_areas = video.predicted_areas[:, found], video.truth_areas[:, truth]
    iou = ratio(
        both[:, truth], areas[:, None, :] + truth_areas[:, :, None] - both[:, truth]
    )  # [F, G, P]
    predicted = areas > 0
    if crowds:
        inside = ratio(both[:, crowds], np.broadcast_to(areas[:, None, :], both[:, crowds].shape))
        predicted &= ~((inside > CROWD_SHARE + EPS).any(axis=1) & ~_matched(iou))
        iou = np.where(predicted[:, None, :], iou, 0.0)
    return FramePairs(iou, truth_areas > 0, predicted)


def _matched(iou: np.ndarray) -> np.ndarray:
    """[F, G, P] -> [F, P] bool: predicted masks that match a labelled one at an IoU of 0.5."""
    matched = np.zeros((iou.shape[0], iou.shape[2]), bool)
    overlapping = np.where(iou >= 0.5 - EPS, iou, 0.0)
    for frame, overlaps in enumerate(overlapping):
        rows, columns = linear_sum_assignment(-overlaps)
        matched[frame, columns] = overlaps[rows, columns] > 0
    return matched


class Counts(Protocol):
    """The counts of one video and category; they can be added."""

    def __add__(self, other: Self, /) -> Self: ...

    @property
    def num_labelled(self) -> int:
        """Number of labelled masks on all frames."""

    def summary(self) -> dict[str, float]:
        """The measures computed from the counts, as fractions."""


CountsT = TypeVar("CountsT", bound=Counts)


@dataclass(frozen=True, slots=True, eq=False)
class TrackingResult(Generic[CountsT]):
    """The counts of a tracking measure on a set of videos; a video may be in it repeatedly."""

    videos: tuple[tuple[int, dict[int, CountsT]], ...]  # video id, its counts by category id

    def by_category(self) -> dict[int, CountsT]:
        """The counts of all videos together, by rising category id."""
        totals: dict[int, CountsT] = {}
        for _, categories in self.videos:
            for category, counts in categories.items():
                totals[category] = totals[category] + counts if category in totals else counts
        return dict(sorted(totals.items()))

    def by_video(self) -> dict[int, CountsT]:
        """The counts of all categories together, by video id; empty videos are left out."""
        return {
            video_id: reduce(add, categories.values())
            for video_id, categories in self.videos
            if categories
        }

    def total(self) -> CountsT | None:
        """The counts of all videos and categories; None if nothing is labelled or predicted."""
        categories = self.by_category()
        return reduce(add, categories.values()) if categories else None

    def class_averaged(self) -> dict[str, float]:
        """The mean of each measure over the labelled categories; empty if nothing is labelled."""
        summaries = [
            counts.summary() for counts in self.by_category().values() if counts.num_labelled
        ]
        if not summaries:
            return {}
        return {name: float(np.mean([s[name] for s in summaries])) for name in summaries[0]}
