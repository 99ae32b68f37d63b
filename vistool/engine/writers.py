"""The outputs of a tracked video: one function for each, and a table of all.

An output is a context manager that yields a function, which is called with every frame in turn. All
outputs are written in one pass over masks and pictures. Each is written completely or not at all,
independently of the others.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import cv2
import msgspec
import numpy as np

from vistool.annotations.davis import MOST_OBJECTS
from vistool.annotations.label_maps import masks_of, painted, palette, write_label_map
from vistool.annotations.mots import (
    PER_CLASS,
    is_number,
    mots_classes,
    mots_line,
    write_mots_classes,
)
from vistool.config import OverlayStyle
from vistool.errors import DataError, UsageError, VistoolError
from vistool.formats.files import atomic_folder, atomic_path, encode_json
from vistool.formats.masks.rle import area, bounding_box, decode_mask
from vistool.formats.replacing import replaced_together, settle
from vistool.formats.results.files import (
    META,
    OVERLAY,
    RESULTS,
    read_meta,
    read_meta_and_ids,
    write_meta,
    write_results,
)
from vistool.formats.tables import safe_cells
from vistool.formats.video.writer import VideoWriter
from vistool.progress import OnProgress, silent
from vistool.rendering.overlay import DEFAULT_STYLE
from vistool.structures import VideoFrame

if TYPE_CHECKING:
    from vistool.engine.tracked_video import TrackedFrame, TrackedVideo

WriteFrame = Callable[["TrackedFrame"], None]

COLUMNS = (
    *("frame", "time", "track", "class", "score"),
    *("left", "top", "width", "height", "area"),
)


@contextlib.contextmanager
def write_csv(folder: Path, _: TrackedVideo) -> Iterator[WriteFrame]:
    """tracks.csv: one row for every track on every frame, for spreadsheets and data frames."""
    with (
        atomic_path(folder / "tracks.csv") as path,
        path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(COLUMNS)

        def write(frame: TrackedFrame) -> None:
            for track, rle in frame.instances:
                about = (frame.index, f"{frame.time:.6f}", track.id, track.class_name)
                box = (*bounding_box(rle), area(rle))
                rows.writerow(safe_cells((*about, f"{track.score:.4f}", *box)))

        yield write


@contextlib.contextmanager
def write_jsonl(folder: Path, _: TrackedVideo) -> Iterator[WriteFrame]:
    """frames.jsonl: one JSON object for every frame, with all its masks."""
    with atomic_path(folder / "frames.jsonl") as path, path.open("wb") as file:

        def write(frame: TrackedFrame) -> None:
            file.write(encode_json(frame.as_dict()) + b"\n")

        yield write


@contextlib.contextmanager
def write_mots(folder: Path, video: TrackedVideo) -> Iterator[WriteFrame]:
    """mots.txt and mots_categories.json; MOTS reserves class 10 for regions to ignore.

    An object's id is class * 1000 + track id. Where masks overlap, the smaller one is kept.
    """
    _require_room(video, PER_CLASS - 1, "a MOTS id")
    names = {category.id: category.name for category in video.categories}
    used = {track.class_id for track in video.tracks}
    classes = mots_classes(names, used, video.meta.source)
    with atomic_path(folder / "mots.txt") as path, path.open("w", encoding="ascii") as file:

        def write(frame: TrackedFrame) -> None:
            masks = [
                (classes[track.class_id] * PER_CLASS + track.id, rle)
                for track, rle in frame.instances
            ]
            labels, _ = painted(masks, frame.size)
            for id_, mask in masks_of(labels).items():
                file.write(mots_line(frame.index - video.meta.first_frame, id_, mask))

        yield write
        write_mots_classes(folder / "mots_categories.json", names, classes)


@contextlib.contextmanager
def write_davis(folder: Path, video: TrackedVideo) -> Iterator[WriteFrame]:
    """davis/: a label picture of track ids for every frame.

    Where masks overlap, the smaller one is kept.
    """
    _require_room(video, MOST_OBJECTS, "a DAVIS picture")
    colours = palette()
    with atomic_folder(folder / "davis") as place:

        def write(frame: TrackedFrame) -> None:
            labels, _ = painted(((t.id, rle) for t, rle in frame.instances), frame.size)
            name = f"{frame.index - video.meta.first_frame:05}.png"
            write_label_map(place / name, labels, colours)

        yield write


@contextlib.contextmanager
def write_cutouts(folder: Path, _: TrackedVideo) -> Iterator[WriteFrame]:
    """cutouts/: a picture of every instance's box, transparent outside the mask."""
    with atomic_folder(folder / "cutouts") as place:

        def write(frame: TrackedFrame) -> None:
            for track, rle in frame.instances:
                left, top, width, height = bounding_box(rle)
                box = slice(top, top + height), slice(left, left + width)
                alpha = decode_mask(rle)[box].astype(np.uint8) * 255
                picture = np.dstack([frame.image[box][..., ::-1], alpha])
                # Not the class in the name: it comes from the weight file, and might lead away.
                file = place / f"{track.id:03}" / f"{frame.index:05}.png"
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(cv2.imencode(".png", picture)[1].tobytes())

        yield write


