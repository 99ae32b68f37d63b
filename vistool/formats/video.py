"""Reading videos: files by OpenCV, folders of frames; every frame with its own time stamp."""

from __future__ import annotations

import contextlib
import glob
import os
import queue
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import cv2
import numpy as np

from vistool.errors import DataError, UsageError
from vistool.formats import ffmpeg
from vistool.structures import Size, VideoFrame

# Read when OpenCV opens its first video: ffmpeg stays quiet, what is wrong is said by us in a line.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)
IMAGE_SUFFIXES = (
    *(".bmp", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".pnm", ".tif", ".tiff"),
    ".webp",
)
FOLDER_FPS = 10.0
TIME_SLACK = 1e-6  # seconds; a time stamp is a rounded multiple of the source's time base

T = TypeVar("T")
Picture = tuple[float, Callable[[], np.ndarray]]  # time, and how to get the RGB image


class VideoReader(ABC):
    """A video to be read, as often as wanted; close it, or use it as a context manager."""

    path: Path
    name: str  # stem of the file, name of the folder
    size: Size
    fps: float  # nominal: what the container says; frames carry their own time
    frame_count_hint: int | None  # for progress only: containers lie
    rotation: int  # degrees clockwise, already applied to the frames
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
        """Release the file; iterators over its frames end."""

    def frames(
        self, *, start: float | None = None, end: float | None = None
    ) -> Generator[VideoFrame, None, None]:
        """Decode the frames with start <= time < end, in seconds from the first frame.

        Raises: UsageError if the range is empty by itself; DataError if no frame lies in it, or
            if a frame is damaged or of another size than the first.
        """
        first, beyond = start or 0.0, float("inf") if end is None else end
        if first < 0 or beyond <= first:
            raise UsageError(f"no time lies between start {first:g} s and end {beyond:g} s")
        last = 0.0
        found = False
        with contextlib.closing(self._pictures()) as pictures:
            for index, (time, load) in enumerate(pictures):
                last = time
                if time < first - TIME_SLACK:
                    continue
                if time >= beyond - TIME_SLACK:
                    break
                found = True
                yield VideoFrame(index, time, self._checked(load(), index))
        if not found:
            raise DataError(
                f"{self.path}: no frame between {first:g} s and {beyond:g} s; "
                f"the last one is at {last:.3f} s"
            )

    @abstractmethod
    def _pictures(self) -> Generator[Picture, None, None]:
        """Time stamps from 0, increasing, each with the means to get its image."""

    def _checked(self, image: np.ndarray, index: int) -> np.ndarray:
        if image.shape[:2] != self.size:
            height, width = image.shape[:2]
            raise DataError(
                f"{self.path}: frame {index} is {width}x{height}, "
                f"the first is {self.size.width}x{self.size.height}",
                hint="split or rescale the source so that all frames have one size",
            )
        return image


def open_video(path: Path, *, folder_fps: float = FOLDER_FPS) -> VideoReader:
    """Open a video file or a folder of frames, shown at `folder_fps`.

    Raises: DataError if it is missing, no video, or has no frame that can be decoded.
    """
    if path.is_dir():
        return _FolderReader(path, folder_fps)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    return _FileReader(path)


