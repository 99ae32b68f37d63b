"""Read the headers of video files and decode their frames with the bundled ffmpeg program.

OpenCV's own decoder is not used: its wheel lacks AV1, stops at the first damaged packet, and gives
no time stamps for some containers. A crash of ffmpeg, a separate process, does not affect vistool.
"""

from __future__ import annotations

import io
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import IO, cast

import imageio_ffmpeg
import numpy as np

from vistool.errors import DataError, VistoolError
from vistool.structures import Size

TICKS = 1_000_000  # time stamp units per second in the stream of decoded frames
MAX_LOG = 1_000_000  # bytes of ffmpeg's messages that are read; a damaged file may cause more


@cache
def program() -> str:
    """The path of the ffmpeg program. Raises: VistoolError if there is none."""
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise VistoolError(
            f"no ffmpeg program: {error}".splitlines()[0],
            hint="install it, or set IMAGEIO_FFMPEG_EXE to its path",
        ) from None


def file_name(path: Path) -> str:
    """A name that ffmpeg cannot mistake for an option or for a protocol such as `concat:`."""
    return f"file:{path}"


def first_complaint(log: str) -> str:
    """The first error message in ffmpeg's output, without memory addresses; "" if none."""
    for line in log.splitlines():
        text = re.sub(r"^(\[[^\]]*\] )+", "", line).strip()
        if text and "misdetection possible" not in text:
            return text.removeprefix("Error opening input: ").rstrip(".")
    return ""


@dataclass(frozen=True, slots=True)
class Sound:
    """The first sound track of a file."""

    codec: str  # ffmpeg's name: "aac", "opus", "pcm_s16le"...
    picture_delay: float  # seconds from the container's start to the first video frame


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """The properties stated in the headers of a file, which may be wrong if it is damaged."""

    fps: float | None  # nominal; None: not stated
    duration: float | None  # seconds; None: not stated
    rotation: int  # degrees clockwise that turn the picture upright
    pixel_aspect: Fraction  # pixel width divided by pixel height, in the upright picture
    sound: Sound | None


def media_info(path: Path) -> MediaInfo:
    """Read the headers of a video file. Raises: DataError with ffmpeg's reason if it has none."""
    done = subprocess.run(
        [program(), "-hide_banner", "-nostdin", "-i", file_name(path)],
        capture_output=True,
        check=False,
    )
    report = done.stderr.decode(errors="replace")
    head, opened, facts = report.partition("Input #0, ")
    if not opened:
        reason = first_complaint(head) or f"ffmpeg ended with code {done.returncode}"
        raise DataError(f"{path}: not a readable video: {reason}")
    streams = re.findall(r"^ *Stream #0:\d+.*$", facts, re.MULTILINE)
    pictures = [line for line in streams if " Video: " in line and "(attached pic)" not in line]
    sounds = [line for line in streams if " Audio: " in line]
    if not pictures or facts.startswith("tty"):  # ffmpeg can render plain text as a video
        raise DataError(f"{path}: no video in this file" + (", only sound" if sounds else ""))
    begin = _number(r", start ([-\d.]+)", pictures[0]) or 0.0
    container_begin = _number(r"Duration: [^,]*, start: ([-\d.]+)", facts) or 0.0
    codec = re.search(r" Audio: (\w+)", sounds[0]) if sounds else None
    rotation = round(-(_number(r"rotation of ([-\d.]+) degrees", facts) or 0.0)) % 360
    clock = re.search(r"Duration: (\d+):(\d+):([\d.]+)", facts)
    hours, minutes, seconds = (float(x) for x in clock.groups()) if clock else (0.0, 0.0, 0.0)
    return MediaInfo(
        fps=_number(r" ([\d.]+) fps", pictures[0]) or _number(r" ([\d.]+) tbr", pictures[0]),
        duration=(hours * 60 + minutes) * 60 + seconds if clock else None,
        rotation=rotation,
        pixel_aspect=_pixel_aspect(pictures[0], sideways=rotation % 180 == 90),
        sound=Sound(codec.group(1), begin - container_begin)
        if codec and codec.group(1) != "none"
        else None,
    )


