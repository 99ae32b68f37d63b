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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import IO, cast

import imageio_ffmpeg
import numpy as np

from vistool.errors import DataError, UsageError, VistoolError
from vistool.formats.limits import PIXELS
from vistool.formats.pictures import refuse_too_large
from vistool.structures import Size

TICKS = 1_000_000  # time units per second in the stream of decoded frames
# The decoding time of frame N is its whole seconds plus N units, since it must increase from frame
# to frame. The rest of its time is the offset of its display time.
SECONDS = f"floor(PTS/{TICKS})"
SPLIT_TIMES = f"setts=dts={SECONDS}+N:pts=PTS-{SECONDS}*{TICKS}+{SECONDS}+N:duration=1"
LONGEST_GAP = "1e9"  # seconds
HAS_OFFSET = 0x800  # flag of a fragment whose frame has such an offset
# Allowed formats: containers with their own pictures and sound. Others, such as playlists and
# manifests (hls, dash, concat), would let a file make ffmpeg read other files.
CONTAINERS = (
    *("aac", "apng", "asf", "av1", "avi", "avs3", "cine", "dhav", "dirac", "dnxhd", "dv", "flac"),
    *("flv", "gif", "gxf", "h261", "h263", "h264", "hevc", "hxvs", "ivf", "jpeg_pipe", "m4v"),
    *(
        "matroska",
        "mjpeg",
        "mov",
        "mp3",
        "mpeg",
        "mpegts",
        "mpegvideo",
        "mxf",
        "nut",
        "obu",
        "ogg",
        "rm",
    ),
    *("ser", "swf", "vc1", "vvc", "wav", "webp_anim", "wtv", "yuv4mpegpipe"),
)
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


def source(path: Path) -> list[str]:
    """The arguments with which ffmpeg reads a local file, and no other files that it names."""
    return [
        *("-protocol_whitelist", "file,pipe", "-format_whitelist", ",".join(CONTAINERS)),
        *("-i", file_name(path)),
    ]


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
class VideoStream:
    """A video stream of a file."""

    number: int  # among all streams of the file
    size: Size  # as coded; 0x0 if it is not stated
    is_default: bool


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """The properties stated in the headers of a file, which may be wrong if it is damaged."""

    fps: float | None  # nominal; None: not stated
    duration: float | None  # seconds; None: not stated
    picture_end: float | None  # seconds from the container's start; None: estimated or not stated
    stream: int  # number of the described video stream
    streams: tuple[VideoStream, ...]  # all video streams of the file
    rotation: int  # degrees clockwise that turn the picture upright
    pixel_aspect: Fraction  # pixel width divided by pixel height, in the upright picture
    sound: Sound | None


def media_info(path: Path, stream: int | None = None) -> MediaInfo:
    """Read the headers of a video file.

    Args: stream: number of the video stream; None: the one flagged as default, or else the largest.
    Raises: DataError with ffmpeg's reason if it is not a video; UsageError if it does not have this
        stream.
    """
    done = subprocess.run(
        [program(), "-hide_banner", "-nostdin", "-max_pixels", str(PIXELS.value), *source(path)],
        capture_output=True,
        check=False,
    )
    report = done.stderr.decode(errors="replace")
    if sides := re.search(r"Picture size (\d+)x(\d+) exceeds", report):
        refuse_too_large(Size(int(sides[2]), int(sides[1])), path)
    head, opened, facts = report.partition("Input #0, ")
    if not opened:
        reason = first_complaint(head) or f"ffmpeg ended with code {done.returncode}"
        if "not on whitelist" in reason:
            reason = "it is a kind of file that refers to other files"
        raise DataError(f"{path}: not a readable video: {reason}")
    # One line per stream, followed by lines with its other properties.
    parts = re.split(r"^ *Stream #0:(?=\d)", facts, flags=re.MULTILINE)
    streams = {int(_number(r"^(\d+)", part) or 0): part for part in parts[1:]}
    heads = {number: part.partition("\n")[0] for number, part in streams.items()}
    pictures = tuple(
        _video_stream(number, line)
        for number, line in heads.items()
        if " Video: " in line and "(attached pic)" not in line
    )
    sounds = [line for line in heads.values() if " Audio: " in line]
    if not pictures or facts.startswith("tty"):  # ffmpeg can render plain text as a video
        raise DataError(f"{path}: no video in this file" + (", only sound" if sounds else ""))
    chosen = _chosen(pictures, stream, path)
    picture, details = heads[chosen.number], streams[chosen.number]
    begin = _number(r", start ([-\d.]+)", picture) or 0.0
    container_begin = _number(r"Duration: [^,]*, start: ([-\d.]+)", facts) or 0.0
    codec = re.search(r" Audio: (\w+)", sounds[0]) if sounds else None
    rotation = round(-(_number(r"rotation of ([-\d.]+) degrees", details) or 0.0)) % 360
    duration = _clock(r"Duration: (\d+):(\d+):([\d.]+)", parts[0])
    end = _clock(r"DURATION +: (\d+):(\d+):([\d.]+)", details)
    if end is not None:
        end -= container_begin
    elif len(streams) == 1 and "Estimating duration" not in head:
        end = duration
    return MediaInfo(
        fps=_number(r" ([\d.]+) fps", picture) or _number(r" ([\d.]+) tbr", picture),
        duration=duration,
        picture_end=end,
        stream=chosen.number,
        streams=pictures,
        rotation=rotation,
        pixel_aspect=_pixel_aspect(picture, sideways=rotation % 180 == 90),
        sound=Sound(codec.group(1), begin - container_begin)
        if codec and codec.group(1) != "none"
        else None,
    )


