"""Write H.264 videos with the time stamp of every frame and the sound of the source."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vistool.errors import VistoolError
from vistool.formats.files import atomic_path
from vistool.formats.replacing import remove_leftovers
from vistool.formats.video.ffmpeg import (
    Sound,
    file_name,
    first_complaint,
    media_info,
    program,
    source,
)
from vistool.structures import Size

TIMESCALE = 90_000  # time units per second in the file: exact for 24, 25, 30, 50 and 60 fps
# The longest duration of a frame in seconds. In an mp4, less than 2**31 time units, 6.6 hours, may
# lie between decoding and display of a frame, and several other frames may lie between them.
LONGEST = 2000
SQUARE = Fraction(1)
MAX_ASPECT = 65_535  # the largest numerator and denominator of a pixel aspect in H.264
MP4 = ["-video_track_timescale", str(TIMESCALE), "-movflags", "+faststart", "-f", "mp4"]
# Codecs that players accept in an mp4; others are converted to AAC.
COPYABLE_SOUND = frozenset({"aac", "ac3", "alac", "eac3", "mp3", "opus"})


class VideoWriter:
    """A context manager that writes frames to an mp4 file; `path` is created only on success.

    Args:
        size: of the images. An odd side is extended by a repeated line, since yuv420p needs even
            sides.
        fps: nominal rate, used for the last frame's duration; every frame has its own time.
        pixel_aspect: pixel width divided by pixel height, by which players stretch the picture.
        audio_from: a file whose first sound track is copied, if it has one.
        audio_start: where the copied sound begins, in seconds from that file's first frame.
    """

    def __init__(
        self,
        path: Path,
        size: Size,
        *,
        fps: float,
        pixel_aspect: Fraction = SQUARE,
        audio_from: Path | None = None,
        audio_start: float = 0.0,
    ) -> None:
        self.path, self.size, self.fps = path, size, fps
        self._pixel_aspect = pixel_aspect
        self._sound = media_info(audio_from).sound if audio_from else None
        self._sound_from, self._sound_start = audio_from, audio_start
        self._origin = 0.0
        self._last: float | None = None  # time of the last frame, from the first one
        self._image = np.empty(0, np.uint8)  # of the last frame, with even sides
        self._end = contextlib.ExitStack()

    def __enter__(self) -> VideoWriter:
        with contextlib.ExitStack() as stack:
            self._finished = stack.enter_context(atomic_path(self.path))
            remove_leftovers(self.path.parent)
            self._picture = self._finished.with_suffix(".picture.mp4")
            stack.callback(self._picture.unlink, missing_ok=True)
            self._log = stack.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                self._encode_command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                start_new_session=True,  # Ctrl-C must not reach ffmpeg; it is ended by this class
            )
            stack.push(self._end_process)
            self._pipe(_matroska_header(self._even_size, self.fps))
            self._end = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._end.__exit__(*error)

    def write(self, image: np.ndarray, time: float) -> None:
        """Add a frame, [H, W, 3] uint8 RGB. Times must increase; the first one becomes 0.

        A frame longer than LONGEST is repeated, since an mp4 cannot store its duration.

        Raises: ValueError for a frame of another size or a time that does not increase;
            VistoolError if ffmpeg fails.
        """
        if image.shape != (*self.size, 3) or image.dtype != np.uint8:
            raise ValueError(f"a {image.dtype} frame {image.shape} for a video of {self.size}")
        if self._last is None:
            self._origin = time
        elif time - self._origin <= self._last:
            raise ValueError(f"a frame at {time} s after one at {self._origin + self._last} s")
        else:
            self._repeat_until(time - self._origin)
        self._last = time - self._origin
        height, width = self._even_size
        if (height, width) != self.size:
            rows, columns = height - self.size.height, width - self.size.width
            image = np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge")
        self._image = np.ascontiguousarray(image)
        self._pipe_frame(self._last)

    def _repeat_until(self, time: float) -> None:
        assert self._last is not None
        while time - self._last > LONGEST:
            self._last += LONGEST
            self._pipe_frame(self._last)

    def _pipe_frame(self, time: float) -> None:
        self._pipe(_matroska_frame_header(time, 1 / self.fps, self._image.nbytes))
        self._pipe(self._image.data)

    @property
    def _even_size(self) -> Size:
        return Size(*(side + side % 2 for side in self.size))

    def _encode_command(self) -> list[str]:
        matrix, tag = ("bt709", "bt709") if self.size.height >= 720 else ("bt601", "smpte170m")
        convert = f"scale=out_color_matrix={matrix}:out_range=tv,format=yuv420p"
        label = f"setparams=colorspace={tag}:color_primaries={tag}:color_trc={tag}:range=tv"
        shape = f"setsar={self._pixel_aspect}:max={MAX_ASPECT}"
        command = [program(), "-v", "error", "-nostdin", "-y", "-f", "matroska", "-i", "pipe:0"]
        command += ["-fps_mode", "passthrough", "-enc_time_base", f"1:{TIMESCALE}"]
        command += ["-vf", f"{convert},{label},{shape}", "-c:v", "libx264"]
        command += ["-preset", "veryfast", "-crf", "20", *MP4]
        # the sound is added at the end, when the video's length is known
        return [*command, file_name(self._picture if self._sound else self._finished)]

    def _add_sound(self, sound: Sound, sound_file: Path) -> None:
        duration = (self._last or 0.0) + 1 / self.fps
        start = self._sound_start + sound.picture_delay
        command = [program(), "-v", "error", "-nostdin", "-y", "-i", file_name(self._picture)]
        # sound that begins after the first frame is delayed, sound that begins before is cut
        command += ["-ss", f"{start:.6f}"] if start > 0 else ["-itsoffset", f"{-start:.6f}"]
        command += ["-t", f"{duration + min(start, 0.0):.6f}", "-vn", *source(sound_file)]
        command += ["-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy"]
        command += ["-c:a", "copy" if sound.codec in COPYABLE_SOUND else "aac"]
        command += [*MP4, file_name(self._finished)]
        if subprocess.run(
            command, stderr=self._log, check=False, start_new_session=True
        ).returncode:
            raise self._failure()

    def _pipe(self, data: bytes | memoryview) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except BrokenPipeError:
            self._process.wait()
            raise self._failure() from None

    def _end_process(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._process.stdin is not None
        if kind is not None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        code = self._process.wait()
        if kind is not None:
            return
        if self._last is None:
            raise VistoolError(f"{self.path}: a video needs at least one frame")
        if code:
            raise self._failure()
        if self._sound and self._sound_from:
            self._add_sound(self._sound, self._sound_from)

    def _failure(self) -> VistoolError:
        self._log.seek(0)
        reason = first_complaint(self._log.read().decode(errors="replace"))
        if not reason:
            reason = f"ffmpeg ended with code {self._process.returncode}"
        return VistoolError(f"{self.path}: the video could not be written: {reason}")


def _element(name: str, content: bytes) -> bytes:
    """An EBML element: its id (given in hex), its length in eight bytes, and its content."""
    return bytes.fromhex(name) + struct.pack(">Q", 1 << 56 | len(content)) + content


def _unsigned(name: str, value: int) -> bytes:
    return _element(name, struct.pack(">Q", value))


def _matroska_header(size: Size, fps: float) -> bytes:
    """The start of a stream of raw RGB frames, with time stamps in microseconds."""
    video = _unsigned("B0", size.width) + _unsigned("BA", size.height)
    video += _element("2EB524", b"RGB\x18")  # ffmpeg's four letters for packed 24-bit RGB
    track = _unsigned("D7", 1) + _unsigned("73C5", 1) + _unsigned("83", 1)  # number, id, video
    track += _element("86", b"V_UNCOMPRESSED") + _unsigned("23E383", round(1e9 / fps))
    track += _element("E0", video)
    return (
        _element("1A45DFA3", _element("4282", b"matroska"))
        + bytes.fromhex("18538067") + b"\x01" + b"\xff" * 7  # a segment of unknown length
        + _element("1549A966", _unsigned("2AD7B1", 1000))  # nanoseconds per time unit
        + _element("1654AE6B", _element("AE", track))
    )  # fmt: skip


def _matroska_frame_header(time: float, duration: float, length: int) -> bytes:
    """The bytes before a frame's pixels. Each frame is a cluster, so times are not limited."""
    block = bytes.fromhex("A1") + struct.pack(">Q", 1 << 56 | length + 4) + b"\x81\0\0\0"
    timing = _unsigned("9B", round(duration * 1e6))
    group_length = len(timing) + len(block) + length
    group = bytes.fromhex("A0") + struct.pack(">Q", 1 << 56 | group_length) + timing + block
    stamp = _unsigned("E7", round(time * 1e6))
    cluster_length = len(stamp) + len(group) + length
    return bytes.fromhex("1F43B675") + struct.pack(">Q", 1 << 56 | cluster_length) + stamp + group
