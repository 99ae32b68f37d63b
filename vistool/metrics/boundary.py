"""F, the boundary measure of DAVIS: the shares of two boundaries that lie near the other one.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR
2016. In shapes: F frames, P predicted tracks, G labelled objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from vistool.formats.masks.runs import Runs, compiled
from vistool.metrics.overlaps import decode_tracks
from vistool.structures import RLE

TOLERANCE = 0.008  # the largest distance of two boundaries, as a share of the frame's diagonal

Masks = Sequence[RLE | None]  # a track: one entry per frame


def boundary_measure(track: Masks, truth: Masks) -> np.ndarray:
    """F of every frame: [F] in [0, 1]; 1 where neither mask has a boundary.

    F is the harmonic mean of precision (the share of the track's boundary near the labelled one)
    and recall (the share of the labelled boundary near the track's). Frames are decoded one by
    one, and only the region that contains both masks.

    Raises: DataError if a mask is malformed or of another size than the first.
    """
    if len(track) != len(truth):
        raise ValueError(f"{len(track)} and {len(truth)} frames")
    runs, places, (height, width) = _decode([track, truth])
    values = np.ones(len(track))
    _measure(
        runs.edges,
        runs.starts,
        places,
        runs.boxes(height),
        np.array([height, width]),
        _nearby(_radius(height, width)),
        values,
    )
    return values


def boundary_bounds(tracks: Sequence[Masks], truth: Sequence[Masks]) -> np.ndarray:
    """Upper bounds of F, computed from boxes alone: [F, P, G], 0 or 1.

    Raises: DataError as `boundary_measure`.
    """
    runs, places, (height, width) = _decode([*tracks, *truth])
    boxes = np.vstack([runs.boxes(height), np.zeros((1, 4), np.int64)])[places]  # absent: -1
    ours, theirs = boxes[:, : len(tracks), None], boxes[:, None, len(tracks) :]
    gaps = np.maximum(ours[..., :2] - theirs[..., 2:], theirs[..., :2] - ours[..., 2:]).max(-1)
    there, truth_there = ours[..., 2] > 0, theirs[..., 2] > 0
    apart = there & truth_there & (gaps > _radius(height, width))
    # The boundary of a mask without a partner matches nothing, unless the mask fills the frame.
    picture = (0, 0, width, height)
    filling = (ours == picture).all(-1) | (theirs == picture).all(-1)
    return 1.0 - (apart | ((there ^ truth_there) & ~filling))


def _decode(tracks: Sequence[Masks]) -> tuple[Runs, np.ndarray, tuple[int, int]]:
    """The result of `decode_tracks`, and the height and width of the masks."""
    runs, places = decode_tracks(tracks, "two tracks")
    first = next((mask for track in tracks for mask in track if mask is not None), None)
    height, width = first["size"] if first else (0, 0)
    return runs, places, (height, width)


def _radius(height: int, width: int) -> int:
    return int(np.ceil(TOLERANCE * np.linalg.norm((height, width))))


@cache
def _nearby(radius: int) -> np.ndarray:
    """[N, 2] offsets of all pixels of a disk, the nearest first."""
    steps = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1).T
    distances = (steps**2).sum(axis=1)
    order = np.argsort(distances, kind="stable")
    return np.ascontiguousarray(steps[order][distances[order] <= radius**2])


@compiled
def _measure(
    edges: np.ndarray,
    starts: np.ndarray,
    places: np.ndarray,
    boxes: np.ndarray,
    size: np.ndarray,
    nearby: np.ndarray,
    values: np.ndarray,
) -> None:
    """Write F of every frame into `values` [F]; `places` [F, 2]: mask indices, -1 without mask."""
    height, width = size
    for frame in range(len(values)):
        # The region that contains both boundaries: one pixel more on every side.
        left, top, right, bottom = width, height, 0, 0
        for place in places[frame]:
            if place >= 0 and boxes[place, 2] > 0:
                left, top = min(left, boxes[place, 0] - 1), min(top, boxes[place, 1] - 1)
                right, bottom = max(right, boxes[place, 2] + 1), max(bottom, boxes[place, 3] + 1)
        if right == 0:
            continue  # two empty masks: 1
        left, top, right, bottom = max(0, left), max(0, top), min(width, right), min(height, bottom)
        boundaries = np.zeros((2, right - left, bottom - top), np.bool_)
        for which in range(2):
            place = places[frame, which]
            if place >= 0:
                runs = edges[starts[place] : starts[place + 1]]
                _trace(runs, height, left, top, boundaries[which])
        ours, theirs = boundaries.sum(axis=2).sum(axis=1)
        if ours == 0 or theirs == 0:
            values[frame] = 1.0 if ours == theirs else 0.0
            continue
        precision = _count_near(boundaries[0], boundaries[1], nearby) / ours
        recall = _count_near(boundaries[1], boundaries[0], nearby) / theirs
        both = precision + recall
        values[frame] = 2 * precision * recall / both if both > 0 else 0.0


@compiled
def _trace(runs: np.ndarray, height: int, left: int, top: int, boundary: np.ndarray) -> None:
    """Mark the pixels that differ from the next one to the right, below, or below to the right.

    Pixels at the edge are repeated beyond it. Columns come first, as in run-length codes.
    """
    columns, rows = boundary.shape
    inside = np.zeros((columns, rows), np.bool_)
    for k in range(0, len(runs) - 1, 2):
        begin, end = int(runs[k]), int(runs[k + 1])
        if begin == end:
            continue
        for column in range(begin // height, (end - 1) // height + 1):
            first = max(begin - column * height, 0) - top
            last = min(end - column * height, height) - top
            inside[column - left, first:last] = True
    for x in range(columns):
        beside = min(x + 1, columns - 1)
        for y in range(rows):
            below, here = min(y + 1, rows - 1), inside[x, y]
            boundary[x, y] = (
                here != inside[beside, y]
                or here != inside[x, below]
                or here != inside[beside, below]
            )


@compiled
def _count_near(ours: np.ndarray, theirs: np.ndarray, nearby: np.ndarray) -> int:
    """The number of marked pixels of `ours` that have one of `theirs` within the disk."""
    columns, rows = ours.shape
    count = 0
    for x in range(columns):
        for y in range(rows):
            if not ours[x, y]:
                continue
            for n in range(len(nearby)):
                u, v = x + nearby[n, 0], y + nearby[n, 1]
                if 0 <= u < columns and 0 <= v < rows and theirs[u, v]:
                    count += 1
                    break
    return count
