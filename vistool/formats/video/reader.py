"""Read video files and folders of frames: every frame upright, with its own time stamp."""

from __future__ import annotations

import contextlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence, Sized
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np

from vistool.errors import DataError, UsageError
from vistool.formats.video import ffmpeg
from vistool.formats.video.completeness import FrameClock, Promise
from vistool.formats.video.container import stated_by
from vistool.formats.video.frame_files import (
    TIFF_SUFFIXES,
    FilePerFrame,
    FramePictures,
    Limits,
    Pages,
    stretched,
)
from vistool.formats.video.sources import (
    IMAGE_SUFFIXES,
    LOOKED_FOR,
    files_with_suffix,
)
from vistool.structures import Size, VideoFrame

FOLDER_FPS = 10.0
FALLBACK_FPS = 25.0  # if the container states none
TIME_SLACK = 1e-6  # seconds; a time stamp is a rounded multiple of the source's time base

T = TypeVar("T")


class VideoReader(ABC):
    """A video that can be read several times; close it, or use it as a context manager."""

    path: Path
    size: Size
    fps: float  # nominal, as stated by the container; each frame has its own time
    frame_count_hint: int | None  # for progress only: containers may state a wrong number
    rotation: int  # degrees clockwise, already applied to the frames
    pixel_aspect: Fraction  # pixel width divided by pixel height, as players show the frames
    has_audio: bool
    # Both are complete when all frames have been read.
    warnings: list[str]  # one line each
    incomplete: bool  # requested frames are missing, according to the file's headers
    value_range: Limits | None = None  # for pictures: the values that became black and white
    stream: int | None = None  # the number of the one that is read, if a file has several
    frame_names: Sequence[str] = ()  # for pictures: files by index, or file#page with pages from 1

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Stop decoding; unfinished iterators must not be used any more."""

    def frames(
        self, *, start: float | None = None, end: float | None = None
    ) -> Generator[VideoFrame, None, None]:
        """Decode the frames with start <= time < end, in seconds from the first frame.

        If the frames of a file change their size, they are scaled to the first frame's size, with a
        warning.

        Raises: UsageError unless 0 <= start < end; DataError if no frame is in this range, or if an
            image in a folder is damaged or differs in size from the first one.
        """
        first, beyond = start or 0.0, math.inf if end is None else end
        if not 0 <= first < beyond:
            raise UsageError(f"no time lies between start {first:g} s and end {beyond:g} s")
        found = False
        last = 0.0
        chosen = self._pictures(first - TIME_SLACK, beyond - TIME_SLACK)
        with contextlib.closing(chosen) as pictures:
            for index, (last, image) in enumerate(pictures):
                if image is not None:
                    found = True
                    yield VideoFrame(index, last, image)
        if not found:
            until = "on" if end is None else f"to {end:g} s"
            raise DataError(
                f"{self.path}: no frame from {first:g} s {until}; the last one is at {last:.3f} s"
            )

    @abstractmethod
    def _pictures(
        self, first: float, beyond: float
    ) -> Generator[tuple[float, np.ndarray | None], None, None]:
        """Increasing time stamps from 0 to below `beyond` with the image; None before `first`."""


def open_video(
    path: Path,
    *,
    fps: float | None = None,
    stream: int | None = None,
    value_range: Limits | None = None,
) -> VideoReader:
    """Open a video file, a folder of frames, or a TIFF whose pages are frames.

    Args:
        fps: frames per second of frames stored as pictures; None: 10.
        stream: number of the video stream of a file; None: the one flagged as default, or else the
            largest.
        value_range: for pictures with more than 8 bits, the values that become black and white;
            None: the lowest and the highest of the sequence.

    Raises: DataError if it is missing, is not a video, or has no frame that can be decoded;
        UsageError for an option that does not apply to such a source.
    """
    if fps is not None and not 0 < fps < math.inf:
        raise UsageError(f"{fps:g} frames per second: not above 0")
    if value_range is not None and not -math.inf < value_range[0] < value_range[1] < math.inf:
        raise UsageError("range {:g},{:g}: not a lower and a higher value".format(*value_range))
    pictures = _frame_pictures(path)
    if pictures is not None:
        if stream is not None:
            raise UsageError(f"{path}: pictures have no stream {stream}")
        return _FramesReader(path, pictures, fps or FOLDER_FPS, value_range)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    for option, value in (("frames per second", fps), ("range of values", value_range)):
        if value is not None:
            raise UsageError(f"{path}: a video file has its own {option}")
    return _FileReader(path, stream)


def is_video_file(path: Path) -> bool:
    """False for a folder of frames, and for a TIFF, whose pages are frames."""
    return not path.is_dir() and path.suffix.lower() not in TIFF_SUFFIXES


def _frame_pictures(path: Path) -> FramePictures | None:
    """The frames of a source that is stored as pictures; None for a video file."""
    if not path.is_dir():
        return Pages(path) if path.suffix.lower() in TIFF_SUFFIXES and path.exists() else None
    files = files_with_suffix(path, IMAGE_SUFFIXES)
    if not files:
        raise DataError(f"{path}: no frames in this folder", hint=LOOKED_FOR)
    if len(files) == 1 and files[0].suffix.lower() in TIFF_SUFFIXES:
        return Pages(files[0])
    return FilePerFrame(files)


def open_frames(files: Sequence[Path]) -> VideoReader:
    """Open a list of image files, in this order, as one video of 10 frames per second.

    Raises: DataError if the first one cannot be decoded.
    """
    return _FramesReader(files[0].parent, FilePerFrame(files), FOLDER_FPS)


def open_arrays(images: Iterable[np.ndarray], *, fps: float, keep: bool = False) -> VideoReader:
    """Open an iterable of pictures, each [H, W, 3] uint8 RGB, as a video.

    Args: fps: frames per second; keep: keep a copy of each picture, so that it can be read again.
    Raises: UsageError for an invalid fps; DataError if there are no pictures.
    """
    return _ArraysReader(images, fps, keep)


class _FileReader(VideoReader):
    def __init__(self, path: Path, stream: int | None) -> None:
        self.path, self.incomplete = path, False
        self._decoders: list[ffmpeg.Decoder] = []
        length = path.stat().st_size
        if length == 0:
            raise DataError(f"{path}: the file is empty")
        self._info = info = ffmpeg.media_info(path, stream)
        self.rotation, self.has_audio = info.rotation, info.sound is not None
        self.pixel_aspect = info.pixel_aspect
        self.fps = info.fps or FALLBACK_FPS
        self.frame_count_hint = round(info.duration * self.fps) if info.duration else None
        self.stream = info.stream if len(info.streams) > 1 else None
        self._promise = Promise(stated_by(path, info.stream), info.picture_end, length)
        self.size = self._first_size()
        self._choice = _choice(info) if stream is None else []
        self.warnings = self._in_lines(self._choice)

    def close(self) -> None:
        while self._decoders:
            self._decoders.pop().close()

    def _first_size(self) -> Size:
        decoder = ffmpeg.Decoder(self.path, self._info.stream, only_first=True)
        with contextlib.closing(decoder):
            for _, image in decoder:
                return Size(*image.shape[:2])
            reason = "; ".join(decoder.complaints()[:1]) or "there is none"
            raise DataError(
                f"{self.path}: none of its frames can be decoded: {reason}",
                hint="is the file complete?",
            )

    def _pictures(
        self, first: float, beyond: float
    ) -> Generator[tuple[float, np.ndarray | None], None, None]:
        decoder = ffmpeg.Decoder(self.path, self._info.stream)
        self._decoders.append(decoder)
        clock, at_end = FrameClock(self.fps), False
        with contextlib.closing(decoder):
            for stamp, image in decoder:
                time = clock.time_of(stamp)
                if time >= beyond:
                    break
                clock.add(time, stamp)
                yield time, image if time >= first else None
            else:
                at_end = True
            damage = self._damage(decoder, clock, beyond, at_end=at_end)
            sizes = self._other_sizes(decoder)
        # replaced, since reading again finds the same
        self.warnings[:] = self._in_lines(self._choice + damage + sizes)

    def _damage(
        self, decoder: ffmpeg.Decoder, clock: FrameClock, beyond: float, *, at_end: bool
    ) -> list[str]:
        """A warning about missing or damaged frames, if there are any; sets `incomplete`."""
        # ffmpeg can still read a file that was deleted while it was open
        length = self.path.stat().st_size if self.path.exists() else self._promise.length
        doubts = decoder.complaints(doubts=True)
        missing = clock.shortfall(self._promise, length, doubts, beyond, at_end=at_end)
        self.incomplete = missing is not None
        complaints = doubts if missing else decoder.complaints()
        if not missing and not complaints:
            return []
        said = complaints[:1]
        if len(complaints) > 1:
            said.append(f"{len(complaints)} complaints")
        whole = max(self._promise.length, self._promise.stated.length or 0)
        if missing and length < whole:
            said.append(f"{length} of {whole} bytes are there")
        expected = ""
        if missing and missing.expected:
            expected = f" of {'about ' if missing.about else ''}{missing.expected}"
        what = "damaged or cut off" if missing else "damaged"
        reasons = f" ({'; '.join(said)})" if said else ""
        return [f"{what}, {clock.count}{expected} frames were decoded{reasons}"]

    def _other_sizes(self, decoder: ffmpeg.Decoder) -> list[str]:
        return [
            f"the frames change their size to {other.width}x{other.height}; "
            f"all frames are scaled to {self.size.width}x{self.size.height}"
            for other in decoder.other_sizes(self.size)[:1]
        ]

    def _in_lines(self, found: Sequence[str]) -> list[str]:
        return [f"{self.path}: {text}" for text in found]


def _choice(info: ffmpeg.MediaInfo) -> list[str]:
    """A warning that names the stream that is read, if there are several video streams."""
    if len(info.streams) == 1:
        return []
    streams = {
        stream.number: f"{stream.size.width}x{stream.size.height}" for stream in info.streams
    }
    others = ", ".join(f"{n} ({size})" for n, size in streams.items() if n != info.stream)
    return [
        f"has {len(streams)} video streams; {info.stream} ({streams[info.stream]}) is read; "
        f"--stream chooses another: {others}"
    ]


class _FramesReader(VideoReader):
    def __init__(
        self, path: Path, pictures: FramePictures, fps: float, value_range: Limits | None = None
    ) -> None:
        self.path, self.fps, self.warnings, self.incomplete = path, fps, [], False
        self.rotation, self.has_audio, self.pixel_aspect = 0, False, Fraction(1)
        self._source = pictures
        self.frame_names = pictures.names
        self.frame_count_hint = len(pictures.names)
        first = pictures.read(0)
        self.size = Size(*first.shape[:2])
        self.value_range = value_range
        self._is_deep = first.dtype != np.uint8
        if value_range and not self._is_deep:
            raise UsageError(
                f"{path}: its frames have 8 bits, which are not stretched",
                hint="leave the range out",
            )

    def close(self) -> None:
        self._source.close()

    def _pictures(
        self, first: float, beyond: float
    ) -> Generator[tuple[float, np.ndarray | None], None, None]:
        for index, name in enumerate(self._source.names):
            time = index / self.fps
            if time >= beyond:
                return
            if time < first:
                yield time, None
                continue
            image = self._source.read(index)
            if image.shape[:2] != self.size:
                height, width = image.shape[:2]
                raise DataError(
                    f"{self._source.place / name}: {width}x{height} pixels, but "
                    f"{self.frame_names[0]} has {self.size.width}x{self.size.height}",
                    hint="all frames of a video must have the same size",
                )
            yield time, self._in_8_bits(image, name)

    def _in_8_bits(self, image: np.ndarray, name: str) -> np.ndarray:
        if self._is_deep != (image.dtype != np.uint8):
            raise DataError(
                f"{self._source.place / name}: {image.dtype} values, but "
                f"{self.frame_names[0]} has others",
                hint="all frames of a video have one depth",
            )
        if not self._is_deep:
            return image
        if self.value_range is None:
            self.value_range = low, high = self._source.limits()
            self.warnings.append(
                f"{self.path}: {image.dtype} values; their range, from {low:g} to {high:g}, "
                "becomes black to white; --range LOW,HIGH chooses another"
            )
        return stretched(image, self.value_range)


class _ArraysReader(VideoReader):
    def __init__(self, images: Iterable[np.ndarray], fps: float, keep: bool) -> None:
        if not 0 < fps < math.inf:
            raise UsageError(f"fps {fps}: not a number of frames per second")
        self.path, self.fps, self.warnings = Path("<arrays>"), fps, []
        self.incomplete = False
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

    def _pictures(
        self, first: float, beyond: float
    ) -> Generator[tuple[float, np.ndarray | None], None, None]:
        if self._begun and self._kept is None:
            raise UsageError(
                "the pictures were given as arrays, and were not kept",
                hint="keep_images=True keeps them in memory",
            )
        self._begun = True
        for index, image in enumerate(self._images()):
            time = index / self.fps
            if time >= beyond:
                return
            yield time, image if time >= first else None

    def _images(self) -> Generator[np.ndarray, None, None]:
        """The pictures that were kept, then the others."""
        yield from self._kept or ()
        for index in itertools.count(len(self._kept or ())):
            given = next(self._rest, None)
            if given is None:
                return
            image = np.array(given)  # a copy: the caller may reuse the memory
            if image.shape != (*self.size, 3) or image.dtype != np.uint8:
                raise DataError(
                    f"picture {index} is {image.dtype} {image.shape}",
                    hint="pictures must be uint8 [height, width, 3], RGB, all of the same size",
                )
            if self._kept is not None:
                self._kept.append(image)
            yield image
