"""Label pictures, whose pixels are object ids, as used by DAVIS and MOTS."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from vistool.annotations.dataset import AnnotatedVideo
from vistool.errors import DataError
from vistool.formats.files import atomic_path, numbered
from vistool.formats.masks.rle import area, decode_mask, encode_masks
from vistool.structures import RLE, Size

EXIF_ORIENTATION = 0x0112
SIDEWAYS = range(5, 9)  # orientations that exchange height and width
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


def read_label_map(path: Path) -> np.ndarray:
    """The ids [H, W] in a PNG file: palette indices, or grey values of 8 or 16 bits.

    Bright pixels of a colour picture (DAVIS 2016 has a few) get id 255, others 0.
    Raises: DataError.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "L", "1", "I", "I;16"):
                return np.asarray(image).astype(np.int64)
            return np.where(np.asarray(image.convert("L")) > 127, 255, 0)
    except UNREADABLE as error:
        raise DataError(f"{path}: not a readable label picture: {error}") from None


def write_label_map(path: Path, labels: np.ndarray, palette: Sequence[int] | None = None) -> None:
    """Write ids as PNG: as palette indices (up to 255), or without a palette as 16-bit grey."""
    image = Image.fromarray(labels.astype(np.uint16 if palette is None else np.uint8))
    if palette is not None:
        image.putpalette(palette)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def masks_of(labels: np.ndarray) -> dict[int, RLE]:
    """The mask of every id except 0."""
    ids = [int(id_) for id_ in np.unique(labels) if id_ != 0]
    masks = np.stack([labels == id_ for id_ in ids]) if ids else np.zeros((0, *labels.shape), bool)
    return dict(zip(ids, encode_masks(masks), strict=True))


def masks_of_file(path: Path) -> dict[int, RLE] | str:
    """The mask of every id in a label picture, or the message of the error that prevents it."""
    try:
        return masks_of(read_label_map(path))
    except DataError as error:
        return str(error)


def painted(masks: Iterable[tuple[int, RLE]], size: Size) -> tuple[np.ndarray, int]:
    """The ids [H, W] of masks drawn over each other, smaller masks over larger ones.

    Returns: also the number of pixels in more than one mask.
    """
    labels = np.zeros(size, np.uint16)
    overlapping = 0
    for id_, rle in sorted(masks, key=lambda item: -area(item[1])):
        mask = decode_mask(rle)
        overlapping += int((labels[mask] != 0).sum())
        labels[mask] = id_
    return labels, overlapping


def picture_size(path: Path) -> Size:
    """The size of a picture as displayed; only the file's header is read. Raises: DataError."""
    try:
        with Image.open(path) as image:
            sides = (image.height, image.width)
            return Size(*reversed(sides)) if orientation(image) in SIDEWAYS else Size(*sides)
    except UNREADABLE as error:
        raise DataError(f"{path}: not a readable picture: {error}") from None


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 if it is missing or invalid."""
    stated = image.getexif().get(EXIF_ORIENTATION, 1)
    return stated if stated in range(1, 9) else 1


def folder_names(videos: Sequence[AnnotatedVideo]) -> dict[int, str]:
    """A unique folder name per video id: its name with unusual characters replaced by `_`."""
    names: dict[int, str] = {}
    for video in videos:
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in video.name).strip(".")
        free = (name for name in numbered(plain or str(video.id)) if name not in names.values())
        names[video.id] = next(free)
    return names


def suffix_of(video: AnnotatedVideo) -> str:
    """The suffix of a video's picture files, `.jpg` if it has no files."""
    return PurePosixPath(video.file_names[0]).suffix if video.file_names else ".jpg"
