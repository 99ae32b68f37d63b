"""Reading videos, files and folders of frames: every frame, upright, with its own time stamp."""

from __future__ import annotations

import contextlib
import glob
import math
import queue
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np

from vistool.errors import DataError, UsageError
from vistool.formats import ffmpeg
from vistool.formats.names import as_file_name
from vistool.formats.pictures import read_picture
from vistool.structures import Size, VideoFrame

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)
IMAGE_SUFFIXES = (
    *(".bmp", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".pnm", ".tif", ".tiff"),
    ".webp",
)
LOOKED_FOR = f"looked for {' '.join(name[1:] for name in VIDEO_SUFFIXES + IMAGE_SUFFIXES)}"
FOLDER_FPS = 10.0
FALLBACK_FPS = 25.0  # where the container names no rate
TIME_SLACK = 1e-6  # seconds; a time stamp is a rounded multiple of the source's time base

T = TypeVar("T")


class VideoReader(ABC):
    """A video to be read, as often as wanted; close it, or use it as a context manager."""

    path: Path
    size: Size
    fps: float  # nominal: what the container says; frames carry their own time
    frame_count_hint: int | None  # for progress only: containers lie
    rotation: int  # degrees clockwise, already applied to the frames
    pixel_aspect: Fraction  # width of a pixel by its height, as players show the frames
    has_audio: bool
    warnings: list[str]  # what was odd, one line each; complete when the frames are exhausted

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Stop decoding; an iterator that was not exhausted is of no use any more."""

    def frames(
        self, *, start: float | None = None, end: float | None = None
    ) -> Generator[VideoFrame, None, None]:
        """Decode the frames with start <= time < end, in seconds from the first frame.

        A file whose picture changes its size is scaled to its first frame's, with a warning.

        Raises: UsageError if no time lies between start and end; DataError if no frame does, or
            if an image of a folder is damaged or of another size than the first.
        """
        first, beyond = start or 0.0, math.inf if end is None else end
        if not 0 <= first < beyond:
            raise UsageError(f"no time lies between start {first:g} s and end {beyond:g} s")
        found = False
        last = 0.0
        with contextlib.closing(self._pictures(first - TIME_SLACK)) as pictures:
            for index, (last, image) in enumerate(pictures):
                if last >= beyond - TIME_SLACK:
                    break
                if image is not None:
                    found = True
                    yield VideoFrame(index, last, image)
        if not found:
            until = "on" if end is None else f"to {end:g} s"
            raise DataError(
                f"{self.path}: no frame from {first:g} s {until}; the last one is at {last:.3f} s"
            )

    @abstractmethod
    def _pictures(self, first: float) -> Generator[tuple[float, np.ndarray | None], None, None]:
        """Time stamps from 0, increasing, with the image, or None for those before `first`."""


def open_video(path: Path, *, folder_fps: float = FOLDER_FPS) -> VideoReader:
    """Open a video file or a folder of frames, which are shown at `folder_fps`.

    Raises: DataError if it is missing, no video, or has no frame that can be decoded.
    """
    if path.is_dir():
        files = _with_suffix(path, IMAGE_SUFFIXES)
        if not files:
            raise DataError(f"{path}: no frames in this folder", hint=LOOKED_FOR)
        return _FramesReader(path, files, folder_fps)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    return _FileReader(path)


def open_frames(files: Sequence[Path], *, folder_fps: float = FOLDER_FPS) -> VideoReader:
    """Open a list of images, in this order, as one video.

    Raises: DataError if the first cannot be decoded.
    """
    return _FramesReader(files[0].parent, files, folder_fps)


def source_name(path: Path) -> str:
    """What a source's results are named after: the stem of a file, the name of a folder."""
    return as_file_name(path.resolve().name if path.is_dir() else path.stem)


class _FileReader(VideoReader):
    def __init__(self, path: Path) -> None:
        self.path, self.warnings = path, []
        self._decoders: list[ffmpeg.Decoder] = []
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        info = ffmpeg.media_info(path)
        self.rotation, self.has_audio = info.rotation, info.sound is not None
        self.pixel_aspect = info.pixel_aspect
        self.fps = info.fps or FALLBACK_FPS
        self.frame_count_hint = round(info.duration * self.fps) if info.duration else None
        self.size = self._first_size()

    def close(self) -> None:
        while self._decoders:
            self._decoders.pop().close()

    def _first_size(self) -> Size:
        with contextlib.closing(ffmpeg.Decoder(self.path, only_first=True)) as decoder:
            for _, image in decoder:
                return Size(*image.shape[:2])
            raise DataError(
                f"{self.path}: none of its frames can be decoded: {decoder.complaint()}",
                hint="is the file complete?",
            )

    def _pictures(self, first: float) -> Generator[tuple[float, np.ndarray | None], None, None]:
        decoder = ffmpeg.Decoder(self.path)
        self._decoders.append(decoder)
        with contextlib.closing(decoder):
            origin = last = None
            count = 0
            for stamp, image in decoder:
                origin = stamp if origin is None else origin
                time = stamp - origin
                if last is not None and time <= last:  # a broken clock: go on at the nominal rate
                    time = last + 1 / self.fps
                last = time
                count += 1
                yield time, image if time >= first else None
            self._note_oddities(decoder, count)

    def _note_oddities(self, decoder: ffmpeg.Decoder, count: int) -> None:
        found = []
        if complaint := decoder.complaint():
            found.append(f"damaged or cut off, {count} frames were decoded ({complaint})")
        if others := decoder.other_sizes(self.size):
            found.append(
                f"the picture changes its size to {others[0].width}x{others[0].height}; "
                f"all frames are scaled to {self.size.width}x{self.size.height}"
            )
        # a second reading finds the same
        self.warnings[:] = [f"{self.path}: {text}" for text in found]


