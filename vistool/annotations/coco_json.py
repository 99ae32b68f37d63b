"""Read and check annotation files: COCO, COCO video and YouTube-VIS (2019 to 2022, OVIS)."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec

from vistool.annotations.coco_entries import (
    EntryError,
    areas_of,
    boxes_of,
    flag_of,
    joined,
    looked_up,
    new_id,
    no_masks,
    number_of,
    occlusion_of,
    of_every_frame,
    text_of,
    video_of,
    video_of_images,
)
from vistool.annotations.dataset import AnnotatedTrack, AnnotatedVideo, DataSet
from vistool.annotations.problems import Place, Problem, ProblemCallback, refuse
from vistool.errors import DataError
from vistool.formats.files import decode_json, plain, read_file
from vistool.formats.limits import refuse_too_many_masks
from vistool.formats.masks.annotated import MaskError, outlines_of, to_rle
from vistool.formats.results.files import Category
from vistool.progress import OnProgress, silent
from vistool.structures import RLE, Size

PARTS = ("videos", "images", "annotations", "categories")
TRACK_KEYS = ("track_id", "instance_id")  # of an annotation of one frame, in COCO video
FRAME_KEYS = ("frame_id", "frame_index")  # of an image of a video
FrameOf = Mapping[int, tuple[int, int]]  # image id -> video id, frame
FileKind = Literal["youtube-vis", "coco", "coco-video"]
TRIED_NAMES = 20  # number of file names with which `frames_folder` tests a folder


def read_coco_json(
    path: Path,
    *,
    frames: Path | None = None,
    masks: bool = True,
    outlines: bool = False,
    on_problem: ProblemCallback = refuse,
    on_progress: OnProgress = silent,
) -> DataSet:
    """Read an annotation file.

    Masks may be run-length codes, lists of runs or polygons; all become compressed run-length
    codes. Entries with errors are reported and left out.

    Args:
        frames: the folder that file names are relative to; None: chosen by `frames_folder`.
        masks: False leaves the tracks out, which is much faster.
        outlines: also keep the polygons (of COCO and YouTube-VIS files).
        on_problem: called with every problem; by default the first error is raised.

    Raises: DataError if it is not an annotation file.
    """
    content = load_parts(path)
    reader = _Reader(path, on_problem, on_progress, outlines=outlines)
    categories = reader.categories(content["categories"])
    annotations = content["annotations"] if masks else []
    kind = kind_of_parts(content)
    match kind:
        case "coco-video":
            videos, frame_of = reader.videos_of_images(content["videos"], content["images"])
            tracks = reader.tracks_of_images(annotations, videos, frame_of, categories)
        case "youtube-vis":
            videos = reader.videos("video", content["videos"])
            tracks = reader.tracks("video", annotations, videos, categories)
        case "coco":
            videos = reader.videos("image", content["images"])
            tracks = reader.tracks("image", annotations, videos, categories)
    names = tuple(chain.from_iterable(video.file_names for video in videos.values()))
    return DataSet(
        kind=kind,
        path=path,
        frames=frames or frames_folder(path, names),
        categories=tuple(categories.values()),
        videos=tuple(videos.values()),
        tracks=tuple(tracks),
    )


def frames_folder(path: Path, file_names: Sequence[str]) -> Path:
    """The folder of an annotation file's frames: the candidate that has most of the named files.

    Candidates follow public data sets and annotation tools: the annotation file's folder,
    `JPEGImages` and `images` in it, and folders with the file's name. `train.json`,
    `instances_train.json` and `annotations_train.json` belong to `train/`, `train/JPEGImages/` or
    `images/train/`. For a file in `annotations/`, its parent folder is searched as well. At most
    about TRIED_NAMES file names, evenly spread, are tested.
    """
    base = path.parent.parent if path.parent.name == "annotations" else path.parent
    stem = path.stem.removeprefix("instances_").removeprefix("annotations_")
    folders = (path.parent, base, *(base / name for name in (path.stem, stem)))
    images = (base / "images", *(base / "images" / name for name in (path.stem, stem)))
    places = [place for folder in folders for place in (folder, folder / "JPEGImages")]
    tried = file_names[:: max(1, len(file_names) // TRIED_NAMES)]
    # Of candidates with equally many files, max returns the first.
    return max((*places, *images), key=lambda place: sum(_is_there(place, n) for n in tried))


def _is_there(folder: Path, name: str) -> bool:
    """Does the folder have this file? `frame_file` checks whether it may be read."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return False
    with contextlib.suppress(OSError, ValueError):  # a name that no disk can have
        return (folder / name).is_file()
    return False


