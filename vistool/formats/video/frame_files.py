"""Read frames stored as picture files or as the pages of a TIFF, converted to 8-bit colours.

Microscopes and depth cameras write 16-bit and float values and use a small part of their range.
Values are stretched: the lowest of the whole sequence becomes black, the highest white.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from vistool.errors import DataError
from vistool.formats.pictures import (
    UNREADABLE,
    open_picture,
    read_picture,
    refuse_too_large,
    tiff_pages,
)
from vistool.structures import Size

TIFF_SUFFIXES = (".tif", ".tiff")
BITS_PER_SAMPLE = 258  # a TIFF tag
GREY_MODES = ("I;16", "I;16B", "I;16L", "I", "F")  # Pillow's modes of more than 8 bits
Limits = tuple[float, float]  # the values that become black and white


def read_frame(files: Sequence[Path], index: int, *, cut_off: bool = False) -> np.ndarray:
    """One frame of a sequence, equal to that from a reader of the whole sequence.

    Args: cut_off: accept a JPEG that ends early.
    Returns: [H, W, 3] uint8 RGB.
    Raises: DataError as `read_picture`.
    """
    image = read_picture(files[index], deep=True, cut_off=cut_off)
    return image if image.dtype == np.uint8 else stretched(image, _limits_of(tuple(files)))


@lru_cache(maxsize=4096)
def _limits_of(files: tuple[Path, ...]) -> Limits:
    return FilePerFrame(files).limits()


def stretched(image: np.ndarray, limits: Limits) -> np.ndarray:
    """Map values between the limits to 0 to 255, uint8; values outside are clipped, NaN is 0."""
    low, high = limits
    shares = np.clip((image.astype(np.float64) - low) / ((high - low) or 1.0), 0, 1)
    return np.rint(np.nan_to_num(shares) * 255).astype(np.uint8)


class FramePictures(ABC):
    """The pictures of a sequence, in order, with the depth of their files."""

    place: Path  # the folder of the files
    names: tuple[str, ...]  # per frame: a file, or file#page with pages from 1

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """A frame [H, W, 3] RGB; the type is not uint8 if it has more bits. Raises: DataError."""

    @abstractmethod
    def close(self) -> None:
        """Close the file that is open between two pictures, if there is one."""

    def limits(self) -> Limits:
        """The lowest and the highest value of all pictures, which must have more than 8 bits.

        Raises: DataError if some have 8 bits and some have more.
        """
        low, high = np.inf, -np.inf
        for index, name in enumerate(self.names):
            picture = self.read(index)
            if picture.dtype == np.uint8:
                raise DataError(
                    f"{self.place / name}: has 8 bits, but others of its sequence have more",
                    hint="all frames of a video must have the same depth",
                )
            values = picture[np.isfinite(picture)]
            if values.size:
                low, high = min(low, float(values.min())), max(high, float(values.max()))
        return (low, high) if low <= high else (0.0, 0.0)


class FilePerFrame(FramePictures):
    """A file for every frame."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files, self.place = files, files[0].parent
        self.names = tuple(file.name for file in files)

    def read(self, index: int) -> np.ndarray:
        return read_picture(self.files[index], deep=True)

    def close(self) -> None:
        """Nothing is open."""


class Pages(FramePictures):
    """The pages of a TIFF, without the smaller copies that some programs add.

    Raises: DataError if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, path.parent
        self._pages = tiff_pages(path)
        self.names = tuple(f"{path.name}#{page + 1}" for page in self._pages)
        self._open = contextlib.ExitStack()
        self._image: Image.Image | None = None

    def read(self, index: int) -> np.ndarray:
        if self._image is None:  # kept open, since finding a page means reading those before it
            self._image = self._open.enter_context(open_picture(self.path))
        try:
            return self._page(self._image, self._pages[index])
        except BaseException:
            self.close()
            raise

    def _page(self, image: Image.Image, page: int) -> np.ndarray:
        where = f"{self.path}: page {page + 1}"
        try:
            image.seek(page)
            refuse_too_large(Size(image.height, image.width), where)
            if image.mode in GREY_MODES:
                return np.repeat(np.asarray(image)[..., None], 3, axis=2)
            bits = image.tag_v2.get(BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
            if max(bits) > 8:
                raise DataError(
                    f"{where}: colours of {max(bits)} bits",
                    hint="pages are read in grey, or in colours of 8 bits",
                )
            return np.asarray(image.convert("RGB"))
        except UNREADABLE as error:
            raise DataError(f"{where}: damaged, or not readable: {error}") from None

    def close(self) -> None:
        self._open.close()
        self._image = None
