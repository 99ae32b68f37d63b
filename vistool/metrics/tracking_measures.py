"""What the tracking measures share: masks frame by frame and category by category, and sums.

F frames, G labelled and P predicted tracks of one category in one video.
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

CROWD_SHARE = 0.5  # what lies in a group by more than this is not held against the predictions
EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, slots=True, eq=False)
class FramePairs:
    """All labelled and predicted masks of one category in one video."""

    iou: np.ndarray  # [F, G, P] in [0, 1], 0 where either is absent
    labelled: np.ndarray  # [F, G] bool: visible there; an empty mask is not
    predicted: np.ndarray  # [F, P] bool

    def frames(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of every frame: the labelled tracks there [g], the predicted [p] and their IoU [g, p]."""
        for iou, labelled, predicted in zip(self.iou, self.labelled, self.predicted, strict=True):
            rows, columns = np.flatnonzero(labelled), np.flatnonzero(predicted)
            yield rows, columns, iou[np.ix_(rows, columns)]


def pairs_by_category(video: VideoOverlaps) -> dict[int, FramePairs]:
    """The masks of every category that is labelled or predicted in the video, ids rising.

    A labelled group (`is_crowd`) is not to be followed, and a predicted mask that matches no
    object and lies in a group of its category is left out of that frame, as on MOTS.
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
    """The places of the predictions, the best first; of equal scores, ordered by what they show.

    So the order of a results file never decides between matches that are equally good.
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
    """[F, G, P] -> [F, P] bool: predicted masks that pair with a labelled one at half overlap."""
    matched = np.zeros((iou.shape[0], iou.shape[2]), bool)
    overlapping = np.where(iou >= 0.5 - EPS, iou, 0.0)
    for frame, overlaps in enumerate(overlapping):
        rows, columns = linear_sum_assignment(-overlaps)
        matched[frame, columns] = overlaps[rows, columns] > 0
    return matched


class Counts(Protocol):
    """What is counted of one video and category; the sum of two is what both together give."""

    def __add__(self, other: Self, /) -> Self: ...

    @property
    def num_labelled(self) -> int:
        """Labelled masks, of all frames."""

    def summary(self) -> dict[str, float]:
        """The measures that follow from the counts, as fractions."""


CountsT = TypeVar("CountsT", bound=Counts)


@dataclass(frozen=True, slots=True, eq=False)
class TrackingResult(Generic[CountsT]):
    """A tracking measure of a set of videos, kept as counts; a video may be in it repeatedly."""

    videos: tuple[tuple[int, dict[int, CountsT]], ...]  # video id, its counts by category id

    def by_category(self) -> dict[int, CountsT]:
        """The counts of all videos, ids rising."""
        totals: dict[int, CountsT] = {}
        for _, categories in self.videos:
            for category, counts in categories.items():
                totals[category] = totals[category] + counts if category in totals else counts
        return dict(sorted(totals.items()))

    def by_video(self) -> dict[int, CountsT]:
        """The counts of all categories; videos with nothing labelled or predicted are left out."""
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
        """The mean over the categories of which something is labelled; empty if none is."""
        summaries = [
            counts.summary() for counts in self.by_category().values() if counts.num_labelled
        ]
        if not summaries:
            return {}
        return {name: float(np.mean([s[name] for s in summaries])) for name in summaries[0]}