def load_parts(path: Path) -> dict[str, list[Any]]:
    """The lists of an annotation file by name (PARTS); entries are JSON text or plain values.

    Raises: DataError if the file cannot be read, a required list is missing, or one is not a list.
        `annotations` may be missing.
    """
    content = decode_json(read_file(path, "annotation file"), dict[str, msgspec.Raw], str(path))
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__} where an object should be")
    parts: dict[str, list[Any]] = {}
    for key in PARTS:
        value = content.get(key)
        if isinstance(value, msgspec.Raw):
            value = decode_json(bytes(value), list[msgspec.Raw] | None, f"{path}: {key!r}")
        if value is None and key == "annotations":
            value = []  # as in the test sets of the benchmarks, whose labels are not public
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


def kind_of_parts(parts: Mapping[str, list[Any]]) -> FileKind:
    """Whether a file is in COCO, COCO video or YouTube-VIS form.

    In COCO video form, every frame is an image entry that names its video. Annotations of COCO and
    COCO video refer to an `image_id`, those of YouTube-VIS to a `video_id`; other fields of an
    annotation do not matter.
    """
    if not parts.get("videos") and "images" in parts:
        return "coco"
    first = parts["images"][0] if parts.get("images") else None
    try:
        first = plain(first)
    except DataError:  # reported when the entries are read
        return "youtube-vis"
    return "coco-video" if isinstance(first, dict) and "video_id" in first else "youtube-vis"


