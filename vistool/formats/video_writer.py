"""Writing H.264 videos that keep the time stamp of every frame, with the sound of the source."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

from vistool.errors import VistoolError
from vistool.formats import ffmpeg
from vistool.formats.atomic import atomic_path
from vistool.structures import Size

TIMESCALE = 90_000  # ticks a second in the file: exact for 24, 25, 30, 50, 60 fps
COPYABLE_SOUND = frozenset(
    {"aac", "ac3", "alac", "eac3", "mp3", "opus"}
)  # what players take in mp4


class VideoWriter:
    """A context manager that writes frames to an mp4; `path` appears only on a clean exit.

    Args:
        size: of the images; an odd side grows by one repeated line, yuv420p needs even ones.
        fps: nominal rate, for the last frame's duration; every frame carries its own time.
        audio_from: file whose first sound track goes along, from `audio_start` seconds after its
            first frame; ignored if it has none.
    """

    def __init__(
        self,
        path: Path,
        size: Size,
        *,
        fps: float,
        audio_from: Path | None = None,
        audio_start: float = 0.0,
    ) -> None:
        self.path, self.size, self.fps = path, size, fps
        self._audio_from, self._audio_start = audio_from, audio_start
        self._origin: float | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> VideoWriter:
        with contextlib.ExitStack() as stack:
            self._temporary = stack.enter_context(atomic_path(self.path))
            self._log = stack.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log
            )
            stack.push(self._end_process)
            self._stack = stack.pop_all()
        self._pipe(_matroska_header(self._even_size, self.fps))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def write(self, image: np.ndarray, time: float) -> None:
        """Add a frame, [H, W, 3] uint8 RGB; times increase, and the first one becomes 0.

        Raises: ValueError for a frame of another size; VistoolError if ffmpeg fails.
        """
        if image.shape != (*self.size, 3) or image.dtype != np.uint8:
            raise ValueError(f"a {image.dtype} frame {image.shape} for a video of {self.size}")
        if self._origin is None:
            self._origin = time
        height, width = self._even_size
        if (height, width) != self.size:
            rows, columns = height - self.size.height, width - self.size.width
            image = np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge")
        ticks = round((time - self._origin) * 1e6)
        self._pipe(_matroska_frame_header(ticks, round(1e6 / self.fps), image.nbytes))
        self._pipe(np.ascontiguousarray(image).data)

    @property
    def _even_size(self) -> Size:
        return Size(*(side + side % 2 for side in self.size))

    def _command(self) -> list[str]:
        command = [ffmpeg.ffmpeg_program(), "-hide_banner", "-v", "error", "-nostdin", "-y"]
        command += ["-f", "matroska", "-i", "pipe:0"]
        sound = ffmpeg.sound_track(self._audio_from) if self._audio_from else None
        if sound:
            command += ["-ss", f"{self._audio_start + sound.delay:.6f}"]
            command += ["-i", f"file:{self._audio_from}", "-map", "1:a:0", "-shortest"]
            command += ["-c:a", "copy" if sound.codec in COPYABLE_SOUND else "aac"]
        matrix, tag = ("bt709", "bt709") if self.size.height >= 720 else ("bt601", "smpte170m")
        command += ["-map", "0:v:0", "-fps_mode", "passthrough"]
        command += ["-enc_time_base", f"1:{TIMESCALE}", "-video_track_timescale", str(TIMESCALE)]
        command += ["-vf", f"scale=out_color_matrix={matrix}:out_range=tv,format=yuv420p"]
        command += ["-colorspace", tag, "-color_primaries", tag, "-color_trc", tag]
        command += ["-color_range", "tv", "-c:v", "libx264", "-preset", "veryfast", "-crf", "20"]
        return [*command, "-movflags", "+faststart", "-f", "mp4", f"file:{self._temporary}"]

    def _pipe(self, data: bytes | memoryview) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except BrokenPipeError:
            self._process.wait()
            raise self._failure() from None

    def _end_process(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        if kind is not None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if self._process.wait() != 0 and kind is None:
            raise self._failure()

    def _failure(self) -> VistoolError:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines() or ["no message"]
        return VistoolError(f"{self.path}: ffmpeg could not write the video: {lines[-1]}")


def _element(name: str, content: bytes) -> bytes:
    """An EBML element: its id in hex, its length in eight bytes, its content."""
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
        + _element("1549A966", _unsigned("2AD7B1", 1000))  # nanoseconds a tick
        + _element("1654AE6B", _element("AE", track))
    )  # fmt: skip


def _matroska_frame_header(ticks: int, duration: int, length: int) -> bytes:
    """What stands before a frame's bytes: a cluster of its own, so any time stamp will do."""
    block = bytes.fromhex("A1") + struct.pack(">Q", 1 << 56 | length + 4) + b"\x81\0\0\0"
    timing = _unsigned("9B", duration)
    group_length = len(timing) + len(block) + length
    group = bytes.fromhex("A0") + struct.pack(">Q", 1 << 56 | group_length) + timing + block
    stamp = _unsigned("E7", ticks)
    cluster_length = len(stamp) + len(group) + length
    return bytes.fromhex("1F43B675") + struct.pack(">Q", 1 << 56 | cluster_length) + stamp + group
