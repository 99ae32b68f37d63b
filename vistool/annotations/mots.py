"""MOTS folders: masks as run-length codes in text files, or as 16-bit label pictures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vistool.annotations.dataset import (
    AnnotatedTrack,
    AnnotatedVideo,
    DataSet,
    group_tracks,
)
from vistool.annotations.label_maps import (
    folder_names,
    masks_of,
    masks_of_file,
    painted,
    suffix_of,
    write_label_map,
)
from vistool.annotations.problems import Place, Problem, ProblemCallback, refuse
from vistool.errors import DataError
from vistool.formats.files import atomic_path, encode_json, read_file, read_json
from vistool.formats.limits import refuse_too_many_masks
from vistool.formats.masks.rle import rle_fault
from vistool.formats.pictures import displayed_size
from vistool.formats.results.files import Category
from vistool.formats.threads import in_threads
from vistool.formats.video.sources import IMAGE_SUFFIXES
from vistool.progress import OnProgress, silent
from vistool.structures import RLE, Size

TXT, PNG, FRAMES, CATEGORIES = "instances_txt", "instances", "images", "categories.json"
FRAME_PLACES = (FRAMES, "image_02", "training/image_02", "train/images", "img1")
PER_CLASS = 1000  # an object id is class * 1000 + number
IGNORED = 10  # the class of regions to ignore in evaluation; they become crowd tracks
NAMES = {1: "car", 2: "pedestrian", IGNORED: "ignore"}
HIGHEST_CLASS = 65  # object ids have 16 bits
MAX_DIGITS = 18  # of a number, which then fits into 64 bits
LONGEST = 10_000_000  # frames; a larger frame number is treated as damage


@dataclass(frozen=True, slots=True)
class Labelled:
    """One object on one frame, from a line of text or a label picture."""

    frame: int  # as numbered in the files
    id: int
    category: int
    rle: RLE
    place: Place  # the line or the picture, for messages


def is_mots(folder: Path) -> bool:
    """Does a folder have MOTS labels in one of the layouts of `read_mots`?"""
    return bool(_label_places(folder))


def read_mots(
    folder: Path,
    *,
    masks: bool = True,
    on_problem: ProblemCallback = refuse,
    on_progress: OnProgress = silent,
) -> DataSet:
    """Read `instances_txt/SEQ.txt`, `instances/SEQ/*.png` or `SEQ/gt/gt.txt`, in this order.

    Frames are searched in FRAME_PLACES and, for `gt.txt`, in `SEQ/img1`. They determine the first
    frame and the length of a sequence. Without them, it begins at frame 0 (at 1 with `gt.txt`) and
    ends with the last label. Video ids number the sequences by name, from 1. Classes are 1 car,
    2 pedestrian and 10 ignore (crowd tracks), unless `categories.json` lists others.

    Args: as in `read_coco_json`.
    Raises: DataError if there is no sequence, or a sequence has too many masks.
    """
    places = _label_places(folder)
    if not places:
        raise DataError(f"{folder}: no MOTS labels: no {TXT}/, {PNG}/ or SEQUENCE/gt/gt.txt")
    names = _category_names(folder)
    videos: list[AnnotatedVideo] = []
    tracks: list[AnnotatedTrack] = []
    for number, (name, labels) in enumerate(sorted(places.items()), start=1):
        frames, first = _frames(folder, name, labels)
        sequence = MotsSequence(labels, first, on_problem)
        video = _video(sequence, folder, number, name, frames)
        if video is not None:
            videos.append(video)
            if masks:
                tracks += sequence.tracks(video, tracks)
        on_progress("reading labels", sum(video.length for video in videos), None)
    for category in sorted({track.category_id for track in tracks} - names.keys()):
        names[category] = NAMES.get(category, f"class {category}")
    return DataSet(
        kind="mots",
        path=folder,
        frames=folder,
        categories=tuple(Category(id=id_, name=name) for id_, name in names.items()),
        videos=tuple(videos),
        tracks=tuple(tracks),
    )


def first_frames(folder: Path) -> dict[str, int]:
    """The number of the first frame of every sequence, by its name."""
    places = _label_places(folder)
    return {name: _frames(folder, name, labels)[1] for name, labels in places.items()}


def write_mots(
    dataset: DataSet, folder: Path, on_progress: OnProgress = silent
) -> tuple[dict[int, tuple[str, ...]], int]:
    """Write text (`instances_txt/`), label pictures (`instances/`) and `categories.json`.

    Objects are numbered from 1 within their class and sequence; crowds become the region to ignore.
    A pixel has one id: where masks overlap, the smaller mask is kept. Category ids are kept if all
    fit into 16-bit object ids and none is 10; otherwise they are renumbered from 1.

    Returns: the file names of the frames by video id, relative to `folder`, and the number of
        pixels in more than one mask.
    Raises: DataError for more classes, or more objects of a class, than the ids can hold.
    """
    categories = {category.id: category.name for category in dataset.categories}
    used = {track.category_id for track in dataset.tracks}
    classes = mots_classes(categories, used, str(dataset.path))
    names = folder_names(dataset.videos)
    by_video = group_tracks(dataset.tracks)
    frames: dict[int, tuple[str, ...]] = {}
    overlapping = 0
    done, total = 0, sum(video.length for video in dataset.videos)
    for video in dataset.videos:
        tracks = by_video[video.id]
        of_class = (IGNORED if track.is_crowd else classes[track.category_id] for track in tracks)
        numbered = mots_ids(of_class, f"{dataset.path}: video {video.id}")
        ids = list(zip(numbered, tracks, strict=True))
        lines: list[str] = []
        for t in range(video.length):
            here = [
                (id_, mask) for id_, track in ids if (mask := track.segmentations[t]) is not None
            ]
            labels, both = painted(
                [item for item in here if item[0] != _id(IGNORED, 0)], video.size
            )
            ignored, _ = painted([item for item in here if item[0] == _id(IGNORED, 0)], video.size)
            labels[labels == 0] = ignored[labels == 0]
            overlapping += both
            write_label_map(folder / PNG / names[video.id] / f"{t:06}.png", labels)
            lines += [mots_line(t, id_, mask) for id_, mask in masks_of(labels).items()]
        with atomic_path(folder / TXT / f"{names[video.id]}.txt") as temporary:
            temporary.write_text("".join(lines), encoding="ascii")
        where = f"{FRAMES}/{names[video.id]}"
        frames[video.id] = tuple(f"{where}/{t:06}{suffix_of(video)}" for t in range(video.length))
        done += video.length
        on_progress("writing labels", done, total)
    write_mots_classes(folder / CATEGORIES, categories, classes)
    return frames, overlapping


def _id(category: int, number: int) -> int:
    return category * PER_CLASS + number


def mots_classes(names: Mapping[int, str], used: AbstractSet[int], where: str) -> dict[int, int]:
    """The MOTS class of every category id; unused categories may be left out to save ids.

    Args: names: by category id; used: ids of categories with tracks; where: for the message.
    Raises: DataError if the used categories are too many for MOTS.
    """
    if all(1 <= id_ < HIGHEST_CLASS and id_ != IGNORED for id_ in names):
        return {id_: id_ for id_ in names}
    free = [id_ for id_ in range(1, HIGHEST_CLASS) if id_ != IGNORED]
    ignore = {id_: IGNORED for id_, name in names.items() if name == NAMES[IGNORED]}
    others = [id_ for id_ in names if id_ not in ignore]
    if len(others) > len(free):
        others = [id_ for id_ in others if id_ in used]
    if len(others) > len(free):
        raise DataError(
            f"{where}: {len(others)} categories, but MOTS ids have room for {len(free)}"
        )
    return ignore | dict(zip(others, free, strict=False))


def mots_line(frame: int, object_id: int, mask: RLE) -> str:
    """One line of a MOTS text file."""
    height, width = mask["size"]
    return f"{frame} {object_id} {object_id // PER_CLASS} {height} {width} {mask['counts']}\n"


def mots_ids(classes: Iterable[int], where: str) -> list[int]:
    """Object ids for tracks of these MOTS classes, numbered from 1 within a class.

    All regions to ignore have the same id. Raises: DataError for too many objects of a class.
    """
    numbers: Counter[int] = Counter()
    ids: list[int] = []
    for class_ in classes:
        if class_ != IGNORED:
            numbers[class_] += 1
        if numbers[class_] >= PER_CLASS:
            raise DataError(
                f"{where} has {PER_CLASS} or more objects of one class, but MOTS ids have room for "
                f"{PER_CLASS - 1}"
            )
        ids.append(_id(class_, numbers[class_]))
    return ids


def write_mots_classes(path: Path, names: Mapping[int, str], classes: Mapping[int, int]) -> None:
    """Write the name of each MOTS class. names: by category id; classes: from `mots_classes`."""
    named = [Category(id=classes[id_], name=name) for id_, name in names.items() if id_ in classes]
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_json(named) + b"\n")


def _category_names(folder: Path) -> dict[int, str]:
    path = folder / CATEGORIES
    if not path.is_file():
        return {id_: name for id_, name in NAMES.items() if id_ != IGNORED}
    return {category.id: category.name for category in read_json(path, list[Category])}


def _label_places(folder: Path) -> dict[str, Path]:
    """The text file or picture folder of every sequence, by name."""
    if (folder / TXT).is_dir():
        return {path.stem: path for path in (folder / TXT).glob("*.txt")}
    if (folder / PNG).is_dir():
        return {path.name: path for path in (folder / PNG).iterdir() if path.is_dir()}
    found = [*folder.glob("*/gt/gt.txt"), *folder.glob("train/*/gt/gt.txt")]
    return {path.parent.parent.name: path for path in found if _is_mots_text(path)}


def _is_mots_text(path: Path) -> bool:
    """MOTS lines have six fields and spaces; MOT boxes, in files of the same name, have commas."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return len(file.readline(1 << 20).split(" ")) == 6


