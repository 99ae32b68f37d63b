"""Decode, check and compare many run-length codes at once, as runs, with compiled loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numba
import numpy as np

from vistool.formats.masks.rle import MAX_CHARACTERS, most_pixels
from vistool.structures import RLE

Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled(loop: Loop) -> Loop:
    """Compile a function of arrays with numba; it runs without Python's global lock.

    The machine code is cached beside the source or in the user's cache folder. If neither can be
    written, each process compiles it again, in about a second.
    """
    try:
        return cast(Loop, numba.njit(nogil=True, cache=True)(loop))
    except RuntimeError:
        return cast(Loop, numba.njit(nogil=True)(loop))


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """The edges of N masks of one size, as pixel positions in column-major order.

    Mask n begins at edges[starts[n]] and ends before the next edge, and so on in pairs. A last edge
    without a partner is the end of the picture.
    """

    edges: np.ndarray  # [E] int32, of all masks
    starts: np.ndarray  # [N + 1] int64, positions in `edges`
    areas: np.ndarray  # [N] int64, pixels
    sound: np.ndarray  # [N] bool; False: malformed, its edges are meaningless

    def intersections(self, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """The shared pixels of all pairs of masks in the same row of `ours` and `theirs`.

        Args: ours: [F, P] int64, mask numbers, -1: no mask; theirs: [F, G], likewise.
        Returns: [F, P, G] int64.
        """
        shared = np.zeros((*ours.shape, theirs.shape[1]), np.int64)
        _intersect(self.edges, self.starts, ours, theirs, shared)
        return shared

    def boxes(self, height: int) -> np.ndarray:
        """Boxes [N, 4] int64: left, top, right, bottom in pixels, the last two exclusive; 0: empty.

        Args: height: of the masks.
        """
        boxes = np.zeros((len(self.areas), 4), np.int64)
        _bound(self.edges, self.starts, height, boxes)
        return boxes


def decode_runs(masks: Sequence[RLE]) -> Runs:
    """Decode masks of one `size`. They need not be valid: see `Runs.sound`."""
    counts = [mask["counts"] for mask in masks]
    ends = np.zeros(len(masks) + 1, np.int64)
    np.cumsum(list(map(len, counts)), out=ends[1:])
    try:
        text = "".join(counts)
    except TypeError:  # pycocotools returns bytes
        text = "".join(c if isinstance(c, str) else c.decode("latin-1") for c in counts)
    # Valid codes are ASCII. Other characters become one byte each, to keep positions right.
    codes = text.encode() if text.isascii() else bytes(min(ord(c), 255) for c in text)
    height, width = masks[0]["size"] if masks else (0, 0)
    edges = np.empty(len(codes), np.int32)
    starts = np.zeros(len(masks) + 1, np.int64)
    areas = np.zeros(len(masks), np.int64)
    sound = np.zeros(len(masks), np.bool_)
    if height > 0 and width > 0 and height * width <= most_pixels():
        characters = np.frombuffer(codes, np.uint8)
        _decode(characters, ends, height * width, edges, starts, areas, sound)
        sound &= np.diff(ends) <= MAX_CHARACTERS * (height * width + 1)  # not all empty runs
    return Runs(edges, starts, areas, sound)


@compiled
def _long_run(characters: np.ndarray, i: np.uint64, end: np.uint64) -> tuple[int, np.uint64, int]:
    """Decode a run of several characters; see `_runs` in rle.py for the format.

    Returns: the run, the start of the next one, and all bits combined; bit 6 is set if the run is
        cut off.
    """
    run, shift, seen, code = 0, 0, 0, 32
    while code & 32:
        if i == end or shift == 5 * MAX_CHARACTERS:
            return 0, i, 64
        code = int(characters[i]) - 48
        i += np.uint64(1)
        seen |= code
        run |= (code & 31) << shift
        shift += 5
    return run - ((code & 16) << (shift - 4)), i, seen


@compiled
def _decode(
    characters: np.ndarray,
    ends: np.ndarray,
    pixels: int,
    edges: np.ndarray,
    starts: np.ndarray,
    areas: np.ndarray,
    sound: np.ndarray,
) -> None:
    """Fill the last four arrays, those of `Runs`. There are no more edges than characters.

    From the fourth run on, the difference to the run two places before is stored. Background runs
    and object runs are therefore two separate series, without the first background run.
    """
    one, place = np.uint64(1), np.uint64(0)  # unsigned, so numba omits the check for negative ones
    for n in range(len(areas)):
        first = place
        starts[n] = first
        off, on, position, area = 0, 0, 0, 0
        shortest, seen = 0, 0
        i, end = np.uint64(ends[n]), np.uint64(ends[n + 1])
        while i < end:
            code = int(characters[i]) - 48
            if code & ~31 == 0:  # one character: five bits, the highest is the sign
                run = (code ^ 16) - 16
                i += one
            else:
                run, i, bits = _long_run(characters, i, end)
                seen |= bits
            off += run
            shortest |= off  # becomes negative if any run is
            position += off
            edges[place] = position
            place += one
            if place == first + one:
                off = 0
            if i == end:
                break
            code = int(characters[i]) - 48
            if code & ~31 == 0:
                run = (code ^ 16) - 16
                i += one
            else:
                run, i, bits = _long_run(characters, i, end)
                seen |= bits
            on += run
            shortest |= on
            area += on
            position += on
            edges[place] = position
            place += one
        areas[n] = area
        sound[n] = seen & ~63 == 0 and shortest >= 0 and position == pixels
    starts[-1] = place


@compiled
def _overlap(a: np.ndarray, b: np.ndarray) -> int:
    """Pixels that two masks share."""
    # Unsigned, so that numba omits the check for negative indices.
    one, two = np.uint64(1), np.uint64(2)
    i, j = np.uint64(0), np.uint64(0)
    end_a, end_b = np.uint64(len(a) // 2 * 2), np.uint64(len(b) // 2 * 2)
    if end_a == 0 or end_b == 0 or a[0] >= b[end_b - one] or b[0] >= a[end_a - one]:
        return 0
    while a[i + one] <= b[0]:
        i += two
    while b[j + one] <= a[0]:
        j += two
    pixels = 0
    while i < end_a and j < end_b:
        a_end, b_end = a[i + one], b[j + one]
        pixels += max(0, min(a_end, b_end) - max(a[i], b[j]))
        if a_end <= b_end:
            i += two
        else:
            j += two
    return pixels


@compiled
def _intersect(
    edges: np.ndarray, starts: np.ndarray, ours: np.ndarray, theirs: np.ndarray, shared: np.ndarray
) -> None:
    rows, width, others = shared.shape
    for row in range(rows):
        for p in range(width):
            a = ours[row, p]
            if a < 0:
                continue
            for g in range(others):
                b = theirs[row, g]
                if b >= 0:
                    shared[row, p, g] = _overlap(
                        edges[starts[a] : starts[a + 1]], edges[starts[b] : starts[b + 1]]
                    )


@compiled
def _bound(edges: np.ndarray, starts: np.ndarray, height: int, boxes: np.ndarray) -> None:
    for n in range(len(boxes)):
        left, right, top, bottom = -1, 0, height, 0
        for k in range(starts[n], starts[n + 1] - 1, 2):
            begin, end = int(edges[k]), int(edges[k + 1])
            if begin == end:
                continue
            column, last_column = begin // height, (end - 1) // height
            if left < 0:
                left = column
            right = last_column + 1
            if column != last_column:  # the run continues from one column to the next
                top, bottom = 0, height
            else:
                top = min(top, begin - column * height)
                bottom = max(bottom, end - column * height)
        if left >= 0:
            boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3] = left, top, right, bottom
