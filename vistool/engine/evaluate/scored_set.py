"""The tracks that are scored: which predictions are compared with which labelled tracks.

Categories that a model does not distinguish are merged. Predictions that may show unlabelled
objects are left out. Both are counted, so that they can be reported.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from vistool.annotations.dataset import AnnotatedTrack, AnnotatedVideo, DataSet
from vistool.engine.evaluate.predictions import MatchedClass
from vistool.errors import DataError
from vistool.formats.files import NOT_TAKEN
from vistool.formats.results.files import Category
from vistool.metrics.partial_labels import scorable
from vistool.models.checkpoints.files import WeightsHeader
from vistool.structures import TrackSegmentation

# Video id, truth, predictions.
OfVideo = tuple[int, Sequence[AnnotatedTrack], Sequence[TrackSegmentation]]

IGNORE = "ignore"  # the category of regions to ignore (MOTS)
UNNAMED = "object"  # the category of objects of unknown category, or of several


@dataclass(frozen=True, slots=True)
class ScoredSet:
    """The tracks of every video that are compared, with ids of the scored categories."""

    videos: tuple[AnnotatedVideo, ...]
    categories: Mapping[int, str]  # id -> name; a merged category has the name of the model's class
    truth: Mapping[int, Sequence[AnnotatedTrack]]  # by video id
    predictions: Mapping[int, Sequence[TrackSegmentation]]  # by video id, in the file's order
    merged: Mapping[str, Sequence[str]]  # merged category -> names of its parts
    unscored: Mapping[str, int]  # categories that are left out -> number of labelled tracks
    partly_labelled: int  # videos that are labelled in part
    unnamed: Mapping[int, Sequence[AnnotatedTrack]]  # by video id: labelled without a category
    all_predictions: Mapping[int, Sequence[TrackSegmentation]]  # by video id, scored or left out

    @property
    def num_frames(self) -> int:
        """Frames of all videos."""
        return sum(video.length for video in self.videos)

    @property
    def num_truth(self) -> int:
        """Labelled tracks, without crowds."""
        return sum(not track.is_crowd for tracks in self.truth.values() for track in tracks)

    @property
    def num_unnamed(self) -> int:
        """Objects that are labelled without a category."""
        return sum(map(len, self.unnamed.values()))

    @property
    def unjudged(self) -> int:
        """Predictions that are left out, since they may show unlabelled objects."""
        return sum(map(len, self.all_predictions.values())) - self.num_predictions

    @property
    def num_predictions(self) -> int:
        """Predicted tracks that are scored."""
        return sum(map(len, self.predictions.values()))

    def in_order(self) -> Iterator[OfVideo]:
        """Video id, truth and predictions, by ascending id."""
        for video_id in self.video_ids:
            yield video_id, self.truth[video_id], self.predictions[video_id]

    def objects_in_order(self) -> Iterator[OfVideo]:
        """The same without categories: all labelled objects, and every predicted track once."""
        for video_id in self.video_ids:
            objects = [*self.truth[video_id], *self.unnamed[video_id]]
            yield video_id, objects, _each_once(self.all_predictions[video_id])

    @property
    def video_ids(self) -> list[int]:
        """The ids of all videos, ascending."""
        return sorted(video.id for video in self.videos)


def scored_set(
    dataset: DataSet,
    predictions: Sequence[TrackSegmentation],
    *,
    classes: Sequence[MatchedClass] = (),
    without: frozenset[int] = frozenset(),
) -> ScoredSet:
    """Choose the labelled and predicted tracks that are compared.

    Args:
        predictions: checked, with category ids of the data set.
        classes: the categories that a model's classes stand for. Categories of one class are
            merged, categories without a class are not scored. Empty: all categories, as they are.
        without: ids of videos to leave out.
    """
    videos = tuple(video for video in dataset.videos if video.id not in without)
    names = {category.id: category.name for category in dataset.categories}
    becomes, scored = _scored_categories(dataset, classes, names)
    nameless, regions = _unnamed(dataset, classes, names), _regions(dataset, names)
    becomes = {old: new for old, new in becomes.items() if old not in nameless | regions}
    scored = {id_: name for id_, name in scored.items() if id_ in becomes.values()}
    truth: dict[int, list[AnnotatedTrack]] = {video.id: [] for video in videos}
    unnamed: dict[int, list[AnnotatedTrack]] = {video.id: [] for video in videos}
    unscored: Counter[str] = Counter()
    for track in dataset.tracks:
        if track.video_id not in truth:
            continue
        if track.category_id in nameless:
            unnamed[track.video_id].append(track)
        elif track.category_id in regions:
            truth[track.video_id] += [replace(track, category_id=category) for category in scored]
        elif track.category_id in becomes:
            truth[track.video_id].append(replace(track, category_id=becomes[track.category_id]))
        else:
            unscored[names[track.category_id]] += 1
    by_video = _of_videos(dataset, predictions, videos, becomes)
    judged = {
        video.id: _judged(video, truth[video.id], by_video[video.id], unnamed[video.id], becomes)
        for video in videos
    }
    members: dict[int, list[str]] = defaultdict(list)
    for old, new in becomes.items():
        members[new].append(names[old])
    return ScoredSet(
        videos=videos,
        categories=scored,
        truth=truth,
        predictions=judged,
        merged={scored[new]: sorted(old) for new, old in members.items() if len(old) > 1},
        unscored=dict(sorted(unscored.items())),
        partly_labelled=sum(not video.exhaustive for video in videos),
        unnamed=unnamed,
        all_predictions=by_video,
    )


def _of_videos(
    dataset: DataSet,
    predictions: Sequence[TrackSegmentation],
    videos: Sequence[AnnotatedVideo],
    becomes: Mapping[int, int],
) -> dict[int, list[TrackSegmentation]]:
    """The predictions of scored categories, by video id."""
    by_video: dict[int, list[TrackSegmentation]] = {video.id: [] for video in videos}
    only = dataset.categories[0].id if dataset.class_agnostic else None
    for prediction in predictions:
        category = prediction["category_id"] if only is None else only
        if prediction["video_id"] in by_video and category in becomes:
            by_video[prediction["video_id"]].append(
                TrackSegmentation(**{**prediction, "category_id": becomes[category]})
            )
    return by_video


def _scored_categories(
    dataset: DataSet, classes: Sequence[MatchedClass], names: Mapping[int, str]
) -> tuple[dict[int, int], dict[int, str]]:
    """Category id -> scored category id, and the names of the scored categories."""
    if not classes or dataset.class_agnostic:
        return {id_: id_ for id_ in names}, dict(names)
    having = [match for match in classes if match.category_ids]
    becomes = {id_: match.target for match in having for id_ in match.category_ids}
    return becomes, {
        match.target: match.name if len(match.category_ids) > 1 else names[match.target]
        for match in having
    }


def _unnamed(
    dataset: DataSet, classes: Sequence[MatchedClass], names: Mapping[int, str]
) -> frozenset[int]:
    """The ids of the category `object`, if it stands for objects of unknown category.

    It does so beside other categories, if the set is labelled in part or the model has no class
    `object`. Otherwise it is a category like any other. This must not depend on the predictions,
    or fewer predictions would mean fewer tracks to find.
    """
    unnamed = {id_ for id_, name in names.items() if name == UNNAMED}
    others = any(track.category_id not in unnamed for track in dataset.tracks)
    in_part = not all(video.exhaustive for video in dataset.videos)
    known = {id_ for match in classes for id_ in match.category_ids}
    return frozenset(unnamed - known if others and (classes or in_part) else ())


def _regions(dataset: DataSet, names: Mapping[int, str]) -> frozenset[int]:
    """The ids of the category `ignore`: regions in which no prediction is scored (MOTS)."""
    labelled = {id_ for id_, name in names.items() if name == IGNORE}
    objects = {track.category_id for track in dataset.tracks if not track.is_crowd}
    return frozenset(labelled - objects)


def _judged(
    video: AnnotatedVideo,
    truth: Sequence[AnnotatedTrack],
    predictions: Sequence[TrackSegmentation],
    ignored: Sequence[AnnotatedTrack],
    becomes: Mapping[int, int],
) -> Sequence[TrackSegmentation]:
    """The predictions of a video that can be scored as right or wrong."""
    # In pictures, crowds are regions to ignore, as in COCO's evaluator. On completely labelled
    # videos, YouTube-VIS's evaluator uses the overlap with the whole crowd.
    groups = video.length == 1 and any(track.is_crowd for track in truth)
    if video.exhaustive and not ignored and not groups:
        return predictions
    complete = set(becomes.values())
    if not video.exhaustive:  # all parts of a merged category must be labelled
        complete -= {new for old, new in becomes.items() if old not in video.exhaustive_ids}
    regions = [track.segmentations for track in ignored]
    return scorable(predictions, truth, exhaustive=complete, ignored=regions)


def _each_once(predictions: Sequence[TrackSegmentation]) -> Sequence[TrackSegmentation]:
    """The highest-scoring entry of each track; entries with equal masks are one track."""
    best: dict[tuple[str, ...], TrackSegmentation] = {}
    for prediction in sorted(predictions, key=lambda p: -p["score"]):
        masks = tuple(
            "" if mask is None else mask["counts"] for mask in prediction["segmentations"]
        )
        best.setdefault(masks, prediction)
    return list(best.values())


# --- the classes of a model -----------------------------------------------------------------------


def matched_classes(
    header: WeightsHeader, categories: Sequence[Category], *, class_agnostic: bool = False
) -> tuple[MatchedClass, ...]:
    """The categories of a data set that every class of a model stands for, matched by name.

    Categories with the same name are one class, as in training. If no category has exactly the
    name of a class, upper case, underscores and hyphens are ignored. The header of a model that was
    trained on merged classes lists the categories of each. On a class-agnostic set, every class
    stands for all categories.

    Raises: DataError if no class has a category, or if two classes have the same one.
    """
    config = header.config
    members = _trained_classes(header)
    named = {name: (name, *members.get(name, ())) for name in config.class_names}
    ids_of = _ids_of_names({name for names in named.values() for name in names}, categories)
    matched = []
    for name, number in zip(config.class_names, config.ids_of_classes(), strict=True):
        ids = {id_ for n in named[name] for id_ in ids_of[n]}
        if class_agnostic:
            ids = {category.id for category in categories}
        matched.append(MatchedClass(name, number, tuple(sorted(ids))))
    if not any(m.category_ids for m in matched):
        raise DataError(
            f"none of the model's classes is a category of the data set: "
            f"{', '.join(config.class_names)}",
            hint=f"categories of the set: {', '.join(c.name for c in categories[:20])}",
        )
    claimed: dict[int, str] = {}
    for match in [] if class_agnostic else matched:
        for category in match.category_ids:
            if category in claimed:
                raise DataError(
                    f"the model's classes {claimed[category]!r} and {match.name!r} both stand for "
                    f"category {category} of the data set"
                )
            claimed[category] = match.name
    return tuple(matched)


def _ids_of_names(
    names: Collection[str], categories: Sequence[Category]
) -> Mapping[str, Collection[int]]:
    """The categories of every name: exact matches, or else those that differ only in spelling."""
    exact: dict[str, list[int]] = defaultdict(list)
    similar: dict[str, list[int]] = defaultdict(list)
    for category in categories:
        exact[category.name].append(category.id)
        if category.name not in names:
            similar[_plain(category.name)].append(category.id)
    return {name: exact[name] or similar[_plain(name)] for name in names}


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _trained_classes(header: WeightsHeader) -> dict[str, list[str]]:
    """The header's table of class -> categories trained as that class; empty if it has none."""
    with contextlib.suppress(*NOT_TAKEN):
        content = msgspec.json.decode(
            header.metadata.get("training", ""), type=dict[str, msgspec.Raw]
        )
        return msgspec.json.decode(content.get("classes", b"{}"), type=dict[str, list[str]])
    return {}
