"""A data set and predictions on it, brought into one shape: what is compared with what.

Categories that a model does not tell apart are merged, and predictions that nobody can call right
or wrong are taken out; what was done is counted, so that it can be said.
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

IGNORE = "ignore"  # the category of regions to ignore
UNNAMED = "object"  # the category of things that have none of the others, or several


@dataclass(frozen=True, slots=True)
class ScoredSet:
    """The tracks of every video that are compared, with ids of the scored categories."""

    videos: tuple[AnnotatedVideo, ...]
    categories: Mapping[int, str]  # that are scored, by id; a merged one has its class's name
    truth: Mapping[int, Sequence[AnnotatedTrack]]  # by video id
    predictions: Mapping[int, Sequence[TrackSegmentation]]  # by video id, in the file's order
    merged: Mapping[str, Sequence[str]]  # scored category -> the data set's, where it is several
    unscored: Mapping[str, int]  # labelled categories that are left out -> their tracks
    partly_labelled: int  # videos in which not everything is labelled
    unnamed: Mapping[int, Sequence[AnnotatedTrack]]  # by video id: labelled without a category
    found: Mapping[int, Sequence[TrackSegmentation]]  # by video id: predictions, judged or not

    @property
    def num_frames(self) -> int:
        """Of all videos."""
        return sum(video.length for video in self.videos)

    @property
    def num_truth(self) -> int:
        """Labelled tracks that are to be found."""
        return sum(not track.is_crowd for tracks in self.truth.values() for track in tracks)

    @property
    def num_unnamed(self) -> int:
        """Objects that are labelled without a category."""
        return sum(map(len, self.unnamed.values()))

    @property
    def unjudged(self) -> int:
        """Predictions that may show what nobody labelled, and are left out."""
        return sum(map(len, self.found.values())) - self.num_predictions

    @property
    def num_predictions(self) -> int:
        """Predicted tracks that are scored."""
        return sum(map(len, self.predictions.values()))

    def in_order(self) -> Iterator[OfVideo]:
        """Video id, truth and predictions, by rising id."""
        for video_id in self.video_ids:
            yield video_id, self.truth[video_id], self.predictions[video_id]

    def objects_in_order(self) -> Iterator[OfVideo]:
        """The same whatever the category: all labelled objects, and every predicted track once."""
        for video_id in self.video_ids:
            objects = [*self.truth[video_id], *self.unnamed[video_id]]
            yield video_id, objects, _each_once(self.found[video_id])

    @property
    def video_ids(self) -> list[int]:
        """By rising id."""
        return sorted(video.id for video in self.videos)


def scored_set(
    dataset: DataSet,
    predictions: Sequence[TrackSegmentation],
    *,
    classes: Sequence[MatchedClass] = (),
    without: frozenset[int] = frozenset(),
) -> ScoredSet:
    """Bring a data set and checked predictions into one shape.

    Args:
        classes: what a model's classes stand for; categories of one class become one, and those
            of none are not scored. Empty: all categories, as they are.
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
    found = _of_videos(dataset, predictions, videos, becomes)
    judged = {
        video.id: _judged(video, truth[video.id], found[video.id], unnamed[video.id], becomes)
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
        found=found,
    )


def _of_videos(
    dataset: DataSet,
    predictions: Sequence[TrackSegmentation],
    videos: Sequence[AnnotatedVideo],
    becomes: Mapping[int, int],
) -> dict[int, list[TrackSegmentation]]:
    """The predictions of scored categories, by video id."""
    found: dict[int, list[TrackSegmentation]] = {video.id: [] for video in videos}
    only = dataset.categories[0].id if dataset.class_agnostic else None
    for prediction in predictions:
        category = prediction["category_id"] if only is None else only
        if prediction["video_id"] in found and category in becomes:
            found[prediction["video_id"]].append(
                TrackSegmentation(**{**prediction, "category_id": becomes[category]})
            )
    return found


def _scored_categories(
    dataset: DataSet, classes: Sequence[MatchedClass], names: Mapping[int, str]
) -> tuple[dict[int, int], dict[int, str]]:
    """What every category of the data set becomes, and the names of what they become."""
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
    """The category of things without a name, if it is one among others.

    A set that is labelled in part has such a category, and so has one for a model that knows
    nothing of the kind. Else `object` is a category as any other. Predictions have no say in it:
    who finds fewer things would be asked for fewer.
    """
    unnamed = {id_ for id_, name in names.items() if name == UNNAMED}
    others = any(track.category_id not in unnamed for track in dataset.tracks)
    in_part = not all(video.exhaustive for video in dataset.videos)
    known = {id_ for match in classes for id_ in match.category_ids}
    return frozenset(unnamed - known if others and (classes or in_part) else ())


def _regions(dataset: DataSet, names: Mapping[int, str]) -> frozenset[int]:
    """The category of regions in which nothing counts, of whatever category (MOTS)."""
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
    """The predictions of a video that can be called right or wrong."""
    # Of a picture, groups are regions to ignore, as COCO's evaluator has it. On completely labelled
    # videos, YouTube-VIS's evaluator asks for the overlap with the whole group.
    groups = video.length == 1 and any(track.is_crowd for track in truth)
    if video.exhaustive and not ignored and not groups:
        return predictions
    complete = set(becomes.values())
    if not video.exhaustive:  # of a merged category, all parts must be labelled
        complete -= {new for old, new in becomes.items() if old not in video.exhaustive_ids}
    regions = [track.segmentations for track in ignored]
    return scorable(predictions, truth, exhaustive=complete, ignored=regions)


def _each_once(predictions: Sequence[TrackSegmentation]) -> Sequence[TrackSegmentation]:
    """Of entries with the same masks, which stand for one track as several classes, the best."""
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
    """Which categories of a data set every class of a model stands for, by their names.

    Categories of one name are one class, as in training. Where no category has the very name of a
    class, upper case, underscores and hyphens make no difference. A model that was trained on
    merged classes says in its header what each stands for. Where objects have no category, every
    class stands for them.

    Raises: DataError if no class has any, or two claim the same.
    """
    config = header.config
    members = _trained_classes(header)
    named = {name: (name, *members.get(name, ())) for name in config.class_names}
    ids_of = _ids_of_names({name for names in named.values() for name in names}, categories)
    matched = []
    for name, number in zip(config.class_names, config.ids_of_classes(), strict=True):
        found = {id_ for n in named[name] for id_ in ids_of[n]}
        if class_agnostic:
            found = {category.id for category in categories}
        matched.append(MatchedClass(name, number, tuple(sorted(found))))
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
    """The categories that every name means: those so called, or else those written otherwise."""
    exact: dict[str, list[int]] = defaultdict(list)
    otherwise: dict[str, list[int]] = defaultdict(list)
    for category in categories:
        exact[category.name].append(category.id)
        if category.name not in names:
            otherwise[_plain(category.name)].append(category.id)
    return {name: exact[name] or otherwise[_plain(name)] for name in names}


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _trained_classes(header: WeightsHeader) -> dict[str, list[str]]:
    """The header's table of what was trained as which class, if it has one."""
    with contextlib.suppress(*NOT_TAKEN):
        content = msgspec.json.decode(
            header.metadata.get("training", ""), type=dict[str, msgspec.Raw]
        )
        return msgspec.json.decode(content.get("classes", b"{}"), type=dict[str, list[str]])
    return {}
