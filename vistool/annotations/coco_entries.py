"""Check the fields of single entries of annotation files and convert them to vistool's types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from vistool.annotations.dataset import AnnotatedTrack, AnnotatedVideo, StatedBoxes
from vistool.formats.limits import PIXELS
from vistool.structures import Size


class EntryError(Exception):
    """A problem with an entry; the reader that catches it adds the place in the file."""

    def __init__(self, kind: str, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.kind, self.what, self.hint = kind, what, hint


def no_masks() -> EntryError:
    """The error for an annotation without masks."""
    return EntryError("no-mask", "has no masks", "boxes alone are not enough")


def video_of(entry: dict[str, Any], number: int) -> AnnotatedVideo:
    """The video, or picture, of an entry. Args: number: its id. Raises: EntryError."""
    names = _file_names(entry)
    stated = number_of(entry, "length") if "length" in entry else len(names) or 1
    if names and stated != len(names):
        raise EntryError("wrong-length", f"length {stated}, but {len(names)} file names")
    size = Size(number_of(entry, "height"), number_of(entry, "width"))
    if min(size) < 1 or stated < 1:
        raise EntryError("size", f"{size.width}x{size.height} pixels, {stated} frames")
    if size.height * size.width > PIXELS.value:
        raise EntryError("size", f"{size.width}x{size.height} are too many pixels", PIXELS.hint)
    ids = entry.get("exhaustive_category_ids") or []
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise EntryError("exhaustive", f"exhaustive_category_ids {ids!r}, not a list of ids")
    return AnnotatedVideo(
        id=number,
        name=_name(entry, names, number),
        size=size,
        length=stated,
        file_names=names,
        exhaustive=flag_of(entry, "exhaustive", default=True),
        exhaustive_ids=frozenset(ids),
    )


def video_of_images(
    number: int,
    entry: dict[str, Any],
    frames: Mapping[int, list[tuple[int, int, dict[str, Any]]]],
) -> AnnotatedVideo:
    """A video whose frames are separate image entries.

    Args: frames: by video id: stated frame number, order in the file, and the image entry.
    Raises: EntryError.
    """
    images = [image for _, _, image in sorted(frames.get(number, []), key=lambda f: f[:2])]
    if not images:
        raise EntryError("no-frames", "no image belongs to it")
    sizes = {f"{image.get('width')}x{image.get('height')}" for image in images}
    if len(sizes) > 1:
        some = ", ".join(sorted(sizes)[:3])
        raise EntryError("size", f"images of {len(sizes)} sizes in one video: {some}")
    names = [image["file_name"] for image in images]
    sides = {key: images[0].get(key) for key in ("width", "height")}
    whole = {**sides, **entry, "file_names": names}
    whole.pop("length", None)  # some exporters write the frame count of the source video
    return video_of(whole, number)


def joined(
    number: int, video_id: int, track: dict[int, dict[str, Any]], length: int
) -> AnnotatedTrack:
    """Join annotations of single frames to a track.

    Args: track: the annotation entries by frame; their masks are run-length codes.
    """
    entries = [track.get(frame, {}) for frame in range(length)]
    first = next(iter(track.values()))
    return AnnotatedTrack(
        id=number,
        video_id=video_id,
        category_id=first["category_id"],
        segmentations=tuple(entry.get("segmentation") for entry in entries),
        is_crowd=any(flag_of(entry, "iscrowd", default=False) for entry in entries),
    )


def _name(entry: dict[str, Any], names: tuple[str, ...], number: int) -> str:
    """A video's stated name, or its frames' folder, or its picture's file name, or its id."""
    if isinstance(entry.get("name"), str) and entry["name"]:
        return entry["name"]
    if not names:
        return str(number)
    path = PurePosixPath(names[0])
    return path.stem if "file_names" not in entry or not path.parent.name else path.parent.name


def _file_names(entry: dict[str, Any]) -> tuple[str, ...]:
    names = entry.get("file_names", [entry["file_name"]] if "file_name" in entry else None)
    if names is None:
        if "length" in entry:
            return ()
        raise EntryError("no-frames", "neither file_names nor file_name nor length")
    if not isinstance(names, list) or not names:
        raise EntryError("no-frames", f"file_names {str(names)[:40]}, not a list of names")
    for name in names:
        if not isinstance(name, str) or not name:
            raise EntryError("no-frames", f"file name {name!r}")
    return tuple(names)