def _frames(folder: Path, name: str, labels: Path) -> tuple[list[Path], int]:
    """The pictures of a sequence, and the number of its first frame."""
    own = labels.parent.parent / "img1" if labels.name == "gt.txt" else None
    places = [own] if own else [folder / place / name for place in FRAME_PLACES]
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            files = [
                path
                for path in sorted(place.iterdir())
                if path.suffix.lower() in IMAGE_SUFFIXES and is_number(path.stem)
            ]
            break
    first = min((int(file.stem) for file in files), default=1 if own else 0)
    return files, first


def labels_in_text(file: Path, on_fault: Callable[[Place, str], None]) -> Iterator[Labelled]:
    """The objects in a text file; `on_fault` gets the place and the error of each invalid line."""
    text = read_file(file).decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), start=1):
        fields, place = line.split(), (("line", number),)
        if not fields:
            continue
        if len(fields) != 6 or not all(map(is_number, fields[:5])):
            on_fault(place, "not six fields: frame, id, class, height, width, run-length code")
            continue
        frame, id_, category, height, width = map(int, fields[:5])
        rle = RLE(size=[height, width], counts=fields[5])
        yield Labelled(frame, id_, category, rle, place)


def by_frame(masks: Mapping[int, RLE], length: int) -> list[RLE | None]:
    """The masks of a track as a list, with None for frames without a mask."""
    frames: list[RLE | None] = [None] * length
    for frame, mask in masks.items():
        frames[frame] = mask
    return frames


