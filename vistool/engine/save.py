"""What `predict --save` writes beside results.json: tables, label pictures, cut-outs."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np

from vistool.config import Extra
from vistool.engine.render import SpooledResults, result_frames
from vistool.errors import DataError, VistoolError
from vistool.formats.atomic import atomic_folder, atomic_path
from vistool.formats.davis import MOST_OBJECTS
from vistool.formats.label_maps import masks_of, painted, palette, write_label_map
from vistool.formats.mots import mots_classes, mots_ids, mots_line, write_mots_classes
from vistool.formats.results import (
    META,
    RESULTS,
    SegmentationSpool,
    TrackMeta,
    VideoMeta,
    read_meta,
)
from vistool.formats.rle import area, bounding_box, decode_mask
from vistool.formats.video import VideoReader
from vistool.progress import OnProgress, silent
from vistool.structures import RLE, FrameInstance, FrameResult, Size

FILES: dict[Extra, tuple[str, ...]] = {
    "csv": ("tracks.csv",),
    "jsonl": ("frames.jsonl",),
    "mots": ("mots.txt", "mots_categories.json"),
}
FOLDERS: dict[Extra, str] = {"davis": "davis", "cutouts": "cutouts"}
COLUMNS = (
    *("frame", "time", "track", "class", "score"),
    *("left", "top", "width", "height", "area"),
)


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
    image: np.ndarray  # [H, W, 3] uint8, RGB; empty where nobody needs pictures


def save_extras(
    kinds: Sequence[Extra],
    folder: Path,
    spool: SegmentationSpool,
    meta: VideoMeta,
    reader: VideoReader,
    on_progress: OnProgress = silent,
) -> list[str]:
    """Write the asked-for outputs of a video into its folder; memory does not grow with it.

    Each appears whole or not at all, whatever becomes of the others.

    Returns: what could not be written and why, a line each: a format that has no room for so much,
        a full disk, a source that is not the video any more that was segmented.
    """
    failures: list[str] = []
    for kind in kinds:
        pictures = reader if kind == "cutouts" else None
        frames = _shown_frames(kind, folder, spool, meta, pictures, on_progress)
        try:
            with contextlib.closing(frames):
                _save(kind, folder, meta, frames)
        except OSError as error:
            failures.append(f"--save {kind}: {VistoolError.of_system(error)}")
        except VistoolError as error:
            failures.append(f"--save {kind}: {error}")
    return failures


def remove_extras(folder: Path) -> None:
    """Take away what an earlier run saved into a folder, by its meta.json, and nothing else."""
    try:
        saved = read_meta(folder / META).settings.get("save", ())
    except VistoolError:
        return
    for kind in saved:
        for name in FILES.get(kind, ()):
            (folder / name).unlink(missing_ok=True)
        place = folder / FOLDERS[kind] if kind in FOLDERS else None
        if place is None or place.is_symlink():
            continue
        for file in [*place.glob("[0-9]*.png"), *place.glob("[0-9]*/[0-9]*.png")]:
            file.unlink()
        for emptied in [*place.glob("[0-9]*"), place]:
            with contextlib.suppress(OSError):  # something else is in it
                emptied.rmdir()


def _save(kind: Extra, folder: Path, meta: VideoMeta, frames: Iterator[ShownFrame]) -> None:
    match kind:
        case "csv":
            _save_table(folder, frames)
        case "jsonl":
            _save_lines(folder, frames)
        case "mots":
            _save_mots_text(folder, meta, frames)
        case "davis":
            _save_label_pictures(folder, meta, frames)
        case "cutouts":
            _save_cutouts(folder, frames)


def _shown_frames(
    kind: Extra,
    folder: Path,
    spool: SegmentationSpool,
    meta: VideoMeta,
    reader: VideoReader | None,
    on_progress: OnProgress,
) -> Generator[ShownFrame, None, None]:
    """All frames of the results; reader: where their pictures come from, if they are needed."""
    names = {category.id: category.name for category in meta.categories}
    tracks = {track.track_id: track for track in meta.tracks}
    number = -1
    with contextlib.closing(_pictures(folder, spool, meta, reader)) as pictures:
        for number, image in enumerate(pictures):
            shown = tuple(
                Shown(tracks[track], names[tracks[track].category_id], rle)
                for track, rle in spool.frame(number)
                if track in tracks
            )
            index, seen = meta.first_frame + number, number % meta.frame_stride == 0
            yield ShownFrame(number, index, meta.times[number], seen, shown, image)
            on_progress(f"saving {kind}", number + 1, meta.length)


def _pictures(
    folder: Path, spool: SegmentationSpool, meta: VideoMeta, reader: VideoReader | None
) -> Generator[np.ndarray, None, None]:
    if reader is None:
        yield from (np.zeros((0, 0, 3), np.uint8) for _ in range(meta.length))
        return
    results = SpooledResults(folder / RESULTS, spool, meta)
    with contextlib.closing(result_frames(reader, results)) as frames:
        for frame in frames:
            yield frame.image


def _save_table(folder: Path, frames: Iterator[ShownFrame]) -> None:
    """One row for every track on every frame, for spreadsheets and data frames."""
    with (
        atomic_path(folder / FILES["csv"][0]) as path,
        path.open("w", newline="", encoding="utf-8") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for frame in frames:
            for item in frame.shown:
                about = (frame.index, f"{frame.time:.6f}", item.track.track_id, item.class_name)
                score = f"{item.track.score:.4f}"
                rows.writerow((*about, score, *bounding_box(item.rle), area(item.rle)))


def _save_lines(folder: Path, frames: Iterator[ShownFrame]) -> None:
    """One JSON object a line, and a line for every frame, as `iterate_video` yields them."""
    with atomic_path(folder / FILES["jsonl"][0]) as path, path.open("wb") as file:
        for frame in frames:
            instances = tuple(
                FrameInstance(item.track.track_id, item.class_name, item.track.score, item.rle)
                for item in frame.shown
            )
            result = FrameResult(frame.index, frame.time, frame.seen, instances)
            file.write(msgspec.json.encode(result) + b"\n")


def _save_mots_text(folder: Path, meta: VideoMeta, frames: Iterator[ShownFrame]) -> None:
    """MOTS's text form, and which class is which: 10 means regions to ignore there.

    Objects are numbered from 1 within their class, the best first. Where masks overlap, the
    smaller one is kept.
    """
    names = {category.id: category.name for category in meta.categories}
    classes = mots_classes(names, {track.category_id for track in meta.tracks}, meta.source)
    numbered = mots_ids((classes[track.category_id] for track in meta.tracks), meta.source)
    ids = {track.track_id: id_ for track, id_ in zip(meta.tracks, numbered, strict=True)}
    text, categories = (folder / name for name in FILES["mots"])
    with atomic_path(text) as path, path.open("w", encoding="ascii") as file:
        for frame in frames:
            masks = [(ids[item.track.track_id], item.rle) for item in frame.shown]
            labels, _ = painted(masks, Size(meta.height, meta.width))
            for id_, mask in masks_of(labels).items():
                file.write(mots_line(frame.number, id_, mask))
    write_mots_classes(categories, names, classes)


def _save_label_pictures(folder: Path, meta: VideoMeta, frames: Iterator[ShownFrame]) -> None:
    """A picture of object numbers for every frame, as DAVIS has them.

    Objects are numbered from 1 in the order of results.json, the best first. Where masks overlap,
    the smaller one is kept.
    """
    if len(meta.tracks) > MOST_OBJECTS:
        raise DataError(f"{len(meta.tracks)} tracks, a DAVIS picture has room for {MOST_OBJECTS}")
    numbers = {track.track_id: n for n, track in enumerate(meta.tracks, start=1)}
    colours = palette()
    with atomic_folder(folder / FOLDERS["davis"]) as place:
        for frame in frames:
            masks = [(numbers[item.track.track_id], item.rle) for item in frame.shown]
            labels, _ = painted(masks, Size(meta.height, meta.width))
            write_label_map(place / f"{frame.number:05}.png", labels, colours)


def _save_cutouts(folder: Path, frames: Iterator[ShownFrame]) -> None:
    """Every track on every frame as a picture of its box, transparent around the mask."""
    with atomic_folder(folder / FOLDERS["cutouts"]) as place:
        for frame in frames:
            for item in frame.shown:
                left, top, width, height = bounding_box(item.rle)
                box = slice(top, top + height), slice(left, left + width)
                alpha = decode_mask(item.rle)[box].astype(np.uint8) * 255
                picture = np.dstack([frame.image[box][..., ::-1], alpha])
                # Not the class in the name: it comes from the weight file, and might lead away.
                file = place / f"{item.track.track_id:03}" / f"{frame.index:05}.png"
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
