"""Annotation files: COCO pictures, COCO video and YouTube-VIS (2019 to 2022, OVIS), all checked."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from vistool.errors import DataError
from vistool.formats.dataset import AnnotatedTrack, AnnotatedVideo, Category, DataSet
from vistool.formats.json_bytes import decode_json, plain
from vistool.formats.problems import Place, Problem, ProblemCallback, refuse
from vistool.formats.segmentation import MaskError, to_rle
from vistool.progress import OnProgress, silent
from vistool.structures import RLE, Size

PARTS = ("videos", "images", "annotations", "categories")
TRACK_KEYS = ("track_id", "instance_id")  # of an annotation of one frame, in COCO video
FRAME_KEYS = ("frame_id", "frame_index")  # of an image of a video
FrameOf = Mapping[int, tuple[int, int]]  # image id -> video id, frame


class _EntryError(Exception):
    """What is wrong with an entry; whoever reads the entry knows the place."""

    def __init__(self, kind: str, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.kind, self.what, self.hint = kind, what, hint


def read_coco_json(
    path: Path,
    *,
    frames: Path | None = None,
    masks: bool = True,
    on_problem: ProblemCallback = refuse,
    on_progress: OnProgress = silent,
) -> DataSet:
    """Read an annotation file.

    Masks may be run-length codes, lists of runs or polygons; all become compressed codes. What is
    reported as an error is left out.

    Args:
        frames: the folder that file names are relative to; None: found by `frames_folder`.
        masks: False leaves the tracks out, which is much faster.
        on_problem: told about everything that is wrong; by default the first error is raised.

    Raises: DataError if the file is no such file at all.
    """
    content = load_parts(path)
    reader = _Reader(path, on_problem, on_progress)
    categories = reader.categories(content["categories"])
    annotations = content["annotations"] if masks else []
    if is_coco_video(content):
        videos, frame_of = reader.videos_of_images(content["videos"], content["images"])
        tracks = reader.tracks_of_images(annotations, videos, frame_of, categories)
    else:
        kind = "video" if "videos" in content else "image"
        videos = reader.videos(kind, content[f"{kind}s"])
        tracks = reader.tracks(annotations, videos, categories)
    names = next((video.file_names for video in videos.values() if video.file_names), ())
    return DataSet(
        path=path,
        frames=frames or frames_folder(path, names[0] if names else ""),
        categories=tuple(categories.values()),
        videos=tuple(videos.values()),
        tracks=tuple(tracks),
    )


def frames_folder(path: Path, file_name: str) -> Path:
    """Where the frames of an annotation file lie: the first place that has the one named.

    Tried are the file's folder, `JPEGImages` in it, and folders named as the file, as the public
    sets have it: `train.json`, `instances_train.json` and `annotations_train.json` belong to
    `train/` or `train/JPEGImages/`. For a file in `annotations/`, the same beside that folder.
    """
    base = path.parent.parent if path.parent.name == "annotations" else path.parent
    stem = path.stem.removeprefix("instances_").removeprefix("annotations_")
    for folder in (path.parent, base, base / path.stem, base / stem):
        for place in (folder, folder / "JPEGImages"):
            if file_name and (place / file_name).is_file():
                return place
    return path.parent


def load_parts(path: Path) -> dict[str, list[Any]]:
    """The lists of an annotation file, their entries as JSON text or plain values.

    Raises: DataError if it cannot be read, or a part is missing (annotations may be) or no list.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    content = decode_json(data, dict[str, msgspec.Raw], str(path))
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__} where an object should be")
    parts: dict[str, list[Any]] = {}
    for key in PARTS:
        value = content.get(key)
        if isinstance(value, msgspec.Raw):
            value = decode_json(bytes(value), list[msgspec.Raw] | None, f"{path}: {key!r}")
        if value is None and key == "annotations":
            value = []  # as in the test sets of the benchmarks, whose labels are kept back
        if value is not None and not isinstance(value, list):
            raise DataError(f"{path}: {key!r} is a {type(value).__name__}, not a list")
        if value is not None:
            parts[key] = value
    if "categories" not in parts or not parts.keys() & {"videos", "images"}:
        raise DataError(
            f"{path}: no 'images' or 'videos', 'annotations' and 'categories' in it",
            hint="COCO instance files and YouTube-VIS files have them",
        )
    return parts


