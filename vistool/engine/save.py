"""What `predict --save` writes beside results.json: tables, label pictures, cut-outs."""

from __future__ import annotations

import contextlib
import csv
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np

from vistool.config import Extra
from vistool.engine.render import SpooledResults, result_frames
from vistool.errors import DataError
from vistool.formats.atomic import atomic_path
from vistool.formats.davis import MOST_OBJECTS, palette
from vistool.formats.label_maps import masks_of, painted, write_label_map
from vistool.formats.mots import PER_CLASS, mots_classes, mots_line
from vistool.formats.results import RESULTS, SegmentationSpool, TrackMeta, VideoMeta
from vistool.formats.rle import area, bounding_box, decode_mask
from vistool.formats.video import VideoReader
from vistool.progress import OnProgress, silent
from vistool.structures import RLE, Size

TABLE, LINES, MOTS, DAVIS, CUTOUTS = "tracks.csv", "frames.jsonl", "mots.txt", "davis", "cutouts"
COLUMNS = (
    *("frame", "time", "track", "class", "score"),
    *("left", "top", "width", "height", "area"),
)


def remove_extras(folder: Path) -> None:
    """What an earlier run saved into a folder must not stand beside new results."""
    for name in (TABLE, LINES, MOTS):
        (folder / name).unlink(missing_ok=True)
    for pictures in (DAVIS, f"{CUTOUTS}/*"):
        for file in folder.glob(f"{pictures}/[0-9]*.png"):
            file.unlink()


@dataclass(frozen=True, slots=True)
class Shown:
    """A reported track on a frame."""

    track: TrackMeta
    class_name: str
    rle: RLE


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """A frame with what is reported on it."""

    number: int  # position in results.json
    index: int  # position among the frames of the source
    time: float  # seconds from the first frame of the source
    seen: bool  # False: left out by the frame stride
    shown: tuple[Shown, ...]  # by increasing track id
    image: np.ndarray  # [H, W, 3] uint8, RGB; empty where no writer needs pictures


class Writer(ABC):
    """Writes one kind of output, frame after frame."""

    needs_pictures = False

    @abstractmethod
    def write(self, frame: ShownFrame) -> None:
        """One frame, in order."""


def save_extras(
    kinds: Sequence[Extra],
    folder: Path,
    spool: SegmentationSpool,
    meta: VideoMeta,
    reader: VideoReader,
    on_progress: OnProgress = silent,
) -> None:
    """Write the asked-for outputs of a video into its folder; memory does not grow with it.

    Raises: DataError for more tracks than a kind has ids for.
    """
    names = {category.id: category.name for category in meta.categories}
    tracks = {track.track_id: track for track in meta.tracks}
    with contextlib.ExitStack() as stack:
        writers = [_writer(kind, folder, meta, stack) for kind in kinds]
        pictures = _pictures(any(w.needs_pictures for w in writers), spool, meta, reader, folder)
        for number, image in enumerate(pictures):
            shown = tuple(
                Shown(tracks[track], names[tracks[track].category_id], rle)
                for track, rle in spool.frame(number)
                if track in tracks
            )
            index, seen = meta.first_frame + number, number % meta.frame_stride == 0
            frame = ShownFrame(number, index, meta.times[number], seen, shown, image)
            for writer in writers:
                writer.write(frame)
            on_progress("saving", number + 1, meta.length)


def _writer(kind: Extra, folder: Path, meta: VideoMeta, stack: contextlib.ExitStack) -> Writer:
    match kind:
        case "csv":
            return _Table(stack.enter_context(atomic_path(folder / TABLE)), stack)
        case "jsonl":
            return _Lines(stack.enter_context(atomic_path(folder / LINES)), stack)
        case "mots":
            return _MotsText(stack.enter_context(atomic_path(folder / MOTS)), meta, stack)
        case "davis":
            return _LabelPictures(folder / DAVIS, meta)
        case "cutouts":
            return _Cutouts(folder / CUTOUTS)


def _pictures(
    needed: bool, spool: SegmentationSpool, meta: VideoMeta, reader: VideoReader, folder: Path
) -> Iterator[np.ndarray]:
    """The frames that results are about, or as many empty pictures where none is needed."""
    if not needed:
        yield from (np.zeros((0, 0, 3), np.uint8) for _ in range(meta.length))
        return
    for frame in result_frames(reader, SpooledResults(folder / RESULTS, spool, meta)):
        yield frame.image


