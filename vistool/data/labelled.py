"""Annotated pictures (COCO) and videos (YouTube-VIS) in one form: a picture is a short video."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vistool.annotations.dataset import (
    AnnotatedTrack,
    AnnotatedVideo,
    DataSet,
    StatedBoxes,
    frame_file,
    group_tracks,
)
from vistool.annotations.read import read_dataset
from vistool.errors import DataError
from vistool.formats.masks.annotated import Outlines
from vistool.formats.masks.rle import decode_mask
from vistool.formats.results.files import Category
from vistool.structures import RLE, Size


@dataclass(frozen=True, slots=True)
class LabelledTrack:
    """One instance over the frames of its video."""

    label: int  # class index of the model
    segmentations: Sequence[RLE | None]  # one per frame; None: not visible
    id: int = 0  # of the annotation
    # As stated in the file, for every frame; None if they were not requested.
    boxes_xywh: StatedBoxes | None = None
    outlines: Outlines | None = None

    def mask(self, frame: int, size: Size) -> np.ndarray:
        """[H, W] uint8, 1 on the instance."""
        rle = self.segmentations[frame]
        if rle is None:
            return np.zeros(size, np.uint8)
        return decode_mask(rle).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class LabelledVideo:
    """Frames of equal size with their labelled instances; a picture has one frame."""

    files: tuple[Path, ...]
    size: Size
    tracks: tuple[LabelledTrack, ...]
    exhaustive: tuple[bool, ...]  # [K]: all instances of the class outside `regions` are labelled
    # Regions with instances that are not labelled one by one, or that have unreliable masks.
    regions: tuple[LabelledTrack, ...] = ()


def read_annotations(
    path: Path,
    classes: Mapping[str, Sequence[str]],
    *,
    frames: Path | None = None,
    stated: bool = False,
) -> list[LabelledVideo]:
    """Read any data set that `read_dataset` can read; all its frames must be inside its folder.

    Instances whose category belongs to no class are left out. Crowds (`iscrowd`) are regions to
    ignore. If a picture has `exhaustive: false`, only the categories in `exhaustive_category_ids`
    are exhaustively labelled.

    Args:
        classes: the model's class names, in order, each with the names of its categories.
        frames: the folder to which file names are relative; None: the folder that contains them.
        stated: also keep the boxes and outlines of the file, which the papers' pipelines use.

    Raises: DataError that names the file and the entry.
    """
    dataset = read_dataset(path, frames=frames, outlines=stated)
    members = _category_ids(dataset, classes)
    # A class without category names is exhaustive; the published VisTR has one.
    judged = [bool(ids) or not names for ids, names in zip(members, classes.values(), strict=True)]
    tracks = group_tracks(dataset.tracks)
    return [
        _labelled_video(dataset, video, tracks[video.id], members, judged, stated)
        for video in dataset.videos
    ]


def own_classes(paths: Iterable[Path]) -> dict[str, tuple[str, ...]]:
    """The categories of several data sets as classes; categories of equal name are one class.

    Raises: DataError if a set cannot be read.
    """
    names = [
        category.name for path in paths for category in read_dataset(path, masks=False).categories
    ]
    return {name: (name,) for name in names}


def _category_ids(dataset: DataSet, classes: Mapping[str, Sequence[str]]) -> list[frozenset[int]]:
    """The data set's category ids for every class."""
    members = [_ids_of(names, dataset.categories) for names in classes.values()]
    if not any(members):
        named = ", ".join(sorted(category.name for category in dataset.categories))
        raise DataError(
            f"{dataset.path}: none of its {len(dataset.categories)} categories belongs to a class",
            hint=f"categories in the file: {named}",
        )
    return members


def _ids_of(names: Sequence[str], categories: Sequence[Category]) -> frozenset[int]:
    return frozenset(category.id for category in categories if category.name in names)


def _labelled_video(
    dataset: DataSet,
    video: AnnotatedVideo,
    tracks: Sequence[AnnotatedTrack],
    members: Sequence[frozenset[int]],
    judged: Sequence[bool],
    stated: bool,
) -> LabelledVideo:
    if not video.file_names:
        raise DataError(f"{dataset.path}: video {video.id} has no file_names to train on")
    label_of = {category: label for label, ids in enumerate(members) for category in ids}
    try:
        files = tuple(frame_file(dataset.frames, name) for name in video.file_names)
    except DataError as error:
        raise DataError(f"{dataset.path}: video {video.id}: {error}", hint=error.hint) from None
    labelled: dict[bool, list[LabelledTrack]] = {False: [], True: []}  # by whether it is a crowd
    for track in tracks:
        if track.category_id in label_of:
            labelled[track.is_crowd].append(
                LabelledTrack(
                    label=label_of[track.category_id],
                    segmentations=track.segmentations,
                    id=track.id,
                    boxes_xywh=track.boxes if stated else None,
                    outlines=track.outlines,
                )
            )
    return LabelledVideo(
        files=files,
        size=video.size,
        tracks=tuple(labelled[False]),
        exhaustive=tuple(
            known and (video.exhaustive or ids <= video.exhaustive_ids)
            for ids, known in zip(members, judged, strict=True)
        ),
        regions=tuple(labelled[True]),
    )
