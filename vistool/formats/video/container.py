"""Read the number of bytes and frames that a video file should have from its container."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

GIF_EXTENSION, GIF_IMAGE, GIF_END = b"!", b",", b";"
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
BOXES = frozenset(b"ftyp moov mdat moof mfra free skip wide uuid sidx styp meta pnot".split())
MAX_INDEX = 1 << 28  # bytes
MAX_FRAMES = 1 << 24
UNFIT = (OSError, struct.error, ValueError, LookupError)


@dataclass(frozen=True, slots=True)
class Stated:
    """The properties stated by a container; None: not stated."""

    length: int | None = None  # bytes
    times: np.ndarray | None = None  # [frames] seconds from the first frame, increasing
    end: float | None = None  # seconds
    has_end: bool | None = None  # whether there is an end marker; None: the format has none


def stated_by(path: Path, stream: int) -> Stated:
    """The properties stated by a file's container; none if it is damaged.

    The length is known for mp4, mov, Matroska, WebM and AVI files. The times are known for mp4 and
    mov files with an index and a simple edit list. A GIF has an end marker.

    Args: stream: number of the video stream in the file.
    """
    with contextlib.suppress(*UNFIT), path.open("rb") as file:
        start = file.read(12)
        file.seek(0)
        if start[4:8] in BOXES:
            return _of_boxes(file, stream)
        if start.startswith(EBML):
            return Stated(_matroska_length(file))
        if start.startswith(b"RIFF") and start.endswith(b"AVI "):
            return _of_avi(file)
        if start.startswith((b"GIF87a", b"GIF89a")):
            return Stated(has_end=_gif_ends(file))
    return Stated()


def _of_avi(file: BinaryIO) -> Stated:
    """Read an AVI file. Some writers count the 8 bytes of a part's header twice."""
    microseconds, frames = struct.unpack_from("<I12xI", file.read(52), 32)
    end = 0
    file.seek(0)
    while (head := file.read(8)).startswith(b"RIFF") and len(head) == 8:
        end += 8 + int.from_bytes(head[4:], "little")
        file.seek(end)
    return Stated(end - 8, end=frames * microseconds / 1e6 if frames else None)


def _gif_ends(file: BinaryIO) -> bool:
    """Is there an end marker after the blocks of a GIF?"""
    file.seek(10)
    with contextlib.suppress(IndexError):  # the file ends within a block
        _skip_colours(file, file.read(3)[0])
        while (kind := file.read(1)) in (GIF_EXTENSION, GIF_IMAGE):
            if kind == GIF_IMAGE:
                _skip_colours(file, file.read(9)[8])
            file.read(1)  # the kind of extension, or the code size
            while length := file.read(1)[0]:
                file.seek(length, 1)
        return kind == GIF_END
    return False


def _skip_colours(file: BinaryIO, flags: int) -> None:
    """Skip the colour table, if the flags state that there is one."""
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, 1)


def _matroska_length(file: BinaryIO) -> int | None:
    """The end of the segment; None if its length is unknown, as in live recordings."""
    file.seek(len(EBML))
    header, _ = _ebml_length(file)
    file.seek(header, 1)
    if file.read(len(SEGMENT)) != SEGMENT:
        return None
    length, known = _ebml_length(file)
    return file.tell() + length if known else None


def _ebml_length(file: BinaryIO) -> tuple[int, bool]:
    """A length of 1 to 8 bytes, and whether it is known: all bits set mean "unknown"."""
    first = file.read(1)
    if not first or not first[0]:
        raise ValueError("not an EBML length")
    more = 8 - first[0].bit_length()
    most = (1 << 7 * (more + 1)) - 1
    length = int.from_bytes(first + file.read(more), "big") & most
    return length, length != most