class _Reader:
    """Reads the lists of one file and reports problems, with their entries, to `on_problem`."""

    def __init__(
        self,
        path: Path,
        on_problem: ProblemCallback,
        on_progress: OnProgress,
        *,
        outlines: bool,
    ) -> None:
        self.path = path
        self.outlines = outlines
        self.on_problem = on_problem
        self.on_progress = on_progress

    def categories(self, entries: Sequence[Any]) -> dict[int, Category]:
        """The categories by id, in the order of the file."""
        found: dict[int, Category] = {}
        names: set[str] = set()
        for place, entry in self._entries("category", entries):
            try:
                category = Category(id=new_id(entry, found), name=text_of(entry, "name"))
            except EntryError as fault:
                self._error(place, fault)
                continue
            if category.name in names:
                what = f"a second category named {category.name!r}: a model has one class for both"
                self._warn(place, "duplicate-name", what)
            names.add(category.name)
            found[category.id] = category
        return found

    def videos(self, kind: str, entries: Sequence[Any]) -> dict[int, AnnotatedVideo]:
        """Videos, or pictures, by id, in the order of the file."""
        found: dict[int, AnnotatedVideo] = {}
        for place, entry in self._entries(kind, entries):
            try:
                video = video_of(entry, new_id(entry, found))
            except EntryError as fault:
                self._error(place, fault)
                continue
            found[video.id] = video
        return found

    def videos_of_images(
        self, entries: Sequence[Any], images: Sequence[Any]
    ) -> tuple[dict[int, AnnotatedVideo], FrameOf]:
        """Videos whose frames are separate entries; video and frame of every image id."""
        frames: dict[int, list[tuple[int, int, dict[str, Any]]]] = defaultdict(list)
        ids: set[int] = set()
        for place, image in self._entries("image", images):
            try:
                ids.add(new_id(image, ids))
                text_of(image, "file_name")
                for side in ("width", "height"):
                    if side in image:
                        number_of(image, side)
                order = next(
                    (number_of(image, key) for key in FRAME_KEYS if key in image), len(ids)
                )
                frames[number_of(image, "video_id")].append((order, len(ids), image))
            except EntryError as fault:
                self._error(place, fault)
        found: dict[int, AnnotatedVideo] = {}
        frame_of: dict[int, tuple[int, int]] = {}
        for place, entry in self._entries("video", entries):
            try:
                video = video_of_images(new_id(entry, found), entry, frames)
            except EntryError as fault:
                self._error(place, fault)
                continue
            found[video.id] = video
            for t, (_, _, image) in enumerate(sorted(frames[video.id], key=lambda f: f[:2])):
                frame_of[image["id"]] = video.id, t
        for video_id in frames.keys() - found.keys():
            self._error(
                (("video", video_id),),
                EntryError(
                    "unknown-video", f"{len(frames[video_id])} images of a video without an entry"
                ),
            )
        return found, frame_of

    def tracks(
        self,
        kind: Literal["video", "image"],
        annotations: Sequence[Any],
        videos: Mapping[int, AnnotatedVideo],
        categories: Mapping[int, Category],
    ) -> list[AnnotatedTrack]:
        """One track per annotation."""
        found: list[AnnotatedTrack] = []
        ids: set[int] = set()
        for place, entry in self._entries("annotation", annotations):
            place += ((kind, entry.get(f"{kind}_id", "unknown")),)
            try:
                ids.add(new_id(entry, ids))
                video = looked_up(number_of(entry, f"{kind}_id"), videos, kind)
                category = looked_up(number_of(entry, "category_id"), categories, "category")
                segmentations = of_every_frame(entry, "segmentation", video.length)
                if segmentations is None:
                    raise no_masks()
                masks = self._masks(place, segmentations, video.size)
                found.append(
                    AnnotatedTrack(
                        id=entry["id"],
                        video_id=video.id,
                        category_id=category.id,
                        segmentations=masks,
                        is_crowd=flag_of(entry, "iscrowd", default=False),
                        areas=areas_of(entry, video.length),
                        boxes=boxes_of(entry, video.length),
                        occlusion=occlusion_of(entry, video.length),
                        outlines=outlines_of(segmentations, masks) if self.outlines else None,
                    )
                )
            except EntryError as fault:
                self._error(place, fault)
        return found

    def tracks_of_images(
        self,
        annotations: Sequence[Any],
        videos: Mapping[int, AnnotatedVideo],
        frame_of: FrameOf,
        categories: Mapping[int, Category],
    ) -> list[AnnotatedTrack]:
        """The tracks of annotations of single frames, joined by their track ids."""
        by_track: dict[tuple[int, int], dict[int, dict[str, Any]]] = defaultdict(dict)
        ids: set[int] = set()
        for place, entry in self._entries("annotation", annotations):
            place += (("image", entry.get("image_id", "unknown")),)
            try:
                ids.add(new_id(entry, ids))
                video_id, frame = looked_up(number_of(entry, "image_id"), frame_of, "image")
                category = looked_up(number_of(entry, "category_id"), categories, "category")
                key = next((key for key in TRACK_KEYS if key in entry), TRACK_KEYS[0])
                track = by_track[video_id, number_of(entry, key)]
                if frame in track:
                    raise EntryError(
                        "duplicate", f"{key} {entry[key]} already has an annotation there"
                    )
                if any(other["category_id"] != category.id for other in track.values()):
                    raise EntryError(
                        "category", f"{key} {entry[key]} has another category on another frame"
                    )
                if "segmentation" not in entry:
                    raise no_masks()
                flag_of(entry, "iscrowd", default=False)
                (mask,) = self._masks(place, [entry["segmentation"]], videos[video_id].size)
                track[frame] = {**entry, "segmentation": mask}
            except EntryError as fault:
                self._error(place, fault)
        total = sum(videos[video_id].length for (video_id, _), track in by_track.items() if track)
        refuse_too_many_masks(total, self.path)
        return [
            joined(number, video_id, track, videos[video_id].length)
            for number, ((video_id, _), track) in enumerate(by_track.items(), start=1)
            if track
        ]

    def _masks(self, place: Place, segmentations: list[Any], size: Size) -> tuple[RLE | None, ...]:
        """The masks of a track; malformed masks are reported and left out."""
        masks: list[RLE | None] = []
        for frame, segmentation in enumerate(segmentations):
            try:
                masks.append(to_rle(segmentation, size))
            except MaskError as fault:
                masks.append(None)
                self._error((*place, ("frame", frame)), EntryError(fault.kind, str(fault)))
        return tuple(masks)

    def _entries(self, kind: str, entries: Sequence[Any]) -> Iterator[tuple[Place, dict[str, Any]]]:
        for index, raw in enumerate(entries):
            try:
                entry = plain(raw)
            except DataError as error:
                self._error(((kind, ""), ("index", index)), EntryError("no-json", str(error)))
                continue
            if isinstance(entry, dict):
                yield ((kind, entry.get("id", "without id")), ("index", index)), entry
            else:
                what = f"a {type(entry).__name__} where an object should be"
                self._error(((kind, ""), ("index", index)), EntryError("no-object", what))
            self.on_progress(f"reading {kind} entries", index + 1, len(entries))

    def _error(self, place: Place, fault: EntryError) -> None:
        path, what = str(self.path), fault.what
        self.on_problem(Problem("error", fault.kind, path, place, what, fault.hint))

    def _warn(self, place: Place, kind: str, what: str) -> None:
        self.on_problem(Problem("warning", kind, str(self.path), place, what))