def is_coco_video(parts: Mapping[str, list[Any]]) -> bool:
    """Does every frame have an entry of its own, which names its video?"""
    first = plain(parts["images"][0]) if parts.get("images") else None
    return bool(parts.get("videos")) and isinstance(first, dict) and "video_id" in first


class _Reader:
    """Reads the lists of one file, and tells `on_problem` what is wrong with which entry."""

    def __init__(self, path: Path, on_problem: ProblemCallback, on_progress: OnProgress) -> None:
        self.path = path
        self.on_problem = on_problem
        self.on_progress = on_progress

    def categories(self, entries: Sequence[Any]) -> dict[int, Category]:
        """By id, in their order."""
        found: dict[int, Category] = {}
        names: set[str] = set()
        for place, entry in self._entries("category", entries):
            try:
                category = Category(id=_new_id(entry, found), name=_text(entry, "name"))
            except _EntryError as fault:
                self._error(place, fault)
                continue
            if category.name in names:
                self._warn(place, "duplicate-name", f"a second category named {category.name!r}")
            names.add(category.name)
            found[category.id] = category
        return found

    def videos(self, kind: str, entries: Sequence[Any]) -> dict[int, AnnotatedVideo]:
        """Videos, or pictures, by id in their order."""
        found: dict[int, AnnotatedVideo] = {}
        for place, entry in self._entries(kind, entries):
            try:
                video = _video(entry, _new_id(entry, found), _file_names(entry))
            except _EntryError as fault:
                self._error(place, fault)
                continue
            found[video.id] = video
        return found

    def videos_of_images(
        self, entries: Sequence[Any], images: Sequence[Any]
    ) -> tuple[dict[int, AnnotatedVideo], FrameOf]:
        """Videos whose frames are entries of their own, and where every image id belongs."""
        frames: dict[int, list[tuple[int, int, dict[str, Any]]]] = defaultdict(list)
        ids: set[int] = set()
        for place, image in self._entries("image", images):
            try:
                ids.add(_new_id(image, ids))
                _text(image, "file_name")
                for side in ("width", "height"):
                    if side in image:
                        _number(image, side)
                order = next((_number(image, key) for key in FRAME_KEYS if key in image), len(ids))
                frames[_number(image, "video_id")].append((order, len(ids), image))
            except _EntryError as fault:
                self._error(place, fault)
        found: dict[int, AnnotatedVideo] = {}
        frame_of: dict[int, tuple[int, int]] = {}
        for place, entry in self._entries("video", entries):
            try:
                video = _video_of_images(_new_id(entry, found), entry, frames)
            except _EntryError as fault:
                self._error(place, fault)
                continue
            found[video.id] = video
            for t, (_, _, image) in enumerate(sorted(frames[video.id], key=lambda f: f[:2])):
                frame_of[image["id"]] = video.id, t
        for video_id in frames.keys() - found.keys():
            self._error(
                (("video", video_id),),
                _EntryError(
                    "unknown-video", f"{len(frames[video_id])} images of a video without entry"
                ),
            )
        return found, frame_of

    def tracks(
        self,
        annotations: Sequence[Any],
        videos: Mapping[int, AnnotatedVideo],
        categories: Mapping[int, Category],
    ) -> list[AnnotatedTrack]:
        """One track an annotation."""
        found: list[AnnotatedTrack] = []
        ids: set[int] = set()
        for place, entry in self._entries("annotation", annotations):
            key = "video_id" if "video_id" in entry else "image_id"
            place += ((key.removesuffix("_id"), entry.get(key, "unknown")),)
            try:
                ids.add(_new_id(entry, ids))
                video = _known(_number(entry, key), videos, key.removesuffix("_id"))
                category = _known(_number(entry, "category_id"), categories, "category")
                segmentations = _of_every_frame(entry, "segmentation", video.length)
                if segmentations is None:
                    raise _EntryError("no-mask", "has no masks", "boxes alone are not enough")
                found.append(
                    AnnotatedTrack(
                        id=entry["id"],
                        video_id=video.id,
                        category_id=category.id,
                        segmentations=self._masks(place, segmentations, video.size),
                        is_crowd=bool(entry.get("iscrowd")),
                        areas=_areas(_of_every_frame(entry, "area", video.length)),
                        boxes=_boxes(entry, video.length),
                        occlusion=_occlusion(entry, video.length),
                    )
                )
            except _EntryError as fault:
                self._error(place, fault)
        return found

    def tracks_of_images(
        self,
        annotations: Sequence[Any],
        videos: Mapping[int, AnnotatedVideo],
        frame_of: FrameOf,
        categories: Mapping[int, Category],
    ) -> list[AnnotatedTrack]:
        """Annotations of single frames, joined by the track that they name."""
        pieces: dict[tuple[int, int], dict[int, dict[str, Any]]] = defaultdict(dict)
        ids: set[int] = set()
        for place, entry in self._entries("annotation", annotations):
            place += (("image", entry.get("image_id", "unknown")),)
            try:
                ids.add(_new_id(entry, ids))
                video_id, frame = _known(_number(entry, "image_id"), frame_of, "image")
                category = _known(_number(entry, "category_id"), categories, "category")
                key = next((key for key in TRACK_KEYS if key in entry), TRACK_KEYS[0])
                track = pieces[video_id, _number(entry, key)]
                if frame in track:
                    raise _EntryError(
                        "duplicate", f"{key} {entry[key]} has an annotation there already"
                    )
                if any(piece["category_id"] != category.id for piece in track.values()):
                    raise _EntryError(
                        "category", f"{key} {entry[key]} has another category elsewhere"
                    )
                (mask,) = self._masks(place, [entry.get("segmentation")], videos[video_id].size)
                track[frame] = {**entry, "segmentation": mask}
            except _EntryError as fault:
                self._error(place, fault)
        return [
            _joined(number, video_id, track, videos[video_id].length)
            for number, ((video_id, _), track) in enumerate(pieces.items(), start=1)
            if track
        ]

    def _masks(self, place: Place, segmentations: list[Any], size: Size) -> tuple[RLE | None, ...]:
        """The masks of a track; one that is malformed is reported and left out."""
        masks: list[RLE | None] = []
        for frame, segmentation in enumerate(segmentations):
            try:
                masks.append(to_rle(segmentation, size))
            except MaskError as fault:
                masks.append(None)
                self._error((*place, ("frame", frame)), _EntryError(fault.kind, str(fault)))
        return tuple(masks)

    def _entries(self, kind: str, entries: Sequence[Any]) -> Iterator[tuple[Place, dict[str, Any]]]:
        for index, raw in enumerate(entries):
            entry = plain(raw)
            if isinstance(entry, dict):
                yield ((kind, entry.get("id", "without id")), ("index", index)), entry
            else:
                what = f"a {type(entry).__name__} where an object should be"
                self._error(((kind, ""), ("index", index)), _EntryError("no-object", what))
            self.on_progress(f"reading {kind} entries", index + 1, len(entries))

    def _error(self, place: Place, fault: _EntryError) -> None:
        path, what = str(self.path), fault.what
        self.on_problem(Problem("error", fault.kind, path, place, what, fault.hint))

    def _warn(self, place: Place, kind: str, what: str) -> None:
        self.on_problem(Problem("warning", kind, str(self.path), place, what))


