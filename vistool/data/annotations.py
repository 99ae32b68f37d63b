"""Annotated pictures (COCO) and videos (YouTube-VIS) in one form: a picture is a short video."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vistool.errors import DataError
from vistool.formats.rle import decode_mask
from vistool.structures import RLE, Size


@dataclass(frozen=True, slots=True)
class Stated:
    """What a file says of an instance beside its masks, frame by frame; None: nothing."""

    boxes_xywh: tuple[tuple[float, ...] | None, ...]  # left, top, width, height in pixels
    areas: tuple[float | None, ...]
    outlines: tuple[tuple[np.ndarray, ...] | None, ...]  # polygons, [P, 2] x, y each


@dataclass(frozen=True, slots=True)
class LabelledTrack:
    """One instance over the frames of its video."""

    label: int  # class index of the model
    segmentations: tuple[RLE | None, ...]  # one a frame; None: not visible
    id: int = 0  # of the annotation
    stated: Stated | None = None  # read by the papers' pipelines only

    def mask(self, frame: int, size: Size) -> np.ndarray:
        """[H, W] uint8, 1 on the instance."""
        rle = self.segmentations[frame]
        if rle is None:
            return np.zeros(size, np.uint8)
        return decode_mask(rle).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class LabelledVideo:
    """Frames of one size with the instances that somebody labelled; a picture has one frame."""

    files: tuple[Path, ...]
    size: Size
    tracks: tuple[LabelledTrack, ...]
    exhaustive: tuple[bool, ...]  # [K]: are all instances of the class labelled here?


def read_annotations(path: Path, classes: Mapping[str, Sequence[str]]) -> list[LabelledVideo]:
    """Read COCO pictures or YouTube-VIS videos; frames lie below the JSON file's folder.

    Instances of a category that no class lists are left out. Where a class has a crowd region (an
    unseparated group), or a picture says by `exhaustive: false` that only the categories in
    `exhaustive_category_ids` are labelled completely, the other classes are not exhaustive there.

    Args: classes: the model's class names, in order, each with the category names it stands for.
    Raises: DataError that names the file and the entry.
    """
    content = _load(path)
    entries = content.get("videos", content.get("images"))
    if entries is None or "annotations" not in content or "categories" not in content:
        raise DataError(
            f"{path}: no 'images' or 'videos', 'annotations' and 'categories' in it",
            hint="training takes COCO instance files and YouTube-VIS files",
        )
    members = _category_ids(content["categories"], classes, path)
    label_of = {category: label for label, ids in enumerate(members) for category in ids}
    by_entry: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_entry[annotation.get("video_id", annotation.get("image_id"))].append(annotation)
    return [
        _labelled_video(entry, by_entry[entry["id"]], members, label_of, path) for entry in entries
    ]


def _load(path: Path) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file") from None
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path}: not a readable JSON file: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__} where an object should be")
    return content


def _category_ids(
    categories: list[dict[str, Any]], classes: Mapping[str, Sequence[str]], path: Path
) -> list[frozenset[int]]:
    """The file's category ids of every class."""
    ids = {category["name"]: category["id"] for category in categories}
    members = [frozenset(ids[name] for name in names if name in ids) for names in classes.values()]
    if not any(members):
        raise DataError(
            f"{path}: none of its {len(ids)} categories belongs to a class",
            hint=f"categories in the file: {', '.join(sorted(ids))}",
        )
    return members


def _labelled_video(
    entry: dict[str, Any],
    annotations: list[dict[str, Any]],
    members: list[frozenset[int]],
    label_of: dict[int, int],
    path: Path,
) -> LabelledVideo:
    names = entry.get("file_names") or [entry["file_name"]]
    crowded = {a["category_id"] for a in annotations if a.get("iscrowd")}
    labelled = frozenset(entry.get("exhaustive_category_ids", ()))
    everything = entry.get("exhaustive", True)
    tracks = []
    for annotation in annotations:
        if annotation.get("iscrowd") or annotation["category_id"] not in label_of:
            continue
        segmentations = annotation.get("segmentations", [annotation.get("segmentation")])
        if len(segmentations) != len(names):
            raise DataError(
                f"{path}: annotation {annotation['id']} has {len(segmentations)} masks "
                f"but its video has {len(names)} frames",
                hint="write null for frames where the instance is not visible",
            )
        label = label_of[annotation["category_id"]]
        tracks.append(LabelledTrack(label, tuple(segmentations), annotation["id"]))
    return LabelledVideo(
        files=tuple(_inside(path.parent, name, path) for name in names),
        size=Size(entry["height"], entry["width"]),
        tracks=tuple(tracks),
        exhaustive=tuple(
            bool(ids) and not ids & crowded and (everything or ids <= labelled) for ids in members
        ),
    )


def _inside(folder: Path, name: str, path: Path) -> Path:
    """A file below the data set's folder; a name that leaves it is refused."""
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{path}: file name {name!r} leads out of the data set's folder")
    return file