def _of_boxes(file: BinaryIO, stream: int) -> Stated:
    """Read an mp4 or mov file, whose boxes consist of length, name of four letters and content."""
    end, times = 0, None
    while len(head := file.read(8)) == 8 and head[4:] in BOXES:
        length, head_length = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, head_length = int.from_bytes(file.read(8), "big"), 16
        if length < head_length:  # 0: up to the end of the file
            break
        if head[4:] == b"moov" and length < MAX_INDEX:
            with contextlib.suppress(*UNFIT):
                times = _indexed_times(file.read(length - head_length), stream)
        end += length
        file.seek(end)
    return Stated(end, times)


def _indexed_times(moov: bytes, stream: int) -> np.ndarray | None:
    """The display times of a track's frames; None without a complete table."""
    tracks = [content for kind, content in _boxes(moov) if kind == b"trak"]
    track = tracks[stream]
    table = _inside(track, b"mdia", b"minf", b"stbl")
    parts = dict(_boxes(table))
    sizes = _sample_sizes(parts)
    decoded_at = _expanded(parts[b"stts"], len(sizes), "u4")
    if decoded_at is None:
        return None
    shown_at = np.cumsum(decoded_at) - decoded_at
    if b"ctts" in parts:
        offsets = _expanded(parts[b"ctts"], len(sizes), "i4")
        if offsets is None:
            return None
        shown_at += offsets
    ticks = _timescale(_inside(track, b"mdia", b"mdhd"))
    movie_ticks = _timescale(_inside(moov, b"mvhd"))
    shown_at = shown_at[sizes > 0]  # an empty frame repeats the one before
    begin, end = _edit(track, ticks / movie_ticks)
    shown_at = np.sort(shown_at[(shown_at >= begin) & (shown_at < end)])
    return (shown_at - shown_at[0]) / ticks if len(shown_at) else None


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if not 8 <= length <= len(content) - at:
            return
        yield kind, content[at + 8 : at + length]
        at += length


def _inside(content: bytes, *kinds: bytes) -> bytes:
    """The content of nested boxes of these kinds, the outermost first; the first of each kind."""
    for wanted in kinds:
        content = dict(reversed(list(_boxes(content))))[wanted]
    return content


def _timescale(header: bytes) -> int:
    """The time units per second in an mvhd or mdhd box."""
    (ticks,) = struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)
    if not ticks:
        raise ValueError("a time scale of 0")
    return int(ticks)


def _sample_sizes(parts: dict[bytes, bytes]) -> np.ndarray:
    """The bytes of every sample: [samples]."""
    content = parts[b"stsz"]
    size, count = struct.unpack_from(">II", content, 4)
    if count > MAX_FRAMES:
        raise ValueError(f"{count} frames")
    return np.full(count, size) if size else np.frombuffer(content, ">u4", count, 12)


def _expanded(content: bytes, samples: int, kind: str) -> np.ndarray | None:
    """A table of (count, value) as one value per sample; None if the number is another."""
    (rows,) = struct.unpack_from(">I", content, 4)
    table = np.frombuffer(content, np.dtype([("count", ">u4"), ("value", f">{kind}")]), rows, 8)
    if int(table["count"].sum(dtype=np.int64)) != samples:
        return None
    return np.repeat(table["value"].astype(np.int64), table["count"].astype(np.int64))


def _edit(track: bytes, ticks_of_movie: float) -> tuple[float, float]:
    """The start and end of the part of a track that is shown, in its time units.

    The end is one unit of the movie earlier, because lengths are rounded.

    Raises: ValueError for several parts, or one that is not shown at normal speed.
    """
    edits = [inner for kind, inner in _boxes(track) if kind == b"edts"]
    if not edits:
        return -np.inf, np.inf
    content = _inside(edits[0], b"elst")
    (count,) = struct.unpack_from(">I", content, 4)
    row = struct.Struct(">QqI" if content[0] == 1 else ">IiI")
    rows = [row.unpack_from(content, 8 + i * row.size) for i in range(min(count, 16))]
    parts = [(length, begin, rate) for length, begin, rate in rows if begin != -1]
    if len(parts) != 1 or parts[0][2] != 1 << 16:
        raise ValueError("several parts")
    length, begin, _ = parts[0]
    return begin, begin + (length - 1) * ticks_of_movie if length else np.inf
