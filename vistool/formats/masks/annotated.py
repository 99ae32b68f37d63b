"""Convert the masks of annotation files to compressed run-length codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from vistool.formats.masks.rle import MAX_PIXELS, most_pixels, rle_fault
from vistool.structures import RLE, Size

Outlines = tuple[tuple[np.ndarray, ...] | None, ...]  # polygons on each frame, [P, 2] x, y


class MaskError(Exception):
    """A problem with a mask; the caller adds the place in the file."""

    def __init__(self, what: str, kind: str = "malformed-mask") -> None:
        super().__init__(what)
        self.kind = kind


def to_rle(segmentation: Any, size: Size) -> RLE | None:
    """The mask of a picture of `size` as a run-length code that is safe to decode.

    Args: segmentation: null; `{size, counts}` with counts as a string or as a list of runs; or a
        list of polygons, each x, y, x, y...
    Returns: None for null and for an empty list. Raises: MaskError.
    """
    if segmentation is None or segmentation == []:
        return None
    if min(size) < 1 or size.height * size.width > most_pixels():
        raise MaskError(f"a mask of {size.width}x{size.height} pixels")
    if isinstance(segmentation, list):
        return _from_polygons(segmentation, size)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise MaskError(
            f"a {type(segmentation).__name__} that is not a mask: neither null, nor size and "
            "counts, nor polygons"
        )
    return check_rle(_compressed(segmentation, size), size)


def check_rle(segmentation: dict[str, Any], size: Size) -> RLE:
    """Check a compressed run-length code and return it unchanged. Raises: MaskError."""
    stated, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(stated, list) or [type(side) for side in stated] != [int, int]:
        raise MaskError(f"size {stated!r} is not [height, width]", "mask-size")
    if not isinstance(counts, str):
        raise MaskError(f"counts are a {type(counts).__name__}, not a string")
    rle = RLE(size=stated, counts=counts)
    fault = rle_fault(rle, size)
    if fault:
        raise MaskError(fault, "malformed-mask" if stated == list(size) else "mask-size")
    return rle


def _compressed(segmentation: dict[str, Any], size: Size) -> dict[str, Any]:
    """The segmentation with counts as a string, if they are a list of runs for `size`."""
    runs = segmentation["counts"]
    if not isinstance(runs, list) or segmentation["size"] != list(size):
        return segmentation
    if not all(type(run) is int and 0 <= run <= MAX_PIXELS for run in runs):
        raise MaskError("malformed mask, a run that is not a count of pixels")
    if sum(runs) != size.height * size.width:
        raise MaskError(
            f"malformed mask, runs of {sum(runs)} pixels in all, not {size.height * size.width}"
        )
    code = coco.frPyObjects({"size": list(size), "counts": runs}, *size)
    return {"size": list(size), "counts": code["counts"].decode("ascii")}


def _from_polygons(polygons: list[Any], size: Size) -> RLE:
    for polygon in polygons:
        if isinstance(polygon, list) and polygon and isinstance(polygon[0], list):
            raise MaskError("a polygon as a list of points, [[x, y], ...], not x, y, x, y, ...")
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            length = len(polygon) if isinstance(polygon, list) else 0
            raise MaskError(f"a polygon of {length} numbers, not x, y of three or more points")
        for position, value in enumerate(polygon):
            side = size.height if position % 2 else size.width
            # Time and memory grow with the length of the outline, so it must be limited.
            number = type(value) in (int, float) and math.isfinite(value)
            if not number or not -side <= value <= 2 * side:
                raise MaskError(
                    f"a polygon point at {value!r}, far from a picture of "
                    f"{size.width}x{size.height}"
                )
    code = coco.merge(coco.frPyObjects(polygons, *size))
    return RLE(size=list(size), counts=code["counts"].decode("ascii"))


def outlines_of(segmentations: Sequence[Any], masks: Sequence[RLE | None]) -> Outlines:
    """The polygons of every frame; None where the segmentation is not a list of polygons.

    Args: masks: the results of `to_rle` for the segmentations.
    """
    return tuple(
        tuple(np.array(polygon, np.float64).reshape(-1, 2) for polygon in stated)
        if mask is not None and isinstance(stated, list)
        else None
        for stated, mask in zip(segmentations, masks, strict=True)
    )