def of_every_frame(entry: dict[str, Any], key: str, length: int) -> list[Any] | None:
    """One value per frame: the list `KEYs` (videos) or the single value `KEY` (pictures).

    Returns: None if the entry has neither. Raises: EntryError.
    """
    values = entry.get(f"{key}s", [entry[key]] if key in entry else None)
    if values is None:
        return None
    if not isinstance(values, list):
        raise EntryError("wrong-length", f"{key}s is a {type(values).__name__}, not a list")
    if len(values) != length:
        what = "masks" if key == "segmentation" else f"{key}s"
        raise EntryError(
            "wrong-length",
            f"has {len(values)} {what} but its video has {length} frames",
            "write null for frames where the instance is not visible",
        )
    return values


def boxes_of(entry: dict[str, Any], length: int) -> StatedBoxes | None:
    """The stated box of every frame. Raises: EntryError."""
    values = entry.get("bboxes", [entry["bbox"]] if "bbox" in entry else None)
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != length:
        raise EntryError("wrong-length", f"bboxes is not a list of {length} boxes, one per frame")
    for frame, box in enumerate(values):
        if box is not None and not (isinstance(box, list) and all(map(_is_finite, box))):
            raise EntryError("not-finite", f"bbox {box!r} on frame {frame}")
        if box and len(box) != 4:
            what = f"bbox {box!r} on frame {frame}, not left, top, width and height"
            raise EntryError("malformed-box", what)
    return tuple(tuple(box) if box else None for box in values)


def areas_of(entry: dict[str, Any], length: int) -> tuple[float | None, ...] | None:
    """The stated area of every frame, in pixels. Raises: EntryError."""
    values = of_every_frame(entry, "area", length)
    if values is None:
        return None
    for frame, value in enumerate(values):
        if value is not None and not _is_finite(value):
            raise EntryError("not-finite", f"area {value!r} on frame {frame}")
    return tuple(values)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and -math.inf < value < math.inf


def occlusion_of(entry: dict[str, Any], length: int) -> tuple[str | None, ...] | None:
    """OVIS's occlusion level of every frame. Raises: EntryError."""
    values = entry.get("occlusion")
    if not isinstance(values, list):
        return None
    if len(values) != length:
        raise EntryError(
            "wrong-length",
            f"has {len(values)} occlusion levels but its video has {length} frames",
        )
    for frame, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise EntryError("occlusion", f"occlusion level {value!r} on frame {frame}, not a text")
    return tuple(values)


def new_id(entry: dict[str, Any], known: Mapping[int, Any] | set[int]) -> int:
    """The id of an entry. Raises: EntryError if it is in `known`, the ids of earlier entries."""
    number = number_of(entry, "id")
    if number in known:
        raise EntryError("duplicate-id", f"a second entry with id {number}")
    return number


def number_of(entry: dict[str, Any], key: str) -> int:
    """The integer in a field. Raises: EntryError if there is none."""
    if key not in entry:
        raise EntryError("missing-field", f"has no {key}")
    value = entry[key]
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise EntryError("no-number", f"{key} is {value!r}, not a whole number")
    return value


def flag_of(entry: dict[str, Any], key: str, *, default: bool) -> bool:
    """The truth value in a field, also as 1 or 0; `default` if it is null or missing.

    Raises: EntryError for other values.
    """
    value = entry.get(key)
    if value is None:
        return default
    if type(value) not in (bool, int, float) or value not in (0, 1):
        raise EntryError("no-flag", f"{key} is {value!r}, neither 0 nor 1")
    return bool(value)


def text_of(entry: dict[str, Any], key: str) -> str:
    """The non-empty text in a field. Raises: EntryError if there is none."""
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise EntryError("missing-field", f"{key} is {value!r}, not a text")
    return value


def looked_up(number: int, known: Mapping[int, Any], what: str) -> Any:
    """The entry with this id. Raises: EntryError if no entry has it."""
    if number not in known:
        raise EntryError(
            f"unknown-{what}", f"{what} {number} is not among the {len(known)} there are"
        )
    return known[number]