class _FileReader(VideoReader):
    def __init__(self, path: Path) -> None:
        self.path, self.name, self.warnings = path, path.stem, []
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
        self._capture = cv2.VideoCapture()
        with self._opened() as capture:
            fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
            self.rotation = int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
            ok, image = capture.read()
        if not ok:
            raise DataError(
                f"{path}: none of its frames can be decoded", hint="is the file complete?"
            )
        self.size = Size(*image.shape[:2])
        self.fps = fps if 0 < fps < 1000 else 25.0
        self.frame_count_hint = int(count) if 0 < count < 1e9 else None
        self.has_audio = ffmpeg.sound_track(path) is not None

    def close(self) -> None:
        self._capture.release()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[cv2.VideoCapture]:
        if not self._capture.open(str(self.path), cv2.CAP_FFMPEG):
            raise DataError(f"{self.path}: not a video that can be decoded")
        try:
            yield self._capture
        finally:
            self._capture.release()

    def _pictures(self) -> Generator[Picture, None, None]:
        with self._opened() as capture:
            origin = last = None
            while capture.grab():
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                origin = stamp if origin is None else origin
                time = stamp - origin
                if last is not None and time <= last:
                    time = last + 1 / self.fps
                last = time
                yield time, self._retrieve

    def _retrieve(self) -> np.ndarray:
        ok, image = self._capture.retrieve()
        if not ok:
            raise DataError(f"{self.path}: a frame cannot be converted to RGB")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class _FolderReader(VideoReader):
    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.name, self.fps, self.warnings = path, path.resolve().name, fps, []
        self.rotation, self.has_audio = 0, False
        self._files = _with_suffix(path, IMAGE_SUFFIXES)
        if not self._files:
            raise DataError(f"{path}: no images in this folder")
        self.frame_count_hint = len(self._files)
        self.size = Size(*_read_image(self._files[0]).shape[:2])

    def close(self) -> None:
        """Nothing is open between two images."""

    def _pictures(self) -> Generator[Picture, None, None]:
        for index, file in enumerate(self._files):
            yield index / self.fps, lambda file=file: _read_image(file)  # type: ignore[misc]


def _read_image(path: Path) -> np.ndarray:
    # imdecode, not imread: no chatter on stderr, and any path
    image = (
        cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    )
    if image is None:
        raise DataError(f"{path}: damaged, or no image that can be read")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def expand_sources(patterns: Sequence[str]) -> list[Path]:
    """Video files, folders of frames, folders of videos and globs -> what to open, each once.

    Raises: DataError if one of them is missing, or nothing can be found in it.
    """
    found: dict[Path, Path] = {}  # by the real path, so that a source given twice is read once
    for pattern in patterns:
        for path in _expand(pattern):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _expand(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        return _expand_folder(path)
    if path.exists():
        return [path]
    if not glob.has_magic(pattern):
        raise DataError(f"{pattern}: no such file or folder")
    matches = [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - any root
    usable = [m for m in matches if m.is_dir() or m.suffix.lower() in VIDEO_SUFFIXES]
    if not usable:
        raise DataError(f"{pattern}: no video file or folder matches")
    return [
        source
        for m in sorted(usable, key=_natural)
        for source in (_expand_folder(m) if m.is_dir() else [m])
    ]


def _expand_folder(folder: Path) -> list[Path]:
    images, videos = _with_suffix(folder, IMAGE_SUFFIXES), _with_suffix(folder, VIDEO_SUFFIXES)
    if images and videos:
        raise DataError(
            f"{folder}: holds {len(images)} images and {len(videos)} videos; which is meant?",
            hint="name the videos, or move the frames to a folder of their own",
        )
    if not images and not videos:
        raise DataError(
            f"{folder}: no images and no videos in this folder",
            hint=f"looked for {' '.join(sorted(IMAGE_SUFFIXES + VIDEO_SUFFIXES))}",
        )
    return videos or [folder]


def _with_suffix(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != ".")
    return sorted((p for p in files if p.is_file()), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key in which frame10 comes after frame9."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part.casefold()) for part in parts]


def prefetch(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Run `items` in a thread of its own, at most `depth` ahead of the consumer.

    What `items` raises is raised here. Closing this generator stops the thread and closes `items`.
    """
    waiting: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def produce() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                waiting.put((True, item))
                if stop.is_set():
                    return
            waiting.put((False, None))
        except BaseException as error:  # noqa: BLE001 - it travels to the consumer
            waiting.put((False, error))
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    # daemon: a consumer that dies with its traceback kept must not hold up the end of the program
    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            more, item = waiting.get()
            if more:
                yield item  # type: ignore[misc]
            elif item is None:
                return
            else:
                raise item  # type: ignore[misc]
    finally:
        stop.set()
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                waiting.get_nowait()
            thread.join(0.01)
