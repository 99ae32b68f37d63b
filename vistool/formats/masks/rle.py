"""Masks as compressed COCO run-length code, checked before any C code sees them."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from vistool.errors import DataError
from vistool.structures import RLE, Size

MAX_PIXELS = 1 << 28  # 16,384 x 16,384; a mask that claims more is not decoded
MAX_CHARACTERS = 6  # of one run: 30 bits, sign included, hold MAX_PIXELS


def encode_mask(mask: np.ndarray) -> RLE:
    """[H, W] bool -> its run-length code."""
    return encode_masks(mask[None])[0]


def encode_masks(masks: np.ndarray) -> list[RLE]:
    """[N, H, W] bool -> N run-length codes."""
    if len(masks) == 0:
        return []
    # column-major [H, W, N] is pycocotools' layout; both copies happen in one step here
    columns = np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8)
    return [
        RLE(size=[int(side) for side in code["size"]], counts=code["counts"].decode("ascii"))
        for code in coco.encode(columns)
    ]


def encode_runs(runs: np.ndarray, size: Size) -> RLE:
    """[R, 2] where the runs of a mask begin and end, as positions in column order -> its code."""
    pixels = size.height * size.width
    lengths = np.diff(runs.ravel(), prepend=0, append=pixels)
    if runs[-1, 1] == pixels:
        lengths = lengths[:-1]  # no run of nothing at the end, as `encode_masks` has none
    code = coco.frPyObjects({"size": list(size), "counts": lengths.tolist()}, *size)
    return RLE(size=list(size), counts=code["counts"].decode("ascii"))


def decode_mask(rle: RLE) -> np.ndarray:
    """The [H, W] bool mask of a run-length code that was validated or made here.

    >>> vistool.decode_mask({"size": [2, 3], "counts": "231"}).astype(int)
    array([[0, 1, 1],
           [0, 1, 0]])
    """
    return np.ascontiguousarray(coco.decode(rle)).astype(bool)


def decode_columns(rle: RLE) -> np.ndarray:
    """[W, H] uint8: the transpose of the mask, as it is stored, for those in a hurry."""
    return np.asarray(coco.decode(rle)).T


def area(rle: RLE) -> int:
    """Number of pixels inside, without decoding the mask."""
    return int(coco.area(rle))


def bounding_box(rle: RLE) -> tuple[int, int, int, int]:
    """Left, top, width and height of what is inside, in pixels; zeros for an empty mask."""
    left, top, width, height = (int(x) for x in coco.toBbox(rle))
    return left, top, width, height


def validate_rle(rle: RLE, size: Size, where: str) -> None:
    """Check a run-length code from outside; one that passes is safe to decode.

    Raises: DataError that begins with `where`.
    """
    fault = rle_fault(rle, size)
    if fault:
        other_size = tuple(rle["size"]) != tuple(size)
        raise DataError(f"{where}: {fault}", hint="size is [height, width]" if other_size else "")


def rle_fault(rle: RLE, size: Size) -> str:
    """What is wrong with a run-length code from outside; empty if it is safe to decode.

    pycocotools believes what it is told and writes past its buffer, so this comes first. The mask
    is not decoded: the work and the memory go with the length of `counts`.
    """
    if tuple(rle["size"]) != tuple(size):
        return f"a mask of size {rle['size']}, expected [{size.height}, {size.width}]"
    pixels = size.height * size.width
    if min(size) < 1 or pixels > MAX_PIXELS:
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
    """[R] int64: the lengths of the runs, off and on in turn, from a compressed string.

    A character holds six bits above "0": five of the number, lowest first, and one that says
    that more follow. From the fourth number on, the difference to the last but one is stored.

    Raises: ValueError with what is wrong.
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
