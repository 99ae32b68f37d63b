"""Read pictures from files of unknown origin, with a limit on their size.

OpenCV gets bytes instead of a name, since some names crash it, and only after the size in the
picture's header has been checked.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from vistool.errors import DataError
from vistool.formats.limits import PIXELS
from vistool.structures import Size

# OpenCV prints its complaints about a picture to stderr; vistool raises an error instead.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# What Pillow raises for damage; a warning, where warnings are errors.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, UserWarning),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
EXIF_ORIENTATION = 0x0112
SIDEWAYS = range(5, 9)  # orientations that exchange height and width
BYTES_PER_PIXEL = 8  # for 16-bit colours with alpha; a limit for the size of a file
# Only these of Pillow's formats, because some others start a program.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
JPEG_MARKER = re.compile(rb"\xff[^\xff\0]", re.DOTALL)
JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of a frame header
JPEG_BARE = frozenset(range(0xD0, 0xD8)) | {0x01}  # markers without content
WEBP_SIGNATURE = b"WEBPVP8"  # after the length
TIFF_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
TIFF_WIDTHS, TIFF_HEIGHTS = (256, 322), (257, 323)  # tags of a picture and of its tiles
TIFF_NEW_KIND, TIFF_OTHER = 254, 0b101  # a tag, and its bits for a smaller copy and for a mask
TIFF_KIND, TIFF_REDUCED = 255, 2  # the older tag, and its value for a smaller copy
TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of a tag's value
MAX_TAGS, MAX_MARKERS = 1 << 12, 1 << 16  # files with more are treated as damaged

_pillow = threading.Lock()


def read_picture(
    path: Path, *, grey: bool = False, deep: bool = False, cut_off: bool = False
) -> np.ndarray:
    """Read a picture as displayed, turned by its EXIF orientation.

    Args:
        grey: as grey values.
        deep: keep values of more than 8 bits and floats; refuse a file of several pages.
        cut_off: accept a JPEG that ends early, with grey for the missing part.

    Returns: [H, W, 3] uint8 RGB, or [H, W] uint8 if `grey`.
    Raises: DataError for a file that is missing, not regular, damaged, or larger than the limit.
    """
    data = picture_bytes(path)
    if data.startswith(PNG_SIGNATURE) and not _png_is_whole(data):
        raise _damaged(path)  # OpenCV's PNG reader would print messages about it
    if cut_off and data.startswith(JPEG_SIGNATURE):
        data += JPEG_END
    if deep and data[:4] in TIFF_BYTE_ORDERS and len(_pages(io.BytesIO(data), path)) > 1:
        raise DataError(
            f"{path}: has several pages, but is one frame of a folder",
            hint="a TIFF of several pages is a video itself: give the file",
        )
    image = _decoded(data, path, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR, deep=deep)
    if image is None:
        raise _damaged(path)
    return image if grey else np.ascontiguousarray(image[..., ::-1])


def _decoded(data: bytes, path: Path, flags: int, *, deep: bool) -> np.ndarray | None:
    """The pixels [H, W, 3] blue, green, red, or [H, W]; None if it fails. Raises: DataError."""
    code = np.frombuffer(data, np.uint8)
    try:
        if not deep:
            return cv2.imdecode(code, flags)
        image = cv2.imdecode(code, flags | cv2.IMREAD_ANYDEPTH)
        if image is None and data[:4] in TIFF_BYTE_ORDERS:  # floats, and integers of 32 bits
            image = cv2.imdecode(code, cv2.IMREAD_UNCHANGED)
            return None if image is None else _three_channels(image)
        return image
    except cv2.error as error:
        raise DataError(f"{path}: cannot be read: {str(error).strip()}") from None


def _three_channels(image: np.ndarray) -> np.ndarray:
    """Pixels as [H, W, 3]. Args: image: [H, W] or [H, W, channels]; transparency is dropped."""
    channels = np.atleast_3d(image)
    kept = channels[..., :3] if channels.shape[2] > 2 else channels[..., :1]
    return np.broadcast_to(kept, (*kept.shape[:2], 3))


def picture_bytes(path: Path) -> bytes:
    """The bytes of a picture file, after a check of the size in its header.

    Raises: DataError as `read_picture`.
    """
    with open_regular(path) as file:
        _stored_size(path, file)
        file.seek(0)
        return file.read()


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture with Pillow, without reading its pixels yet.

    Raises: DataError as `read_picture`, also for Pillow's errors while the picture is used.
    """
    with open_regular(path) as file:
        _stored_size(path, file)
        try:
            with _header(file) as image:
                refuse_too_large(Size(image.height, image.width), path)
                yield image
        except UNREADABLE as error:
            raise DataError(f"{path}: not a readable picture: {error}") from None


def displayed_size(path: Path) -> Size:
    """The size of a picture as displayed, from its header. Raises: DataError as `read_picture`."""
    with open_picture(path) as image:
        sides = (image.height, image.width)
        return Size(*reversed(sides)) if orientation(image) in SIDEWAYS else Size(*sides)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 if it is missing or invalid."""
    stated = image.getexif().get(EXIF_ORIENTATION, 1)
    return stated if stated in range(1, 9) else 1


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a picture file. Raises: DataError if it is not a regular file or is too large."""
    try:
        # Without waiting for the writer, if the file is a pipe.
        flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        number = os.open(path, os.O_RDONLY | flags)
        with os.fdopen(number, "rb") as file:
            about = os.fstat(number)
            if not stat.S_ISREG(about.st_mode):
                raise DataError(f"{path}: not a regular file")
            if about.st_size > BYTES_PER_PIXEL * PIXELS.value:
                what = f"{about.st_size} bytes are too many for a picture"
                raise DataError(f"{path}: {what}", hint=PIXELS.hint)
            yield file
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: an impossible name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: cannot be read: {reason}") from None


