"""Average precision and recall over object tracks, as the YouTube-VIS evaluator computes them.

COCO's measure with a track in place of a picture's mask: two tracks overlap by the sum of their
intersections over all frames, divided by the sum of their unions. V videos, K categories, D
predicted tracks and G labelled ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vistool.errors import DataError
from vistool.evaluation.overlaps import TruthTrack, mean_area, track_iou
from vistool.structures import TrackSegmentation

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
MAX_TRACKS = (1, 10, 100)  # the best of a video and category that count
# Of a track: the mean over its frames, in pixels; both ends belong to a range.
AREA_RANGES = {
    "all": (0.0, 1e10),
    "s": (0.0, 128.0**2),
    "m": (128.0**2, 256.0**2),
    "l": (256.0**2, 1e10),
}
NOT_MEASURED = -1.0  # there is no labelled track to find


@dataclass(frozen=True, slots=True, eq=False)
class VideoAP:
    """Precision and recall by overlap threshold, category, area range and number of tracks.

    -1 where a category has no labelled track in the area range.
    """

    category_ids: tuple[int, ...]
    precision: np.ndarray  # [10, 101, K, 4, 3], at fixed recall 0, 0.01, ... 1
    recall: np.ndarray  # [10, K, 4, 3], what all predictions together reach

    def summary(self) -> dict[str, float]:
        """The twelve numbers of the benchmark, in [0, 1], or -1 where nothing could be measured."""
        return self._summary(slice(None))

    def by_category(self) -> dict[int, dict[str, float]]:
        """The same twelve numbers for each category."""
        return {
            category_id: self._summary(slice(index, index + 1))
            for index, category_id in enumerate(self.category_ids)
        }

    def _summary(self, categories: slice) -> dict[str, float]:
        precision, recall = self.precision[:, :, categories], self.recall[:, categories]
        areas = {name: index for index, name in enumerate(AREA_RANGES)}
        half, three_quarters = 0, 5  # places of 0.5 and 0.75 among the thresholds
        return {
            "AP": _mean(precision[..., 0, -1]),
            "AP50": _mean(precision[half, ..., 0, -1]),
            "AP75": _mean(precision[three_quarters, ..., 0, -1]),
            **{f"AP{name}": _mean(precision[..., areas[name], -1]) for name in "sml"},
            **{f"AR{most}": _mean(recall[..., 0, m]) for m, most in enumerate(MAX_TRACKS)},
            **{f"AR{name}": _mean(recall[..., areas[name], -1]) for name in "sml"},
        }


def evaluate_tracks(
    truth: Iterable[TruthTrack],
    predictions: Iterable[TrackSegmentation],
    *,
    video_ids: Iterable[int],
    category_ids: Iterable[int],
) -> VideoAP:
    """Compare predicted tracks with labelled ones.

    Args:
        video_ids: all videos of the set, also those with nothing labelled in them.
        category_ids: all categories of the set; tracks of others are left out.

    Raises: DataError for a prediction of another video or with another number of frames.
    """
    videos, categories = sorted(set(video_ids)), sorted(set(category_ids))
    labelled: dict[tuple[int, int], list[TruthTrack]] = defaultdict(list)
    for track in truth:
        labelled[track.video_id, track.category_id].append(track)
    predicted: dict[tuple[int, int], list[TrackSegmentation]] = defaultdict(list)
    known = set(videos)
    for index, prediction in enumerate(predictions):
        if prediction["video_id"] not in known:
            raise DataError(
                f"prediction {index} is of video {prediction['video_id']}, which the truth lacks",
                hint=f"the {len(videos)} videos of the truth have the ids {_some(videos)}",
            )
        predicted[prediction["video_id"], prediction["category_id"]].append(prediction)
    shape = (len(categories), len(AREA_RANGES), len(MAX_TRACKS))
    precision = np.full((len(IOU_THRESHOLDS), len(RECALL_POINTS), *shape), NOT_MEASURED)
    recall = np.full((len(IOU_THRESHOLDS), *shape), NOT_MEASURED)
    for k, category in enumerate(categories):
        pairs = [
            _compare(labelled[video, category], predicted[video, category]) for video in videos
        ]
        for a, area_range in enumerate(AREA_RANGES.values()):
            matches = [pair.match(area_range) for pair in pairs]
            for m, most in enumerate(MAX_TRACKS):
                measured = _precision_and_recall(matches, most)
                if measured is not None:
                    precision[:, :, k, a, m], recall[:, k, a, m] = measured
    return VideoAP(tuple(categories), precision, recall)


@dataclass(frozen=True, slots=True)
class _Matches:
    """The tracks of one video and category, by falling score, in one area range."""

    scores: np.ndarray  # [D]
    found: np.ndarray  # [10, D] bool: matches a labelled track at the threshold
    ignored: np.ndarray  # [10, D] bool: neither right nor wrong
    num_truth: int  # labelled tracks that should be found


@dataclass(frozen=True, slots=True)
class _Pairs:
    """What is compared in one video and category, the predictions by falling score."""

    iou: np.ndarray  # [D, G]
    scores: np.ndarray  # [D]
    areas: np.ndarray  # [D]
    truth_areas: np.ndarray  # [G]
    crowd: np.ndarray  # [G] bool

    def match(self, area_range: tuple[float, float]) -> _Matches:
        """Give every labelled track to the best-scored prediction that overlaps it enough."""
        low, high = area_range
        optional = self.crowd | (self.truth_areas < low) | (self.truth_areas > high)
        outside = (self.areas < low) | (self.areas > high)
        found = np.zeros((len(IOU_THRESHOLDS), len(self.scores)), bool)
        ignored = np.zeros_like(found)
        for t, threshold in enumerate(IOU_THRESHOLDS):
            free = np.ones(len(optional), bool)
            for d, overlaps in enumerate(self.iou):
                # One that should be found goes before any that need not be.
                choice = _best(overlaps, free & ~optional, threshold)
                if choice is None:
                    choice = _best(overlaps, free & optional, threshold)
                if choice is None:
                    ignored[t, d] = outside[d]
                    continue
                found[t, d], ignored[t, d] = True, optional[choice]
                free[choice] = self.crowd[choice]  # a group takes any number of predictions
        return _Matches(self.scores, found, ignored, int((~optional).sum()))


def _compare(truth: Sequence[TruthTrack], predictions: Sequence[TrackSegmentation]) -> _Pairs:
    by_score = sorted(predictions, key=lambda p: -p["score"])[: MAX_TRACKS[-1]]
    masks = [p["segmentations"] for p in by_score]
    areas = [mean_area(t.segmentations) if t.area is None else t.area for t in truth]
    return _Pairs(
        iou=track_iou(masks, [t.segmentations for t in truth]),
        scores=np.array([p["score"] for p in by_score], float),
        areas=np.array([mean_area(m) for m in masks], float),
        truth_areas=np.array(areas, float),
        crowd=np.array([t.is_crowd for t in truth], bool),
    )


def _best(overlaps: np.ndarray, allowed: np.ndarray, threshold: float) -> int | None:
    """The allowed track of the largest overlap, the last of equals, if it is large enough."""
    candidates = np.flatnonzero(allowed & (overlaps >= min(threshold, 1 - 1e-10)))
    if len(candidates) == 0:
        return None
    return int(candidates[::-1][np.argmax(overlaps[candidates[::-1]])])


def _precision_and_recall(
    matches: Sequence[_Matches], most: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """All videos of a category together: precision [10, 101] and recall [10].

    Args: most: of each video, so many predictions count.
    Returns: None if there is nothing to find.
    """
    num_truth = sum(video.num_truth for video in matches)
    if num_truth == 0:
        return None
    scores = np.concatenate([video.scores[:most] for video in matches])
    order = np.argsort(-scores, kind="stable")
    found = np.concatenate([video.found[:, :most] for video in matches], axis=1)[:, order]
    ignored = np.concatenate([video.ignored[:, :most] for video in matches], axis=1)[:, order]
    right = np.cumsum(found & ~ignored, axis=1, dtype=float)
    wrong = np.cumsum(~found & ~ignored, axis=1, dtype=float)
    recall = right / num_truth
    precision = right / np.maximum(right + wrong, np.spacing(1))
    # Precision at a recall is the best that is reached at this recall or a higher one.
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    never = np.zeros((len(IOU_THRESHOLDS), 1))  # a recall that is not reached has precision 0
    envelope = np.concatenate([envelope, never], axis=1)
    places = np.stack([np.searchsorted(row, RECALL_POINTS, side="left") for row in recall])
    reached = recall[:, -1] if len(order) else never[:, 0]
    return np.take_along_axis(envelope, places, axis=1), reached


def _mean(values: np.ndarray) -> float:
    measured = values[values > NOT_MEASURED]
    return float(measured.mean()) if measured.size else NOT_MEASURED


def _some(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:10]))
    return f"{shown}, ..." if len(ids) > 10 else shown