class _Table(Writer):
    """One line for every track on every frame, for spreadsheets and data frames."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        file = stack.enter_context(path.open("w", newline="", encoding="utf-8"))
        self._rows = csv.writer(file)
        self._rows.writerow(COLUMNS)

    def write(self, frame: ShownFrame) -> None:
        for item in frame.shown:
            about = (frame.index, f"{frame.time:.6f}", item.track.track_id, item.class_name)
            score = f"{item.track.score:.4f}"
            self._rows.writerow((*about, score, *bounding_box(item.rle), area(item.rle)))


class _Lines(Writer):
    """One JSON object a line, and a line for every frame, as `iterate_video` yields them."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self._file = stack.enter_context(path.open("wb"))

    def write(self, frame: ShownFrame) -> None:
        instances = [
            {
                "track_id": item.track.track_id,
                "class_name": item.class_name,
                "score": item.track.score,
                "segmentation": item.rle,
            }
            for item in frame.shown
        ]
        about = {"index": frame.index, "time": frame.time, "seen": frame.seen}
        line = {**about, "instances": instances}
        self._file.write(msgspec.json.encode(line) + b"\n")


class _LabelPictures(Writer):
    """A picture of object numbers for every frame, as DAVIS has them.

    Objects are numbered from 1 in the order of results.json, the best first. Where masks overlap,
    the smaller one is kept.
    """

    def __init__(self, folder: Path, meta: VideoMeta) -> None:
        if len(meta.tracks) > MOST_OBJECTS:
            raise DataError(
                f"{meta.source}: {len(meta.tracks)} tracks, a DAVIS picture has room for "
                f"{MOST_OBJECTS}",
                hint="a higher --conf reports fewer",
            )
        self._folder, self._size = folder, Size(meta.height, meta.width)
        self._number = {track.track_id: n for n, track in enumerate(meta.tracks, start=1)}

    def write(self, frame: ShownFrame) -> None:
        masks = [(self._number[item.track.track_id], item.rle) for item in frame.shown]
        labels, _ = painted(masks, self._size)
        write_label_map(self._folder / f"{frame.number:05}.png", labels, palette())


class _MotsText(Writer):
    """MOTS's text form. Objects are numbered from 1 within their class, the best first.

    Where masks overlap, the smaller one is kept.
    """

    def __init__(self, path: Path, meta: VideoMeta, stack: contextlib.ExitStack) -> None:
        self._file = stack.enter_context(path.open("w", encoding="ascii"))
        self._size = Size(meta.height, meta.width)
        used = {track.category_id for track in meta.tracks}
        classes = mots_classes({c.id: c.name for c in meta.categories}, used, meta.source)
        counted: Counter[int] = Counter()
        self._ids: dict[int, int] = {}
        for track in meta.tracks:
            class_ = classes[track.category_id]
            counted[class_] += 1
            if counted[class_] == PER_CLASS:
                raise DataError(
                    f"{meta.source}: {PER_CLASS} tracks of a class or more, which MOTS ids have "
                    "no room for",
                    hint="a higher --conf reports fewer",
                )
            self._ids[track.track_id] = class_ * PER_CLASS + counted[class_]

    def write(self, frame: ShownFrame) -> None:
        masks = [(self._ids[item.track.track_id], item.rle) for item in frame.shown]
        labels, _ = painted(masks, self._size)
        lines = [mots_line(frame.number, id_, mask) for id_, mask in masks_of(labels).items()]
        self._file.write("".join(lines))


class _Cutouts(Writer):
    """Every track on every frame as a picture of its box, transparent around the mask."""

    needs_pictures = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, frame: ShownFrame) -> None:
        for item in frame.shown:
            left, top, width, height = bounding_box(item.rle)
            box = slice(top, top + height), slice(left, left + width)
            alpha = decode_mask(item.rle)[box].astype(np.uint8) * 255
            picture = np.dstack([frame.image[box][..., ::-1], alpha])
            # Not the class in the name: it comes from the weight file, and might lead elsewhere.
            folder = self._folder / f"{item.track.track_id:03}"
            with atomic_path(folder / f"{frame.index:05}.png") as temporary:
                if not cv2.imwrite(str(temporary), picture):
                    raise OSError(f"{temporary}: could not be written")
