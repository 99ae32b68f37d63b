"""Average precision and recall over object tracks, as the YouTube-VIS evaluator computes them.

This is COCO's measure for tracks. The IoU of two tracks is the sum of their intersections over all
frames, divided by the sum of their unions. In shapes: K categories, A groups of tracks, P predicted
tracks, G labelled tracks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from vistool.formats.masks.runs import compiled
from vistool.metrics.overlaps import NOT_MEASURED, VideoOverlaps

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
MAX_TRACKS = (1, 10, 100)  # the highest-scoring predictions per video and category that count
# A track's area is the mean over its visible frames, in pixels. Both ends belong to a range.
AREA_RANGES = {
    "all": (0.0, 1e10),
    "s": (0.0, 128.0**2),
    "m": (128.0**2, 256.0**2),
    "l": (256.0**2, 1e10),
}


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """Groups of tracks by a value (such as their area), so that AP is computed for each group.

    Labelled tracks outside the group are ignored, and so are the predictions that match them.
    Unmatched predictions are ignored if they are outside the group themselves.
    """

    ranges: Mapping[str, tuple[float, float]]  # by name; both ends belong to a range
    # Returns the values of the labelled tracks [G] and of the predicted ones [P], NaN for a track
    # without a group. None: predictions have no value, unmatched ones count in every group.
    measure: Callable[[VideoOverlaps], tuple[np.ndarray, np.ndarray | None]]


def mean_areas(video: VideoOverlaps) -> tuple[np.ndarray, np.ndarray]:
    """Areas of labelled [G] and predicted [P] tracks: pixels, the mean over their visible frames.

    The areas that the data set states are used before those of the labelled masks.
    """
    truth = _mean_where_visible(video.truth_areas)
    for g, track in enumerate(video.truth):
        if track.areas is not None:
            stated = [area for area in track.areas if area]
            truth[g] = np.mean(stated) if stated else 0.0
    return truth, _mean_where_visible(video.predicted_areas)


BY_AREA = Grouping(AREA_RANGES, mean_areas)


@dataclass(frozen=True, slots=True, eq=False)
class VideoAP:
    """Precision and recall by IoU threshold, category, group and number of tracks.

    Values are -1 where a category has no labelled track in the group.
    """

    category_ids: tuple[int, ...]
    precision: np.ndarray  # [10, 101, K, A, 3], at fixed recall 0, 0.01, ... 1
    recall: np.ndarray  # [10, K, A, 3], the highest recall
    num_truth: np.ndarray  # [K, A] int64, labelled tracks that are not ignored
    groups: tuple[str, ...] = tuple(AREA_RANGES)  # A names

    def summary(self) -> dict[str, float]:
        """The twelve numbers of the benchmark, in [0, 1], or -1 where nothing is labelled.

        The groups must be those of `AREA_RANGES`; see `by_group` for others.
        """
        return self._summary(slice(None))

    def by_category(self) -> dict[int, dict[str, float]]:
        """The same twelve numbers for each category."""
        return {
            category_id: self._summary(slice(index, index + 1))
            for index, category_id in enumerate(self.category_ids)
        }

    def by_group(self) -> dict[str, dict[str, float]]:
        """AP, AP50, AP75, AR1, AR10, AR100 and `truth` of each group.

        `truth` is the number of labelled tracks.
        """
        return {
            name: {"truth": int(num_truth), **self._of_group(slice(None), place)}
            for place, (name, num_truth) in enumerate(
                zip(self.groups, self.num_truth.sum(axis=0), strict=True)
            )
        }

    def _summary(self, categories: slice) -> dict[str, float]:
        precision, recall = self.precision[:, :, categories], self.recall[:, categories]
        places = {name: self.groups.index(name) for name in "sml"}
        first = self._of_group(categories, 0)
        return {
            **{name: first[name] for name in ("AP", "AP50", "AP75")},
            **{f"AP{name}": _mean(precision[..., place, -1]) for name, place in places.items()},
            **{name: first[name] for name in ("AR1", "AR10", "AR100")},
            **{f"AR{name}": _mean(recall[..., place, -1]) for name, place in places.items()},
        }

    def _of_group(self, categories: slice, place: int) -> dict[str, float]:
        precision = self.precision[:, :, categories, place]
        recall = self.recall[:, categories, place]
        half, three_quarters = 0, 5  # the thresholds 0.5 and 0.75
        return {
            "AP": _mean(precision[..., -1]),
            "AP50": _mean(precision[half, ..., -1]),
            "AP75": _mean(precision[three_quarters, ..., -1]),
            **{f"AR{most}": _mean(recall[..., m]) for m, most in enumerate(MAX_TRACKS)},
        }


class APBuilder:
    """Computes AP from videos that are added one by one; their masks are not kept."""

    def __init__(self, category_ids: Iterable[int], grouping: Grouping = BY_AREA) -> None:
        """Args: category_ids: all categories of the set; tracks of others are left out."""
        self._categories = sorted(set(category_ids))
        self._grouping = grouping
        self._videos: list[tuple[int, VideoOutcome]] = []

    def add(self, video: VideoOverlaps) -> None:
        """Match the tracks of one video; the order of videos does not matter."""
        self._videos.append((video.video_id, _outcome(video, self._grouping)))

    def outcomes(self) -> list[VideoOutcome]:
        """The matches of every video so far, in the order of the video ids."""
        return [outcome for _, outcome in sorted(self._videos, key=lambda entry: entry[0])]

    def result(self) -> VideoAP:
        """AP over all videos so far."""
        names = tuple(self._grouping.ranges)
        shape = (len(self._categories), len(names))
        precision = np.full((len(IOU_THRESHOLDS), len(RECALL_POINTS), *shape, 3), NOT_MEASURED)
        recall = np.full((len(IOU_THRESHOLDS), *shape, 3), NOT_MEASURED)
        num_truth = np.zeros(shape, np.int64)
        ap = VideoAP(tuple(self._categories), precision, recall, num_truth, names)
        if not self._videos:
            return ap
        whole = VideoOutcome.joined(self.outcomes())
        for k, category in enumerate(self._categories):
            of_category = whole.of_category(category)
            num_truth[k] = of_category.to_find.sum(axis=1)
            for a in np.flatnonzero(num_truth[k]).tolist():
                for m, most in enumerate(MAX_TRACKS):
                    counts = of_category.ranks < most
                    precision[:, :, k, a, m], recall[:, k, a, m] = precision_and_recall(
                        of_category.found[a][:, counts],
                        of_category.ignored[a][:, counts],
                        num_truth[k, a],
                    )
        return ap


def average_precision(
    videos: Iterable[VideoOverlaps],
    *,
    category_ids: Iterable[int],
    grouping: Grouping = BY_AREA,
) -> VideoAP:
    """AP over videos whose tracks are already compared; see `APBuilder`."""
    builder = APBuilder(category_ids, grouping)
    for video in videos:
        builder.add(video)
    return builder.result()


@dataclass(frozen=True, slots=True, eq=False)
class VideoOutcome:
    """Matches of P predictions, by falling score, and G labelled tracks, of one or more videos."""

    videos: np.ndarray  # [P] index of the video, if there are several
    categories: np.ndarray  # [P] int64
    scores: np.ndarray  # [P] float64
    ranks: np.ndarray  # [P] int64, from 0, within the video and category
    found: np.ndarray  # [A, 10, P] bool: matches a labelled track at the threshold
    ignored: np.ndarray  # [A, 10, P] bool: neither true nor false positive
    truth_videos: np.ndarray  # [G] index of the video
    truth_categories: np.ndarray  # [G] int64
    to_find: np.ndarray  # [A, G] bool: not ignored

    @classmethod
    def joined(cls, outcomes: Sequence[VideoOutcome]) -> VideoOutcome:
        """Join outcomes of one video each, at least one.

        Predictions of equal score are in the order of the videos.
        """
        whole = cls(
            *(np.concatenate([getattr(o, f.name) for o in outcomes], axis=-1) for f in fields(cls))
        )
        places = np.arange(len(outcomes))
        whole = replace(
            whole,
            videos=np.repeat(places, [len(o.scores) for o in outcomes]),
            truth_videos=np.repeat(places, [len(o.truth_categories) for o in outcomes]),
        )
        return whole._chosen(np.argsort(-whole.scores, kind="stable"), slice(None))

    def of_category(self, category: int) -> VideoOutcome:
        """The predictions and labelled tracks of one category."""
        return self._chosen(self.categories == category, self.truth_categories == category)

    def _chosen(self, predictions: np.ndarray, truth: np.ndarray | slice) -> VideoOutcome:
        return VideoOutcome(
            *(getattr(self, f.name)[..., predictions] for f in fields(self)[:6]),
            *(getattr(self, f.name)[..., truth] for f in fields(self)[6:]),
        )


def precision_and_recall(
    found: np.ndarray, ignored: np.ndarray, num_truth: int | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [10, 101] at the fixed recalls, and the highest recall [10].

    Args:
        found, ignored: [10, P] bool, the predictions of one category by falling score.
        num_truth: number of labelled tracks, at least one; or [10, 1], by threshold.
    """
    right = np.cumsum(found & ~ignored, axis=1, dtype=float)
    wrong = np.cumsum(~found & ~ignored, axis=1, dtype=float)
    recall = right / num_truth
    precision = right / np.maximum(right + wrong, np.spacing(1))
    # Precision at a recall is the highest precision at this recall or a higher one.
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    never = np.zeros((len(IOU_THRESHOLDS), 1))  # recalls that are not reached have precision 0
    envelope = np.concatenate([envelope, never], axis=1)
    places = np.stack([np.searchsorted(row, RECALL_POINTS, side="left") for row in recall])
    reached = recall[:, -1] if recall.size else never[:, 0]
    return np.take_along_axis(envelope, places, axis=1), reached