class _FramesReader(VideoReader):
    def __init__(self, path: Path, files: Sequence[Path], fps: float) -> None:
        self.path, self.fps, self.warnings = path, fps, []
        self.rotation, self.has_audio, self.pixel_aspect = 0, False, Fraction(1)
        self._files = files
        self.frame_count_hint = len(self._files)
        self.size = Size(*read_picture(self._files[0]).shape[:2])

    def close(self) -> None:
        """Nothing is open between two images."""

    def _pictures(self, first: float) -> Generator[tuple[float, np.ndarray | None], None, None]:
        for index, file in enumerate(self._files):
            time = index / self.fps
            if time < first:
                yield time, None
                continue
            image = read_picture(file)
            if image.shape[:2] != self.size:
                height, width = image.shape[:2]
                raise DataError(
                    f"{file}: {width}x{height} pixels, "
                    f"but {self._files[0].name} has {self.size.width}x{self.size.height}",
                    hint="all frames of a video have one size",
                )
            yield time, image


def expand_sources(patterns: Sequence[str]) -> list[Path]:
    """Video files, folders of frames, folders of videos and globs -> what to open, each once.

    Raises: DataError if one of them is missing, or nothing can be found in it.
    """
    found: dict[Path, Path] = {}  # by the real path, so that a source given twice is read once
    for pattern in patterns:
        try:
            for path in _expand(pattern):
                found.setdefault(path.resolve(), path)
        except OSError as error:
            raise DataError(f"{pattern}: {error.strerror}") from None
    return list(found.values())


def _expand(pattern: str) -> list[Path]:
    path = Path(pattern)
    if pattern and path.is_dir():
        if sources := _sources_in(path):
            return sources
        raise DataError(f"{path}: no frames and no videos in this folder", hint=LOOKED_FOR)
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        raise DataError(
            f"{path}: a single picture is no video",
            hint="give the folder that holds the frames",
        )
    if pattern and path.exists():
        return [path]
    if not glob.has_magic(pattern):
        raise DataError(f"{pattern or 'empty name'}: no such file or folder")
    # Path.glob would want the pattern split into a root and a rest
    matches = sorted(map(Path, glob.glob(pattern, recursive=True)), key=_natural)  # noqa: PTH207
    sources = [source for match in matches for source in _matched(match)]
    if not sources:
        raise DataError(
            f"{pattern}: none of the {len(matches)} matches is a video or a folder of frames",
            hint=LOOKED_FOR,
        )
    return sources


def _matched(path: Path) -> list[Path]:
    if path.is_dir():
        return _sources_in(path)
    return [path] if path.suffix.lower() in VIDEO_SUFFIXES else []


def _sources_in(folder: Path) -> list[Path]:
    """The videos in a folder, or the folder itself if it holds frames; empty if neither."""
    images, videos = _with_suffix(folder, IMAGE_SUFFIXES), _with_suffix(folder, VIDEO_SUFFIXES)
    if images and videos:
        raise DataError(
            f"{folder}: holds {len(images)} images and {len(videos)} videos; which is meant?",
            hint="name the videos, or move the frames to a folder of their own",
        )
    return [folder] if images else videos


def _with_suffix(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != ".")
    return sorted((p for p in files if p.is_file()), key=_natural)


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key in which frame10 comes after frame9."""
    parts = re.split(r"(\d+)", str(path))
    words = [(int(part), "") if part.isdecimal() else (-1, part.casefold()) for part in parts]
    return words, str(path)


def prefetch(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Run `items` in a thread of its own, at most `depth` ahead of the consumer.

    What `items` raises is raised here. Closing this generator stops the thread and closes `items`;
    it should be closed by whoever may leave it early (`contextlib.closing`).
    """
    waiting: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def produce() -> None:
        try:
            iterator = iter(items)
            try:
                for item in iterator:
                    waiting.put((item,))
                    if stop.is_set():
                        break
            finally:
                if isinstance(iterator, Generator):
                    iterator.close()
            waiting.put(None)
        except BaseException as error:  # noqa: BLE001 - it travels to the consumer
            waiting.put(error)

    # daemon: a consumer that dies with its traceback kept must not hold up the end of the program
    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    try:
        thread.start()
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stop.set()
        while thread.is_alive():  # it may be waiting for room, more than once
            with contextlib.suppress(queue.Empty):
                waiting.get_nowait()
            thread.join(0.01)
