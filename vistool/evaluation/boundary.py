"""F, the boundary measure of DAVIS: how much of two boundaries lies near the other one.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR
2016. F frames, P predicted tracks and G labelled objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from pycocotools import mask as coco

from vistool.structures import RLE

TOLERANCE = 0.008  # of the picture's diagonal: how far apart two boundaries may be

Masks = Sequence[RLE | None]  # a track: one entry a frame


def boundary_measure(track: Masks, truth: Masks) -> np.ndarray:
    """F of every frame: [F] in [0, 1]; 1 where neither mask has a boundary.

    The harmonic mean of two shares: of the track's boundary near the true one, and of the true
    boundary near the track's. The masks have one size and are safe to decode (`validate_rle`);
    those of one frame are in memory at a time.
    """
    return np.array([_boundary_of_frame(*masks) for masks in zip(track, truth, strict=True)])


def boundary_bounds(tracks: Sequence[Masks], truth: Sequence[Masks]) -> np.ndarray:
    """The most that F can be, 0 or 1, from boxes alone: [F, P, G]."""
    sizes = [mask["size"] for track in (*tracks, *truth) for mask in track if mask is not None]
    height, width = sizes[0] if sizes else (0, 0)
    ours, theirs = _boxes(tracks)[:, :, None], _boxes(truth)[:, None]
    gaps = np.maximum(ours[..., :2] - theirs[..., 2:], theirs[..., :2] - ours[..., 2:]).max(-1)
    apart = gaps > _radius(height, width)  # never of an absent mask
    # A mask that is alone has a boundary that nothing matches, unless it fills the picture.
    alone = np.isnan(ours[..., 0]) ^ np.isnan(theirs[..., 0])
    picture = (0, 0, width, height)
    filling = (ours == picture).all(-1) | (theirs == picture).all(-1)
    return 1.0 - (apart | (alone & ~filling))


def _boxes(tracks: Sequence[Masks]) -> np.ndarray:
    """[F, N, 4] left, top, right, bottom in pixels; NaN where a mask is absent."""
    boxes = np.full((len(tracks[0]), len(tracks), 4), np.nan)
    for n, track in enumerate(tracks):
        present = [frame for frame, mask in enumerate(track) if mask is not None]
        found = coco.toBbox([track[frame] for frame in present]).reshape(-1, 4)
        found[:, 2:] += found[:, :2]
        found[(found[:, 2:] == found[:, :2]).any(axis=1)] = np.nan  # a mask without a pixel
        boxes[present, n] = found
    return boxes


def _radius(height: int, width: int) -> int:
    return int(np.ceil(TOLERANCE * np.linalg.norm((height, width))))


def _boundary_of_frame(mask: RLE | None, truth: RLE | None) -> float:
    masks = [m for m in (mask, truth) if m is not None]
    if not masks:
        return 1.0
    window = _window(masks)
    ours, theirs = _boundary(mask, window), _boundary(truth, window)
    num_ours, num_theirs = np.count_nonzero(ours), np.count_nonzero(theirs)
    if num_ours == 0 or num_theirs == 0:
        return float(num_ours == num_theirs)
    near = _disk(_radius(*masks[0]["size"]))
    precision = np.count_nonzero(ours & cv2.dilate(theirs, near)) / num_ours
    recall = np.count_nonzero(theirs & cv2.dilate(ours, near)) / num_theirs
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _window(masks: Sequence[RLE]) -> tuple[slice, slice]:
    """Columns and rows that hold the masks and their boundaries: one more on every side."""
    boxes = coco.toBbox(list(masks)).astype(int)
    left, top = np.maximum(0, boxes[:, :2].min(axis=0) - 1).tolist()
    height, width = masks[0]["size"]
    right, bottom = np.minimum((width, height), (boxes[:, :2] + boxes[:, 2:]).max(axis=0) + 1)
    return slice(left, right), slice(top, bottom)


def _boundary(mask: RLE | None, window: tuple[slice, slice]) -> np.ndarray:
    """Pixels that differ from the next one to the right, below, or below to the right: [w, h].

    Beyond its edge, the picture goes on as it ends. Columns come first, as run-length codes have
    them: the rule and the disk are the same with rows and columns swapped.
    """
    if mask is None:
        return np.zeros([side.stop - side.start for side in window], np.uint8)
    inside = np.ascontiguousarray(coco.decode(mask).T[window])
    on = cv2.copyMakeBorder(inside, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
    return (inside ^ on[1:, :-1]) | (inside ^ on[:-1, 1:]) | (inside ^ on[1:, 1:])


@cache
def _disk(radius: int) -> np.ndarray:
    across = np.arange(-radius, radius + 1)
    return (across[:, None] ** 2 + across**2 <= radius**2).astype(np.uint8)