def _pixel_aspect(stream: str, *, sideways: bool) -> Fraction:
    """The stated pixel aspect, else 1. The container's value is printed last and has priority."""
    stated = re.findall(r"\bSAR ([1-9]\d*):([1-9]\d*)", stream)
    aspect = Fraction(int(stated[-1][0]), int(stated[-1][1])) if stated else Fraction(1)
    return 1 / aspect if sideways else aspect


def _number(pattern: str, text: str) -> float | None:
    match = re.search(pattern, text)
    return float(match.group(1)) if match else None


class Decoder:
    """Decodes one file to upright RGB frames with ffmpeg; iterate once, then close.

    ffmpeg writes fragmented QuickTime to a pipe, the simplest of its containers with raw RGB and
    exact times: boxes that consist of a length, a name of four letters and the content.
    """

    def __init__(self, path: Path, *, only_first: bool = False) -> None:
        self._path = path
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [program(), "-v", "level+info", "-nostats", "-nostdin", "-i", file_name(path)]
            + ["-map", "0:V:0", "-map_metadata", "-1"]  # a time code would become a track
            + (["-frames:v", "1"] if only_first else [])
            # every frame once and at its own time
            + ["-fps_mode", "passthrough", "-enc_time_base", f"1:{TICKS}"]
            + ["-c:v", "rawvideo", "-pix_fmt", "rgb24", "-f", "mov"]
            + ["-movflags", "frag_every_frame+empty_moov+default_base_moof"]
            + ["-video_track_timescale", str(TICKS), "pipe:1"],
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C must not reach ffmpeg, which would end normally
        )

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Time stamps in seconds from the container's start, and [H, W, 3] uint8 images.

        Raises: VistoolError if ffmpeg was killed, by the system or by `close`.
        """
        pipe = cast("io.BufferedReader", self._process.stdout)
        size, time = (0, 0), 0.0
        while len(head := pipe.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            length -= 8
            if kind == b"mdat":
                pixels = np.empty(length, np.uint8)
                if pipe.readinto(pixels.data) < length:
                    break
                height, width = size  # QuickTime pads a row to an even number of bytes
                rows = pixels.reshape(height, -1)[:, : 3 * width]
                yield time, np.ascontiguousarray(rows).reshape(height, width, 3)
                continue
            content = pipe.read(length)
            if kind == b"moov":
                at = content.index(b"stsd") + 44  # width and height of the sample description
                width, height = struct.unpack_from(">HH", content, at)
                size = (height, width)
            elif kind == b"moof":
                at = content.index(b"tfdt") + 4
                wide = content[at] == 1
                (ticks,) = struct.unpack_from(">Q" if wide else ">I", content, at + 4)
                time = ticks / TICKS
        if self._process.wait() < 0:
            raise VistoolError(f"{self._path}: ffmpeg was stopped while decoding it")

    def complaint(self) -> str:
        """ffmpeg's first error message about the file; "" if there is none."""
        lines = [line for line in self._log_lines() if re.search(r"\[(error|fatal)\] ", line)]
        return first_complaint("\n".join(lines))

    def other_sizes(self, size: Size) -> list[Size]:
        """The sizes of later frames that differ from the first one; they were scaled to it."""
        found = [
            re.search(r"video parameters changed to .*?(\d+)x(\d+)", line)
            for line in self._log_lines()
        ]
        sizes = [Size(int(match[2]), int(match[1])) for match in found if match]
        return [other for other in sizes if sorted(other) != sorted(size)]  # it may be rotated

    def _log_lines(self) -> list[str]:
        self._log.seek(0)
        return self._log.read(MAX_LOG).decode(errors="replace").splitlines()

    def close(self) -> None:
        """Stop ffmpeg if it still runs; may be called more than once."""
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()
