"""Reading videos, files and folders of frames: every frame, upright, with its own time stamp."""

from __future__ import annotations

import contextlib
import itertools
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence, Sized
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from vistool.errors import DataError, UsageError
from vistool.formats.video import ffmpeg
from vistool.formats.video.sources import IMAGE_SUFFIXES, LOOKED_FOR, files_with_suffix
from vistool.structures import Size, VideoFrame

# OpenCV says on stderr what it dislikes about an image; we say it in one line.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FOLDER_FPS = 10.0
FALLBACK_FPS = 25.0  # where the container names no rate
TIME_SLACK = 1e-6  # seconds; a time stamp is a rounded multiple of the source's time base
STILL = 1.5 / ffmpeg.TICKS  # seconds; ffmpeg moves a frame at the time of the one before by a tick

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

    def __exit__(self, *_: object) -> None:
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
        files = files_with_suffix(path, IMAGE_SUFFIXES)
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


def open_arrays(images: Iterable[np.ndarray], *, fps: float, keep: bool = False) -> VideoReader:
    """Take pictures, [H, W, 3] uint8 RGB, as a video.

    Args: keep: copy each as it is read, so that the video can be read again.
    Raises: UsageError for a rate that is none; DataError if there is no picture.
    """
    return _ArraysReader(images, fps, keep)


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
                if last is not None and time <= last + STILL:  # a broken clock: at the nominal rate
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
        self.size = Size(*_read_image(self._files[0]).shape[:2])

    def close(self) -> None:
        """Nothing is open between two images."""

    def _pictures(self, first: float) -> Generator[tuple[float, np.ndarray | None], None, None]:
        for index, file in enumerate(self._files):
            time = index / self.fps
            if time < first:
                yield time, None
                continue
            image = _read_image(file)
            if image.shape[:2] != self.size:
                height, width = image.shape[:2]
                raise DataError(
                    f"{file}: {width}x{height} pixels, "
                    f"but {self._files[0].name} has {self.size.width}x{self.size.height}",
                    hint="all frames of a video have one size",
                )
            yield time, image


class _ArraysReader(VideoReader):
    def __init__(self, images: Iterable[np.ndarray], fps: float, keep: bool) -> None:
        if not 0 < fps < math.inf:
            raise UsageError(f"fps {fps}: not a number of frames per second")
        self.path, self.fps, self.warnings = Path("<arrays>"), fps, []
        self.rotation, self.has_audio, self.pixel_aspect = 0, False, Fraction(1)
        self.frame_count_hint = len(images) if isinstance(images, Sized) else None
        rest = iter(images)
        first = next(rest, None)
        if first is None:
            raise DataError("no pictures were given")
        self.size = Size(*np.shape(first)[:2])
        self._rest = itertools.chain([first], rest)
        self._begun = False
        self._kept: list[np.ndarray] | None = [] if keep else None

    def close(self) -> None:
        """Nothing is open."""

    def _pictures(self, first: float) -> Generator[tuple[float, np.ndarray | None], None, None]:
        if self._begun and self._kept is None:
            raise UsageError(
                "the pictures were given as arrays, and were not kept",
                hint="keep_images=True keeps them in memory",
            )
        self._begun = True
        for index, image in enumerate(self._images()):
            time = index / self.fps
            yield time, image if time >= first else None

    def _images(self) -> Generator[np.ndarray, None, None]:
        """Those that were kept, and then the others."""
        yield from self._kept or ()
        for index in itertools.count(len(self._kept or ())):
            given = next(self._rest, None)
            if given is None:
                return
            image = np.array(given)  # a copy: the giver may use the memory again
            if image.shape != (*self.size, 3) or image.dtype != np.uint8:
                raise DataError(
                    f"picture {index} is {image.dtype} {image.shape}",
                    hint="pictures are uint8 [height, width, 3], RGB, all of one size",
                )
            if self._kept is not None:
                self._kept.append(image)
            yield image


def _read_image(path: Path) -> np.ndarray:
    """[H, W, 3] uint8 RGB, upright."""
    try:
        data = path.read_bytes()
        # OpenCV's PNG reader prints what it dislikes, so it gets none that is damaged
        whole = _png_is_whole(data) if data.startswith(PNG_SIGNATURE) else bool(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if whole else None
    except (OSError, cv2.error) as error:
        raise DataError(f"{path}: cannot be read: {str(error).strip()}") from None
    if image is None:
        raise DataError(f"{path}: damaged, or no image that can be read")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _png_is_whole(data: bytes) -> bool:
    """True if every chunk up to the end mark is there with the right checksum."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        checksum = int.from_bytes(data[end : end + 4], "big")
        if end + 4 > len(data) or zlib.crc32(data[at + 4 : end]) != checksum:
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False