def _video(entry: dict[str, Any], number: int, names: tuple[str, ...]) -> AnnotatedVideo:
    stated = _number(entry, "length") if "length" in entry else len(names) or 1
    if names and stated != len(names):
        raise _EntryError("wrong-length", f"length {stated}, but {len(names)} file names")
    size = Size(_number(entry, "height"), _number(entry, "width"))
    if min(size) < 1 or stated < 1:
        raise _EntryError("size", f"{size.width}x{size.height} pixels, {stated} frames")
    ids = entry.get("exhaustive_category_ids") or []
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise _EntryError("exhaustive", f"exhaustive_category_ids {ids!r}, not a list of ids")
    return AnnotatedVideo(
        id=number,
        name=_name(entry, names, number),
        size=size,
        length=stated,
        file_names=names,
        exhaustive=bool(entry.get("exhaustive", True)),
        exhaustive_ids=frozenset(ids),
    )


def _video_of_images(
    number: int,
    entry: dict[str, Any],
    frames: Mapping[int, list[tuple[int, int, dict[str, Any]]]],
) -> AnnotatedVideo:
    images = [image for _, _, image in sorted(frames.get(number, []), key=lambda f: f[:2])]
    if not images:
        raise _EntryError("no-frames", "no image belongs to it")
    sizes = {f"{image.get('width')}x{image.get('height')}" for image in images}
    if len(sizes) > 1:
        some = ", ".join(sorted(sizes)[:3])
        raise _EntryError("size", f"images of {len(sizes)} sizes in one video: {some}")
    names = tuple(image["file_name"] for image in images)
    sides = {key: images[0].get(key) for key in ("width", "height")}
    whole = {**sides, **entry, "file_names": names}
    whole.pop("length", None)  # some exporters count the frames of the source there
    return _video(whole, number, names)