@contextlib.contextmanager
def write_overlay(
    path: Path, video: TrackedVideo, style: OverlayStyle = DEFAULT_STYLE, conf: float = 0.0
) -> Iterator[WriteFrame]:
    """An mp4 with the tracks drawn on the video, with its timing, pixel shape and sound.

    Frames that the model did not see show the masks of the last seen frame.

    Args: conf: tracks with a lower score are not drawn.
    """
    reader = video.reader
    with VideoWriter(
        path,
        video.size,
        fps=reader.fps,
        pixel_aspect=reader.pixel_aspect,
        audio_from=reader.path if reader.has_audio else None,
        audio_start=video.times[0] if video.times else 0.0,
    ) as writer:

        def write(frame: TrackedFrame) -> None:
            writer.write(frame.drawn(style, conf), frame.get_picture().time)

        yield write


@dataclass(frozen=True, slots=True)
class Output:
    """One kind of output."""

    # Given the run folder.
    open: Callable[[Path, TrackedVideo], AbstractContextManager[WriteFrame]]
    names: tuple[str, ...]  # of its files in that folder, or of one folder, without a suffix
    pictures: bool = False  # needs the pictures of the video


OUTPUTS = {
    "csv": Output(write_csv, ("tracks.csv",)),
    "jsonl": Output(write_jsonl, ("frames.jsonl",)),
    "mots": Output(write_mots, ("mots.txt", "mots_categories.json")),
    "davis": Output(write_davis, ("davis",)),
    "cutouts": Output(write_cutouts, ("cutouts",), pictures=True),
    "overlay": Output(
        lambda folder, video: write_overlay(folder / OVERLAY, video), (OVERLAY,), pictures=True
    ),
}
# What a run may write into its folder, or take away there.
NAMES = {RESULTS, META, *(name for output in OUTPUTS.values() for name in output.names)}


def save_results(video: TrackedVideo, folder: Path, kinds: Collection[str]) -> None:
    """Write results.json and meta.json; what an earlier run left there is taken away.

    Args: kinds: of `OUTPUTS`, that are to be written beside them.
    """
    more = [kind for kind in kinds if kind != "overlay"]
    settings = {**video.meta.settings, "overlay": "overlay" in kinds, "save": more}
    meta = msgspec.structs.replace(video.meta, settings=settings)
    # What an earlier run left must not stand beside the new results.
    with replaced_together(folder, [OVERLAY, *_saved_outputs(folder)]) as new:
        write_results(new / RESULTS, video.entries())
        write_meta(new / META, meta, [track for track in video.tracks if track.frames])


def may_be_whole(folder: Path) -> bool:
    """False if there are no results in the folder, or they say that they are a part."""
    settle(folder)
    try:
        return (folder / RESULTS).exists() and read_meta(folder / META).complete
    except VistoolError:
        return True


def refuse_to_replace(sources: Iterable[Path], folders: Iterable[Path]) -> None:
    """Raises: UsageError if a source is one of the folders, or lies where results go in one."""
    places = {folder.resolve() for folder in folders}
    for source in sources:
        # as it is named, too: it may be a link, which would go
        for path in {source.resolve(), source.parent.resolve() / source.name}:
            for place in places.intersection([path, *path.parents]):
                if path == place or path.relative_to(place).parts[0] in NAMES:
                    raise UsageError(
                        f"{source}: lies where results would be written, in {place}",
                        hint="choose another --output",
                    )


def require_mp4(path: Path) -> None:
    """Raises: UsageError if an overlay does not end in .mp4."""
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"{path}: overlays are written as .mp4")


def check_kinds(kinds: Iterable[str]) -> None:
    """Raises: UsageError for an unknown output."""
    for kind in kinds:
        if kind not in OUTPUTS:
            raise UsageError(f"{kind}: no such output", hint=f"there are {', '.join(OUTPUTS)}")


def write_outputs(
    kinds: Collection[str], video: TrackedVideo, folder: Path, on_progress: OnProgress = silent
) -> None:
    """Write outputs of `OUTPUTS` into a folder, all in one pass.

    Raises: VistoolError, after all others are written, that tells what could not be and why: a
        format that has no room for so much, a full disk, a source that is not the video any more
        that was segmented.
    """
    errors = write_all(
        {kind: OUTPUTS[kind].open(folder, video) for kind in kinds},
        {kind for kind in kinds if OUTPUTS[kind].pictures},
        video,
        on_progress,
    )
    told = [
        f"{kind}: {VistoolError.of_system(error) if isinstance(error, OSError) else error}"
        for kind, error in errors.items()
    ]
    if told:
        raise VistoolError(f"{video.meta.source}: {'; '.join(told)}")


