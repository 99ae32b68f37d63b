"""What the tracking measures share: masks frame by frame and category by category, and sums.

F frames, G labelled and P predicted tracks of one category in one video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from scipy.optimize import linear_sum_assignment

from vistool.evaluation.overlaps import VideoOverlaps, ratio

NOT_MEASURED = -1.0  # there is nothing labelled to follow
CROWD_SHARE = 0.5  # what lies in a group by more than this is not held against the predictions
EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, slots=True, eq=False)
class FramePairs:
    """All labelled and predicted masks of one category in one video."""

    iou: np.ndarray  # [F, G, P] in [0, 1], 0 where either is absent
    labelled: np.ndarray  # [F, G] bool: visible there; an empty mask is not
    predicted: np.ndarray  # [F, P] bool

    def frames(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of every frame: the labelled tracks there, the predicted ones, and their IoU [g, p]."""
        for iou, labelled, predicted in zip(self.iou, self.labelled, self.predicted, strict=True):
            rows, columns = np.flatnonzero(labelled), np.flatnonzero(predicted)
            yield rows, columns, iou[np.ix_(rows, columns)]


def pairs_by_category(video: VideoOverlaps, min_score: float | None = None) -> dict[int, FramePairs]:
    """The masks of every category that occurs in the video, categories in rising order.

    Predictions below `min_score` are left out. They come by falling score and, where scores are
    equal, by their masks, so that the order of a file never decides between equal matches.
    A labelled group is not to be followed, and hides what is predicted in it (`_hidden_by_crowds`).
    """
    by_score = sorted(range(len(video.predictions)), key=lambda p: _rank(video, p))
    chosen = [
        p for p in by_score if min_score is None or video.predictions[p]["score"] >= min_score
    ]
    seen = (video.predicted_areas > 0).any(axis=0)
    truth_of, found_of, crowds_of = (
        _by_category((g, t.category_id) for g, t in enumerate(video.truth) if not t.is_crowd),
        _by_category((p, video.predictions[p]["category_id"]) for p in chosen if seen[p]),
        _by_category((g, t.category_id) for g, t in enumerate(video.truth) if t.is_crowd),
    )
    return {
        category: _compare(
            video,
            truth_of.get(category, []),
            found_of.get(category, []),
            crowds_of.get(category, []),
        )
        for category in sorted({*truth_of, *found_of})
    }


class Counts(Protocol):
    """What is counted of a video and category; counts of several add up to those of all."""

    def __add__(self, other: Self, /) -> Self: ...

    @property
    def num_labelled(self) -> int:
        """Labelled masks on all frames."""

    def summary(self) -> dict[str, float]:
        """The measures that follow from the counts."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackingResult[C: Counts]:
    """A measure of a set of videos, as counts; a video may stand in it more than once."""

    videos: tuple[tuple[int, dict[int, C]], ...]  # (video id, its counts by category id)