def _joined(
    number: int, video_id: int, track: dict[int, dict[str, Any]], length: int
) -> AnnotatedTrack:
    pieces = [track.get(frame, {}) for frame in range(length)]
    first = next(iter(track.values()))
    return AnnotatedTrack(
        id=number,
        video_id=video_id,
        category_id=first["category_id"],
        segmentations=tuple(piece.get("segmentation") for piece in pieces),
        is_crowd=any(bool(piece.get("iscrowd")) for piece in pieces),
    )


def _name(entry: dict[str, Any], names: tuple[str, ...], number: int) -> str:
    """What people call a video: its name, the folder of its frames, a picture's file; or its id."""
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
        raise _EntryError("no-frames", "neither file_names nor file_name nor length")
    if not isinstance(names, list) or not names:
        raise _EntryError("no-frames", f"file_names {str(names)[:40]}, not a list of names")
    for name in names:
        if not isinstance(name, str) or not name:
            raise _EntryError("no-frames", f"file name {name!r}")
    return tuple(names)


def _of_every_frame(entry: dict[str, Any], key: str, length: int) -> list[Any] | None:
    """A value a frame: of a video's annotation `keys`, of a picture's the one `key`."""
    values = entry.get(f"{key}s", [entry[key]] if key in entry else None)
    if values is None:
        return None
    if not isinstance(values, list):
        raise _EntryError("wrong-length", f"{key}s is a {type(values).__name__}, not a list")
    if len(values) != length:
        what = "masks" if key == "segmentation" else f"{key}s"
        raise _EntryError(
            "wrong-length",
            f"has {len(values)} {what} but its video has {length} frames",
            "write null for frames where the instance is not visible",
        )
    return values


def _boxes(entry: dict[str, Any], length: int) -> tuple[tuple[float, ...] | None, ...] | None:
    values = entry.get("bboxes", [entry["bbox"]] if "bbox" in entry else None)
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != length:
        raise _EntryError("wrong-length", f"bboxes are not one a frame of {length}")
    for frame, box in enumerate(values):
        if box is not None and not (isinstance(box, list) and all(map(_is_finite, box))):
            raise _EntryError("not-finite", f"bbox {box!r} on frame {frame}")
    return tuple(tuple(box) if box else None for box in values)


def _areas(values: list[Any] | None) -> tuple[float | None, ...] | None:
    if values is None:
        return None
    for frame, value in enumerate(values):
        if value is not None and not _is_finite(value):
            raise _EntryError("not-finite", f"area {value!r} on frame {frame}")
    return tuple(values)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and -math.inf < value < math.inf


def _occlusion(entry: dict[str, Any], length: int) -> tuple[str | None, ...] | None:
    values = entry.get("occlusion")
    if not isinstance(values, list):
        return None
    if len(values) != length:
        raise _EntryError(
            "wrong-length",
            f"has {len(values)} occlusion levels but its video has {length} frames",
        )
    return tuple(value if isinstance(value, str) else None for value in values)


def _new_id(entry: dict[str, Any], known: Mapping[int, Any] | set[int]) -> int:
    number = _number(entry, "id")
    if number in known:
        raise _EntryError("duplicate-id", f"a second entry with id {number}")
    return number


def _number(entry: dict[str, Any], key: str) -> int:
    if key not in entry:
        raise _EntryError("missing-field", f"has no {key}")
    value = entry[key]
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise _EntryError("no-number", f"{key} is {value!r}, not a whole number")
    return value


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise _EntryError("missing-field", f"{key} is {value!r}, not a text")
    return value


def _known(number: int, known: Mapping[int, Any], what: str) -> Any:
    if number not in known:
        raise _EntryError(
            f"unknown-{what}", f"{what} {number} is not among the {len(known)} there are"
        )
    return known[number]