def write_all(
    writers: Mapping[str, AbstractContextManager[WriteFrame]],
    with_pictures: AbstractSet[str],
    video: TrackedVideo,
    on_progress: OnProgress = silent,
) -> dict[str, VistoolError | OSError]:
    """Feed all writers in one pass over the masks, and over the pictures if any needs them.

    Args: with_pictures: the writers that need pictures.
    Returns: the errors of writers that failed; the others are complete.
    """
    if not writers:
        return {}
    with _Running(with_pictures) as running:
        for kind, writer in writers.items():
            running.start(kind, writer)
        with contextlib.closing(_frames(video, running)) as frames:
            for done, frame in enumerate(frames, start=1):
                running.write(frame)
                on_progress("writing", done, video.meta.length)
        running.finish()
    return running.errors


def _frames(video: TrackedVideo, running: _Running) -> Generator[TrackedFrame, None, None]:
    """All frames, with pictures while a writer needs them and they can be decoded."""
    with contextlib.ExitStack() as stack:
        pictures: Iterator[VideoFrame] = iter(())
        if kinds := running.wanting_pictures():
            with running.dropping(*kinds):
                pictures = stack.enter_context(contextlib.closing(video.pictures()))
        for frame in video.frames:
            whole = frame
            if kinds := running.wanting_pictures():
                with running.dropping(*kinds):
                    whole = frame.with_picture(next(pictures))
            if not running.kinds():
                return
            yield whole
        with running.dropping(*running.wanting_pictures()):
            next(pictures, None)  # a source with more frames is another video


class _Running:
    """Writers that run together, each of which may fail without the others.

    A context manager: if it ends early, incomplete outputs are removed.
    """

    def __init__(self, with_pictures: AbstractSet[str]) -> None:
        self.errors: dict[str, VistoolError | OSError] = {}
        self._with_pictures = with_pictures
        self._writes: dict[str, WriteFrame] = {}
        self._ends: dict[str, contextlib.ExitStack] = {}
        self._end = contextlib.ExitStack()

    def __enter__(self) -> _Running:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.__exit__(kind, error, traceback)

    def kinds(self) -> list[str]:
        return list(self._writes)

    def wanting_pictures(self) -> list[str]:
        return [kind for kind in self._writes if kind in self._with_pictures]

    def start(self, kind: str, writer: AbstractContextManager[WriteFrame]) -> None:
        with self.dropping(kind):
            end = contextlib.ExitStack()
            self._writes[kind] = end.enter_context(writer)
            self._ends[kind] = self._end.enter_context(end)

    def write(self, frame: TrackedFrame) -> None:
        for kind, write in list(self._writes.items()):
            with self.dropping(kind):
                write(frame)

    def finish(self) -> None:
        for kind in self.kinds():
            with self.dropping(kind):
                self._ends.pop(kind).close()

    @contextlib.contextmanager
    def dropping(self, *kinds: str) -> Iterator[None]:
        """An error inside ends only these writers."""
        try:
            yield
        except (VistoolError, OSError) as error:
            for kind in kinds:
                self.errors[kind] = error
                self._writes.pop(kind, None)
                end = self._ends.pop(kind, None)
                if end is not None:
                    with contextlib.suppress(VistoolError, OSError):  # the disk is still full
                        end.__exit__(type(error), error, error.__traceback__)


def _require_room(video: TrackedVideo, most: int, where: str) -> None:
    """Raises: DataError if the ids of the tracks are too high for a format."""
    highest = max((track.id for track in video.tracks), default=0)
    if highest > most:
        raise DataError(f"tracks are numbered up to {highest}, {where} has room for {most}")


def _saved_outputs(folder: Path) -> Iterator[str]:
    """The files that an earlier run saved into a folder, by its meta.json, and no others."""
    try:
        meta, ids = read_meta_and_ids(folder / META)
    except VistoolError:
        return
    saved = meta.settings.get("save")
    kinds = [kind for kind in saved if isinstance(kind, str)] if isinstance(saved, list) else []
    for name in (name for kind in kinds if kind in OUTPUTS for name in OUTPUTS[kind].names):
        if Path(name).suffix:
            yield name
    if "davis" in kinds:
        yield from _numbered(folder, "davis", meta.length)
    if "cutouts" in kinds:
        for id_ in set(ids):
            yield from _numbered(folder, f"cutouts/{id_:03}", meta.first_frame + meta.length)


def _numbered(folder: Path, inner: str, end: int) -> Iterator[str]:
    """The pictures of frames up to `end` in a folder of a run folder.

    A folder that is a link, or lies behind one, is another's.
    """
    place = folder / inner
    if place.is_symlink() or place.parent.is_symlink() or not place.is_dir():
        return
    for file in place.iterdir():
        number = int(file.stem) if is_number(file.stem) else end
        if number < end and file.name == f"{number:05}.png":
            yield f"{inner}/{file.name}"