def _video_stream(number: int, line: str) -> VideoStream:
    sides = re.search(r", (\d+)x(\d+)", line)
    size = Size(int(sides[2]), int(sides[1])) if sides else Size(0, 0)
    return VideoStream(number, size, "(default)" in line)


def _chosen(pictures: Sequence[VideoStream], wanted: int | None, path: Path) -> VideoStream:
    """The stream to read. Raises: UsageError if there is no stream of the wanted number."""
    if wanted is not None:
        for picture in pictures:
            if picture.number == wanted:
                return picture
        there = ", ".join(f"{p.number} ({p.size.width}x{p.size.height})" for p in pictures)
        raise UsageError(
            f"{path}: stream {wanted} is not a video in this file",
            hint=f"its video streams: {there}",
        )
    flagged = [picture for picture in pictures if picture.is_default]
    return max(flagged or pictures, key=lambda picture: picture.size.height * picture.size.width)


def _clock(pattern: str, text: str) -> float | None:
    """A time of hours, minutes and seconds in a text, in seconds; None if there is none."""
    match = re.search(pattern, text)
    if not match:
        return None
    hours, minutes, seconds = map(float, match.groups())
    return (hours * 60 + minutes) * 60 + seconds


def _pixel_aspect(stream: str, *, sideways: bool) -> Fraction:
    """The stated pixel aspect, else 1. The container's value is printed last and has priority."""
    stated = re.findall(r"\bSAR ([1-9]\d*):([1-9]\d*)", stream)
    aspect = Fraction(int(stated[-1][0]), int(stated[-1][1])) if stated else Fraction(1)
    return 1 / aspect if sideways else aspect


def _number(pattern: str, text: str) -> float | None:
    match = re.search(pattern, text)
    return float(match.group(1)) if match else None


class Decoder:
    """Decodes a video stream to upright RGB frames with ffmpeg; iterate once, then close.

    ffmpeg writes fragmented QuickTime to a pipe, the simplest of its containers with raw RGB and
    exact times: boxes that consist of a length, a name of four letters and the content. Its frames
    must not be more than 2**31 time units apart, here 36 minutes. Therefore every time is split
    into whole seconds in one field and the rest in another.
    """

    def __init__(self, path: Path, stream: int, *, only_first: bool = False) -> None:
        self._path = path
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [program(), "-v", "level+info", "-nostats", "-nostdin"]
            # by default, a gap of more than 30 hours is an error
            + ["-dts_error_threshold", LONGEST_GAP]
            + ["-max_pixels", str(PIXELS.value), *source(path)]
            + ["-map", f"0:{stream}", "-map_metadata", "-1"]  # a time code would become a track
            + (["-frames:v", "1"] if only_first else [])
            # every frame once and at its own time
            + ["-fps_mode", "passthrough", "-enc_time_base", f"1:{TICKS}"]
            + ["-c:v", "rawvideo", "-pix_fmt", "rgb24", "-bsf:v", SPLIT_TIMES, "-f", "mov"]
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
        size, time, number = (0, 0), 0.0, 0
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
                number += 1
                continue
            content = pipe.read(length)
            if kind == b"moov":
                at = content.index(b"stsd") + 44  # width and height of the sample description
                width, height = struct.unpack_from(">HH", content, at)
                size = (height, width)
            elif kind == b"moof":
                time = _joined_time(content, number)
        if self._process.wait() < 0:
            raise VistoolError(f"{self._path}: ffmpeg was stopped while decoding it")

    def complaints(self, *, doubts: bool = False) -> list[str]:
        """ffmpeg's error messages about the file, in order; at most those in MAX_LOG bytes.

        Args: doubts: also warnings about corrupt packets that it decodes.
        """
        wanted = re.compile(
            r"\[(error|fatal)\] " + (r"|\[warning\] .*\bcorrupt\b" if doubts else ""), re.IGNORECASE
        )
        said = (first_complaint(line) for line in self._log_lines() if wanted.search(line))
        return [text for text in said if text]

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


def _joined_time(moof: bytes, number: int) -> float:
    """The time of frame `number` in seconds, joined from the parts that SPLIT_TIMES made.

    Args: moof: the header of a fragment with this frame only.
    """
    at = moof.index(b"tfdt") + 4
    (seconds,) = struct.unpack_from(">Q" if moof[at] == 1 else ">I", moof, at + 4)
    (flags,) = struct.unpack_from(">I", moof, moof.index(b"trun") + 4)  # with the box's version
    (ticks,) = struct.unpack(">i", moof[-4:]) if flags & HAS_OFFSET else (0,)
    return float(seconds - number + ticks / TICKS)