def is_number(text: str) -> bool:
    """Whether a text is a whole number from 0 that fits into 64 bits."""
    return text.isdecimal() and len(text) <= MAX_DIGITS


class MotsSequence:
    """The labels of one sequence; problems are reported to `on_problem`."""

    def __init__(self, labels: Path, first: int, on_problem: ProblemCallback) -> None:
        """Args: labels: a text file, or a folder of pictures; first: number of the first frame."""
        self.path, self.first, self._on_problem = labels, first, on_problem
        self._pictures: list[Path] = []
        if labels.is_file():
            self.labelled = list(labels_in_text(labels, partial(self.error, "malformed-line")))
        else:
            files = (path for path in labels.glob("*.png") if is_number(path.stem))
            self._pictures = sorted(files)
            self.labelled = list(self._in_pictures())

    @property
    def last(self) -> int:
        """The number of the last frame with a label or a picture of labels; -1 without any."""
        numbers = [item.frame for item in self.labelled] + [int(p.stem) for p in self._pictures]
        return max(numbers, default=-1)

    def tracks(
        self,
        video: AnnotatedVideo,
        earlier: Sequence[AnnotatedTrack] = (),
        *,
        known: Collection[int] | None = None,
    ) -> list[AnnotatedTrack]:
        """The tracks by increasing object id; labels with errors are reported and left out.

        Args:
            earlier: tracks of the data set so far; new ids continue theirs.
            known: the classes that are allowed besides IGNORED; None: any.

        Raises: DataError if all tracks together have too many frames.
        """
        masks: dict[int, dict[int, RLE]] = defaultdict(dict)
        category: dict[int, int] = {}
        for item in self.labelled:
            t = item.frame - self.first
            fault = rle_fault(item.rle, video.size)
            if fault:
                self.error("malformed-mask", item.place, f"object {item.id}: {fault}")
            elif not 0 <= t < video.length:
                last = self.first + video.length - 1
                what = f"frame {item.frame} is not among {self.first} to {last}"
                self.error("no-frame", item.place, what)
            elif known is not None and item.category not in {*known, IGNORED}:
                what = f"class {item.category} is not one of {sorted(known)}"
                self.error("unknown-category", item.place, what)
            elif t in masks[item.id]:
                what = f"object {item.id} is on frame {item.frame} twice"
                self.error("duplicate", item.place, what)
            elif category.setdefault(item.id, item.category) != item.category:
                what = f"object {item.id} is of class {item.category} and {category[item.id]}"
                self.error("category", item.place, what)
            else:
                masks[item.id][t] = item.rle
        before = sum(len(track.segmentations) for track in earlier)
        refuse_too_many_masks(before + len(category) * video.length, self.path)
        return [
            AnnotatedTrack(
                id=len(earlier) + position,
                video_id=video.id,
                category_id=category[id_],
                segmentations=tuple(by_frame(masks[id_], video.length)),
                is_crowd=category[id_] == IGNORED,
            )
            for position, id_ in enumerate(sorted(category), start=1)
        ]

    def error(self, kind: str, place: Place, what: str) -> None:
        """Report an error at a place in the labels."""
        self._on_problem(Problem("error", kind, str(self.path), place, what))

    def _in_pictures(self) -> Iterator[Labelled]:
        found = in_threads(masks_of_file, self._pictures)
        for file, masks in zip(self._pictures, found, strict=True):
            if isinstance(masks, str):
                self.error("unreadable-file", (), masks)
                continue
            for id_, rle in masks.items():
                place = (("picture", file.name),)
                yield Labelled(int(file.stem), id_, id_ // PER_CLASS, rle, place)


def _video(
    sequence: MotsSequence, folder: Path, number: int, name: str, files: Sequence[Path]
) -> AnnotatedVideo | None:
    """The video of a sequence; its size and length come from the frames, or else from the labels.

    Returns: None, after reporting an error, if neither gives them.
    """
    length = len(files) or sequence.last - sequence.first + 1
    try:
        stated = [Size(*item.rle["size"]) for item in sequence.labelled[:1]]
        size = displayed_size(files[0]) if files else next(iter(stated), None)
    except DataError as error:
        sequence.error("unreadable-file", (), str(error))
        return None
    if not 1 <= length <= LONGEST or size is None:
        what = f"{len(files)} frames, {len(sequence.labelled)} labels up to {sequence.last}"
        sequence.error("empty", (), what)
        return None
    return AnnotatedVideo(
        id=number,
        name=name,
        size=size,
        length=length,
        file_names=tuple(file.relative_to(folder).as_posix() for file in files),
    )