def tiff_pages(path: Path) -> list[int]:
    """The numbers, from 0, of a TIFF's pages, without smaller copies and masks of other pages.

    Returns: [0] for other formats. Raises: DataError if the file is cut off.
    """
    with open_regular(path) as file:
        return _pages(file, path) if file.read(4) in TIFF_BYTE_ORDERS else [0]


def refuse_too_large(size: Size, where: object) -> None:
    """Raises: DataError that begins with `where` if there are more pixels than the limit."""
    if size.height * size.width > PIXELS.value:
        raise DataError(
            f"{where}: {size.width}x{size.height} are too many pixels", hint=PIXELS.hint
        )


def _damaged(path: Path) -> DataError:
    return DataError(f"{path}: damaged, or no picture that can be read")


def _stored_size(path: Path, file: BinaryIO) -> None:
    """Check the size in a picture's header. Raises: DataError if it is missing or too large."""
    start = file.read(16)
    file.seek(0)
    try:
        if start.startswith(JPEG_SIGNATURE):
            size = _jpeg_size(file)
        elif start[:4] in TIFF_BYTE_ORDERS:  # Pillow does not read all kinds
            size = _tiff_size(file)
        elif start.startswith(b"RIFF") and start[8:15] == WEBP_SIGNATURE:
            size = _webp_size(file)  # Pillow would begin to decode it
        else:
            with _header(file) as image:
                size = Size(image.height, image.width)
    except (*UNREADABLE, OverflowError):
        raise _damaged(path) from None
    refuse_too_large(size, path)


@contextmanager
def _header(file: BinaryIO) -> Iterator[Image.Image]:
    """Read a picture's header with Pillow; Pillow's own limit on the size is switched off."""
    file.seek(0)
    with _pillow:
        own, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = own
    with image:
        yield image


def _jpeg_size(file: BinaryIO) -> Size:
    """The size in the first frame header.

    Raises: ValueError if there is no header, struct.error if the file is cut off.
    """
    data = file.read()
    at = 2
    for _ in range(MAX_MARKERS):
        marker = JPEG_MARKER.search(data, at)  # skips other bytes, as the decoder does
        if marker is None:
            break
        at, code = marker.end(), marker[0][-1]
        if code in JPEG_SIZES:
            return Size(*struct.unpack_from(">HH", data, at + 3))
        if code not in JPEG_BARE:
            at += max(2, *struct.unpack_from(">H", data, at))
    raise ValueError("no frame header")


def _tiff_size(file: BinaryIO) -> Size:
    """The larger of the sizes of the first picture and of its tiles.

    Raises: struct.error if the file is cut off.
    """
    tags: dict[int, int] = next(_tiff_directories(file), {})
    heights, widths = ([tags.get(tag, 0) for tag in both] for both in (TIFF_HEIGHTS, TIFF_WIDTHS))
    return Size(max(heights), max(widths))


def _pages(file: BinaryIO, path: Path) -> list[int]:
    """`tiff_pages` of an open file."""
    try:
        pages = [
            number
            for number, tags in enumerate(_tiff_directories(file))
            if not tags.get(TIFF_NEW_KIND, 0) & TIFF_OTHER and tags.get(TIFF_KIND) != TIFF_REDUCED
        ]
    except (struct.error, ValueError, OverflowError):
        raise _damaged(path) from None
    return pages or [0]


def _tiff_directories(file: BinaryIO) -> Iterator[dict[int, int]]:
    """The tags with a single number, for every page.

    Raises: struct.error if the file is cut off, ValueError for other damage.
    """
    file.seek(0)
    start = file.read(4)
    order, big = TIFF_BYTE_ORDERS[start], start[2:3] == b"+" or start[3:] == b"+"
    offset, count, entry, inline = ("Q", "Q", 20, 12) if big else ("I", "H", 12, 8)
    file.seek(8 if big else 4)
    places: set[int] = set()
    while place := struct.unpack(order + offset, file.read(struct.calcsize(offset)))[0]:
        if place in places:
            raise ValueError("pages in a circle")
        places.add(place)
        file.seek(place)
        (number,) = struct.unpack(order + count, file.read(struct.calcsize(count)))
        if number > MAX_TAGS:
            raise ValueError(f"{number} tags")
        tags: dict[int, int] = {}
        for _ in range(number):
            content = file.read(entry)
            tag, kind = struct.unpack_from(order + "HH", content)
            if kind in TIFF_NUMBERS:
                (value,) = struct.unpack_from(order + TIFF_NUMBERS[kind], content, inline)
                tags[tag] = max(value, tags.get(tag, 0))  # of a tag that is there twice
        yield tags


def _webp_size(file: BinaryIO) -> Size:
    """The size of the canvas. Raises: struct.error if the file is cut off."""
    start = file.read(30)
    if start[15:16] == b"X":
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
    elif start[15:16] == b"L":
        (bits,) = struct.unpack_from("<I", start, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", start, 26))
    return Size(height, width)


def _png_is_whole(data: bytes) -> bool:
    """True if every chunk up to the end marker is present and has a correct checksum."""
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