def match_tracks(video: VideoOverlaps, optional: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match every labelled track with the highest-scoring prediction that overlaps it enough.

    Args: optional: [A, G] bool, the labelled tracks that are ignored, by group.
    Returns: the indices of the 100 highest-scoring predictions of every category, by falling
        score [P]; and the index of the labelled track that each of them matches [A, 10, P], or -1.
    """
    scores = np.array([p["score"] for p in video.predictions], float)
    categories = np.array([p["category_id"] for p in video.predictions], np.int64)
    order = np.argsort(-scores, kind="stable")
    order = order[_ranks(categories[order]) < MAX_TRACKS[-1]]
    truth_categories = np.array([t.category_id for t in video.truth], np.int64)
    crowd = np.array([t.is_crowd for t in video.truth], bool)
    matches = np.full((len(optional), len(IOU_THRESHOLDS), len(order)), -1, np.int64)
    same = categories[order, None] == truth_categories
    _match(video.iou()[order], same, optional, crowd, IOU_THRESHOLDS, matches)
    return order, matches


def _outcome(video: VideoOverlaps, grouping: Grouping) -> VideoOutcome:
    """The matches of one video in every group."""
    crowd = np.array([t.is_crowd for t in video.truth], bool)
    truth_values, values = grouping.measure(video)
    inside = [_within(truth_values, ends) for ends in grouping.ranges.values()]
    optional = crowd | ~np.array(inside, bool)
    order, matches = match_tracks(video, optional)
    scores = np.array([video.predictions[p]["score"] for p in order], float)
    categories = np.array([video.predictions[p]["category_id"] for p in order], np.int64)
    outside = np.zeros((len(inside), len(order)), bool)
    if values is not None:
        outside[:] = [~_within(values[order], ends) for ends in grouping.ranges.values()]
    found = matches >= 0
    # The last column is for unmatched predictions, whose match is -1.
    ignorable = np.pad(optional, [(0, 0), (0, 1)])[np.arange(len(inside))[:, None, None], matches]
    ignored = np.where(found, ignorable, outside[:, None])
    truth_categories = np.array([t.category_id for t in video.truth], np.int64)
    return VideoOutcome(
        videos=np.zeros(len(order), np.int64),
        categories=categories,
        scores=scores,
        ranks=_ranks(categories),
        found=found,
        ignored=ignored,
        truth_videos=np.zeros(len(truth_categories), np.int64),
        truth_categories=truth_categories,
        to_find=~optional,
    )


@compiled
def _match(
    iou: np.ndarray,
    same: np.ndarray,
    optional: np.ndarray,
    crowd: np.ndarray,
    thresholds: np.ndarray,
    matches: np.ndarray,
) -> None:
    """Write into `matches` [A, 10, P] the labelled track that a prediction matches, or -1.

    Args:
        iou: [P, G], predictions by falling score.
        same: [P, G] bool, both are of one category.
        optional: [A, G] bool, labelled tracks that are ignored.
        crowd: [G] bool, these match any number of predictions.
    """
    for a in range(optional.shape[0]):
        for t in range(len(thresholds)):
            free = np.ones(len(crowd), np.bool_)
            for p in range(iou.shape[0]):
                best = min(thresholds[t], 1 - 1e-10)
                choice = -1
                # Ignored tracks are tried last; if IoUs are equal, the last track is chosen.
                for turn in (False, True):
                    for g in range(iou.shape[1]):
                        allowed = same[p, g] and free[g] and optional[a, g] == turn
                        if allowed and iou[p, g] >= best:
                            best, choice = iou[p, g], g
                    if choice >= 0:
                        free[choice] = crowd[choice]
                        matches[a, t, p] = choice
                        break


def _ranks(categories: np.ndarray) -> np.ndarray:
    """The number of earlier entries of the same category, for every entry: [P]."""
    seen: dict[int, int] = defaultdict(int)
    ranks = np.zeros(len(categories), np.int64)
    for place, category in enumerate(categories.tolist()):
        ranks[place] = seen[category]
        seen[category] += 1
    return ranks


def _within(values: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    return (values >= ends[0]) & (values <= ends[1])


def _mean_where_visible(areas: np.ndarray) -> np.ndarray:
    """[F, N] pixels -> [N], the mean over the frames with pixels."""
    return areas.sum(axis=0) / np.maximum((areas > 0).sum(axis=0), 1)


def _mean(values: np.ndarray) -> float:
    measured = values[values > NOT_MEASURED]
    return float(measured.mean()) if measured.size else NOT_MEASURED
