"""Encode, decode and check masks as compressed COCO run-length codes."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from vistool.errors import DataError
from vistool.formats.limits import PIXELS
from vistool.structures import RLE, Size

MAX_PIXELS = 1 << 28  # 16,384 x 16,384; the codes reach no further
MAX_CHARACTERS = 6  # per run: 30 bits with the sign, enough for MAX_PIXELS


def most_pixels() -> int:
    """How many pixels a mask from outside may have."""
    return min(MAX_PIXELS, PIXELS.value)


def encode_mask(mask: np.ndarray) -> RLE:
    """The run-length code of a mask [H, W] bool."""
    return encode_masks(mask[None])[0]


def encode_masks(masks: np.ndarray) -> list[RLE]:
    """The run-length codes of N masks [N, H, W] bool."""
    if len(masks) == 0:
        return []
    # pycocotools takes column-major [H, W, N]; this reorders and converts in one copy
    columns = np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8)
    return [
        RLE(size=[int(side) for side in code["size"]], counts=code["counts"].decode("ascii"))
        for code in coco.encode(columns)
    ]


def encode_runs(runs: np.ndarray, size: Size) -> RLE:
    """The run-length code of a mask given by its runs.

    Args: runs: [R, 2], increasing: start and end of each, as pixel positions in column-major order.
    """
    pixels = size.height * size.width
    lengths = np.diff(runs.ravel(), prepend=0, append=pixels)
    if runs[-1, 1] == pixels:
        lengths = lengths[:-1]  # no empty run at the end, as in `encode_masks`
    code = coco.frPyObjects({"size": list(size), "counts": lengths.tolist()}, *size)
    return RLE(size=list(size), counts=code["counts"].decode("ascii"))


def decode_mask(rle: RLE) -> np.ndarray:
    """The mask [H, W] bool of a run-length code that was validated or encoded here.

    >>> vistool.decode_mask({"size": [2, 3], "counts": "231"}).astype(int)
    array([[0, 1, 1],
           [0, 1, 0]])
    """
    return np.ascontiguousarray(coco.decode(rle)).astype(bool)


def decode_columns(rle: RLE) -> np.ndarray:
    """The transposed mask [W, H] uint8, faster than `decode_mask` because it is not reordered."""
    return np.asarray(coco.decode(rle)).T


def area(rle: RLE) -> int:
    """The number of pixels in the mask, computed without decoding it."""
    return int(coco.area(rle))


def bounding_box(rle: RLE) -> tuple[int, int, int, int]:
    """Left, top, width and height of the mask in pixels; zeros for an empty mask."""
    left, top, width, height = (int(x) for x in coco.toBbox(rle))
    return left, top, width, height


def validate_rle(rle: RLE, size: Size, where: str) -> None:
    """Check that a run-length code from a file is safe to decode.

    Raises: DataError that begins with `where`.
    """
    fault = rle_fault(rle, size)
    if fault:
        other_size = tuple(rle["size"]) != tuple(size)
        raise DataError(f"{where}: {fault}", hint="size is [height, width]" if other_size else "")


def rle_fault(rle: RLE, size: Size) -> str:
    """A message about the error in a run-length code from a file; "" if it is safe to decode.

    pycocotools does not check its input and writes past its buffer for a wrong code. This check
    does not decode the mask: time and memory grow with the length of `counts`.
    """
    if tuple(rle["size"]) != tuple(size):
        return f"a mask of size {rle['size']}, expected [{size.height}, {size.width}]"
    pixels = size.height * size.width
    if min(size) < 1 or pixels > most_pixels():
        return f"a mask of {size.width}x{size.height} pixels"
    if len(rle["counts"]) > MAX_CHARACTERS * (pixels + 1):
        return "malformed mask, more runs than pixels"
    try:
        runs = _runs(rle["counts"])
    except ValueError as error:
        return f"malformed mask, {error}"
    if runs.min(initial=0) < 0:
        return f"malformed mask, a run of {runs.min()} pixels"
    if runs.sum() != pixels:
        return f"malformed mask, runs of {runs.sum()} pixels in all, not {pixels}"
    return ""


def _runs(counts: str) -> np.ndarray:
    """The lengths of the runs, background and object in turn, from a compressed string: [R] int64.

    A character minus "0" has six bits: five bits of the number, lowest first, and a bit that is set
    if more characters follow. From the fourth number on, the difference to the number two places
    before is stored.

    Raises: ValueError with the reason.
    """
    codes = np.frombuffer(counts.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63:
        raise ValueError("characters that no run-length code has")
    ends = np.flatnonzero(codes < 32)
    if len(ends) == 0 or ends[-1] != len(codes) - 1:
        raise ValueError("the last run is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > MAX_CHARACTERS:
        raise ValueError("a run longer than any picture")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, np.int64(1) << 5 * lengths, 0)  # the highest bit is a sign
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
