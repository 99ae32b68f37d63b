"""Check a data set before training: its annotation file and its pictures."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

from vistool.annotations.alignment import FitSum, outline_fits, step_of
from vistool.annotations.dataset import (
    AnnotatedTrack,
    AnnotatedVideo,
    DataSet,
    frame_file,
    group_tracks,
    other_size,
)
from vistool.annotations.problems import Place, Problem, errors_of
from vistool.annotations.read import read_dataset
from vistool.errors import DataError, first_few
from vistool.formats.masks.rle import decode_mask
from vistool.formats.pictures import open_picture, orientation, read_picture
from vistool.formats.threads import in_threads
from vistool.progress import OnProgress, silent
from vistool.structures import RLE, Size

COVERS_ALL = 0.98  # a mask that covers at least this share of the frame is probably inverted
# The test for shifted masks reads at most this many frames per video, pictures per data set, and
# masks per frame or picture.
LOOKED_AT_FRAMES, LOOKED_AT_PICTURES, LOOKED_AT_MASKS = 10, 200, 8
BOX_IOU = 0.5  # of a mask's box and the stated box; below it, one of them is probably wrong


@dataclass(frozen=True, slots=True)
class CategorySummary:
    """Counts for one category."""

    name: str
    instances: int
    videos: int  # in which it occurs
    masks: int  # frames on which an instance is visible


@dataclass(frozen=True, slots=True)
class SetSummary:
    """Counts for a data set."""

    path: str
    videos: int
    frames: int
    shortest: int  # frames
    median: float
    longest: int
    instances: int
    crowds: int
    categories: tuple[CategorySummary, ...]  # the most frequent one first


@dataclass(frozen=True, slots=True)
class CheckedSet:
    """The counts and the problems of a data set; errors come first."""

    summary: SetSummary
    problems: tuple[Problem, ...]


def check_dataset(
    path: Path,
    *,
    frames: Path | None = None,
    on_progress: OnProgress = silent,
) -> CheckedSet:
    """Read every annotation and decode every picture of a data set.

    Errors are problems that stop training or scoring. Warnings do not stop them, but point to
    probable mistakes. Pictures are decoded on all cores, a few at a time.

    Raises: DataError if the path is not a data set.
    """
    problems: list[Problem] = []
    dataset = read_dataset(path, frames=frames, on_problem=problems.append, on_progress=on_progress)
    problems += _label_problems(dataset)
    problems += _picture_problems(dataset, on_progress)
    errors = errors_of(problems)
    warnings = [problem for problem in problems if problem.severity == "warning"]
    return CheckedSet(summarize(dataset), (*errors, *warnings))


def summarize(dataset: DataSet) -> SetSummary:
    """Count the videos, frames, instances and masks of a data set."""
    lengths = [video.length for video in dataset.videos] or [0]
    instances: Counter[int] = Counter()
    masks: Counter[int] = Counter()
    videos: dict[int, set[int]] = defaultdict(set)
    for track in dataset.tracks:
        if not track.is_crowd:
            instances[track.category_id] += 1
            masks[track.category_id] += sum(mask is not None for mask in track.segmentations)
            videos[track.category_id].add(track.video_id)
    names = {category.id: category.name for category in dataset.categories}
    return SetSummary(
        path=str(dataset.path),
        videos=len(dataset.videos),
        frames=sum(video.length for video in dataset.videos),
        shortest=min(lengths),
        median=statistics.median(lengths),
        longest=max(lengths),
        instances=instances.total(),
        crowds=sum(track.is_crowd for track in dataset.tracks),
        categories=tuple(
            CategorySummary(names[id_], count, len(videos[id_]), masks[id_])
            for id_, count in instances.most_common()
        ),
    )


def _label_problems(dataset: DataSet) -> Iterator[Problem]:
    """Missing, contradictory and repeated annotations."""
    by_video = group_tracks(dataset.tracks)
    file = str(dataset.path)
    if not dataset.videos:
        yield Problem("error", "empty", file, (), "no videos or pictures in it")
    without = [video.id for video in dataset.videos if not by_video[video.id]]
    if without:
        yield Problem(
            "warning",
            "no-annotation",
            file,
            (),
            f"{_share(without, dataset)} have no annotation: {_some(without)}",
        )
    yield from _repeated_files(dataset)
    for video in dataset.videos:
        tracks = by_video[video.id]
        seen: dict[object, int] = {}
        for track in tracks:
            place: Place = (("annotation", track.id), *_place(video))
            for kind, what in _track_faults(track, video.size):
                yield Problem("warning", kind, file, place, what)
            masks = tuple(mask and mask["counts"] for mask in track.segmentations)
            if any(masks) and seen.setdefault(masks, track.id) != track.id:
                what = f"has the same masks as annotation {seen[masks]}"
                yield Problem("warning", "duplicate", file, place, what)


def _track_faults(track: AnnotatedTrack, size: Size) -> Iterator[tuple[str, str]]:
    """Kind and message for each problem with the masks of a track."""
    visible = [(t, mask) for t, mask in enumerate(track.segmentations) if mask is not None]
    if not visible:
        yield "never-visible", "has no mask on any frame"
        return
    areas = coco.area([mask for _, mask in visible])
    empty = [t for (t, _), area in zip(visible, areas, strict=True) if area == 0]
    if empty:
        yield "empty-mask", f"empty masks on frames {_some(empty)}: write null instead"
    if (areas >= COVERS_ALL * size.height * size.width).all():
        yield "covers-all", "covers the whole frame on all its frames: perhaps inverted"
    boxes = coco.toBbox([mask for _, mask in visible])
    for (t, _), area, box in zip(visible, areas, boxes, strict=True):
        stated = track.boxes[t] if track.boxes else None
        if area and stated is not None and _box_iou(box, stated) < BOX_IOU:
            yield (
                "box-elsewhere",
                f"frame {t}: its mask lies at {_rounded(box)}, its box at {_rounded(stated)} "
                "(left, top, width, height)",
            )
            break  # one report per track


def _repeated_files(dataset: DataSet) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for video in dataset.videos:
        twice = [n for n in video.file_names if first.setdefault(n, video.id) != video.id]
        if twice:
            what = f"{len(twice)} of its files also belong to video {first[twice[0]]}: {twice[0]}"
            place = _place(video)
            yield Problem("warning", "repeated-file", str(dataset.path), place, what)
        if len(set(video.file_names)) < len(video.file_names):
            what = f"{video.length} frames, but {len(set(video.file_names))} files"
            place = _place(video)
            yield Problem("warning", "repeated-file", str(dataset.path), place, what)


@dataclass(frozen=True, slots=True)
class _Frame:
    """A picture to check."""

    video: AnnotatedVideo
    index: int
    name: str
    masks: tuple[RLE, ...]  # to compare with its edges


@dataclass(frozen=True, slots=True)
class _CheckedFrame:
    """The result of checking one picture."""

    problem: Problem | None = None
    fits: Sequence[np.ndarray] = ()  # of its masks' outlines, as `outline_fits` returns them


def _picture_problems(dataset: DataSet, on_progress: OnProgress) -> list[Problem]:
    todo = list(_frames(dataset))
    found: list[Problem] = []
    fits: dict[int | None, FitSum] = defaultdict(FitSum)  # by video id; None: of all pictures
    seen = in_threads(partial(_check_frame, dataset), todo)
    for done, (frame, picture) in enumerate(zip(todo, seen, strict=True), start=1):
        if picture.problem is not None:
            found.append(picture.problem)
        if picture.fits:
            fits[None if frame.video.length == 1 else frame.video.id].add(picture.fits)
        on_progress("reading pictures", done, len(todo))
    missing = [problem for problem in found if problem.kind == "missing-file"]
    if len(missing) == len(todo) > 1:
        what = f"none of its {len(todo)} pictures is in {dataset.frames}"
        hint = "--frames FOLDER names the folder that file names are relative to"
        return [Problem("error", "missing-file", str(dataset.path), (), what, hint)]
    return [*found, *_shifts(dataset, fits)]


def _frames(dataset: DataSet) -> Iterator[_Frame]:
    """All pictures; an evenly spread selection of them has its masks."""
    by_video = group_tracks(dataset.tracks)
    num_pictures = sum(video.length == 1 for video in dataset.videos)
    every = max(1, num_pictures // LOOKED_AT_PICTURES)
    for position, video in enumerate(dataset.videos):
        some = {video.length * i // LOOKED_AT_FRAMES for i in range(LOOKED_AT_FRAMES)}
        if video.length == 1 and position % every:
            some = set()
        for index, name in enumerate(video.file_names):
            tracks = by_video[video.id] if index in some else []
            masks = [track.segmentations[index] for track in tracks if not track.is_crowd]
            visible = [mask for mask in masks if mask is not None]
            yield _Frame(video, index, name, tuple(visible[:LOOKED_AT_MASKS]))


def _shifts(dataset: DataSet, fits: Mapping[int | None, FitSum]) -> Iterator[Problem]:
    """A warning for each video whose masks look shifted, and one for all pictures together."""
    videos = {video.id: video for video in dataset.videos}
    steps = [step_of(video.size) for video in dataset.videos if video.length == 1]
    for video_id, fit in fits.items():
        place = () if video_id is None else _place(videos[video_id])
        shift = fit.shift(
            int(statistics.median(steps)) if video_id is None else step_of(videos[video_id].size)
        )
        if shift is not None:
            yield Problem("warning", "shifted-masks", str(dataset.path), place, str(shift))


def _check_frame(dataset: DataSet, frame: _Frame) -> _CheckedFrame:
    """Decode one picture."""
    place = _place(frame.video, frame.index)

    def error(kind: str, what: str, hint: str = "") -> _CheckedFrame:
        return _CheckedFrame(Problem("error", kind, str(dataset.path), place, what, hint))

    try:
        file = frame_file(dataset.frames, frame.name)
    except DataError as outside:
        return error("outside", str(outside), outside.hint)
    if not file.exists():
        return error("missing-file", f"{file}: no such file")
    try:
        with open_picture(file) as image:
            turn, stored = orientation(image), Size(image.height, image.width)
            image.load()  # fails for truncated files, which OpenCV (used in training) reads
            picture = np.asarray(image.convert("RGB")) if frame.masks and turn == 1 else None
        size = stored
        if turn != 1:
            picture = read_picture(file)  # turns it as training and prediction do
            size = Size(*picture.shape[:2])
    except DataError as broken:
        return error("unreadable-file", str(broken), broken.hint)
    if size != frame.video.size:
        other = other_size(file, size, frame.video.size)
        return error("picture-size", str(other), other.hint)
    fits = () if picture is None else outline_fits(picture, map(decode_mask, frame.masks))
    if turn == 1 or size != stored:
        return _CheckedFrame(fits=fits)
    what = f"{file}: is read as displayed, turned by its EXIF orientation ({turn})"
    hint = "masks must be of the turned picture; `vistool visualize` shows whether they are"
    problem = Problem("warning", "turned-picture", str(dataset.path), place, what, hint)
    return _CheckedFrame(problem, fits)


def _place(video: AnnotatedVideo, frame: int | None = None) -> Place:
    if video.length == 1:
        return (("image", video.id),)
    return (("video", video.id), *((("frame", frame),) if frame is not None else ()))


def _box_iou(a: Iterable[float], b: Iterable[float]) -> float:
    (left, top, width, height), (x, y, w, h) = a, b
    across = max(0.0, min(left + width, x + w) - max(left, x))
    down = max(0.0, min(top + height, y + h) - max(top, y))
    both = across * down
    either = width * height + w * h - both
    return both / either if either > 0 else 0.0


def _rounded(box: Iterable[float]) -> str:
    return "[" + ", ".join(f"{side:.0f}" for side in box) + "]"


def _share(ids: list[int], dataset: DataSet) -> str:
    return f"{len(ids)} of {len(dataset.videos)} videos or pictures"


def _some(ids: list[int]) -> str:
    return ", ".join(first_few(ids, 10))
