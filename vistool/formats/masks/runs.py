"""Many run-length codes at once, by compiled loops: decoded, checked and compared as runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numba
import numpy as np

from vistool.formats.masks.rle import MAX_CHARACTERS, MAX_PIXELS
from vistool.structures import RLE

Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled(loop: Loop) -> Loop:
    """Let numba compile a function of arrays; other threads run while it does.

    The machine code is kept beside the source or in the user's cache folder. Where neither can be
    written, it is made anew in every process, in about a second.
    """
    try:
        return cast(Loop, numba.njit(nogil=True, cache=True)(loop))
    except RuntimeError:
        return cast(Loop, numba.njit(nogil=True)(loop))


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """N masks of one size: where each begins and ends to be on, as positions in column order.

    Mask n is on from edges[starts[n]] up to, not including, the edge after it, and so on in pairs;
    a last edge without a pair ends the picture.
    """

    edges: np.ndarray  # [E] int32, of all masks
    starts: np.ndarray  # [N + 1] int64, places in `edges`
    areas: np.ndarray  # [N] int64, pixels
    sound: np.ndarray  # [N] bool: False: malformed, its edges mean nothing

    def intersections(self, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Pixels that masks share: of every one in a row with every one in the same row.

        Args: ours: [F, P] int64, numbers of masks, -1 where there is none; theirs: [F, G].
        Returns: [F, P, G] int64.
        """
        shared = np.zeros((*ours.shape, theirs.shape[1]), np.int64)
        _intersect(self.edges, self.starts, ours, theirs, shared)
        return shared

    def boxes(self, height: int) -> np.ndarray:
        """[N, 4] int64: left, top, right, bottom in pixels, the last two outside; 0 if empty."""
        boxes = np.zeros((len(self.areas), 4), np.int64)
        _bound(self.edges, self.starts, height, boxes)
        return boxes


def decode_runs(masks: Sequence[RLE]) -> Runs:
    """Decode masks that have one `size`; they may come from anywhere, see `Runs.sound`."""
    counts = [mask["counts"] for mask in masks]
    ends = np.zeros(len(masks) + 1, np.int64)
    np.cumsum(list(map(len, counts)), out=ends[1:])
    try:
        text = "".join(counts)
    except TypeError:  # pycocotools itself hands out bytes
        text = "".join(c if isinstance(c, str) else c.decode("latin-1") for c in counts)
    # Other than ASCII no code has; one byte each keeps the places of the others.
    codes = text.encode() if text.isascii() else bytes(min(ord(c), 255) for c in text)
    height, width = masks[0]["size"] if masks else (0, 0)
    edges = np.empty(len(codes), np.int32)
    starts = np.zeros(len(masks) + 1, np.int64)
    areas = np.zeros(len(masks), np.int64)
    sound = np.zeros(len(masks), np.bool_)
    if height > 0 and width > 0 and height * width <= MAX_PIXELS:
        characters = np.frombuffer(codes, np.uint8)
        _decode(characters, ends, height * width, edges, starts, areas, sound)
        sound &= np.diff(ends) <= MAX_CHARACTERS * (height * width + 1)  # not all empty runs
    return Runs(edges, starts, areas, sound)


@compiled
def _long_run(characters: np.ndarray, i: np.uint64, end: np.uint64) -> tuple[int, np.uint64, int]:
    """A run of several characters: five bits each, lowest first, and one that says more follow.

    Returns: the run, where the next begins, all bits seen; bit 6 if the run is cut off.
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
    """Fill the last four arrays, of `Runs`. There are no more edges than characters.

    From the fourth run on, the difference to the last but one is stored, so runs that are off and
    runs that are on are two series; the first off run belongs to neither.
    """
    one, place = np.uint64(1), np.uint64(0)  # unsigned: an index needs no check for being negative
    for n in range(len(areas)):
        first = place
        starts[n] = first
        off, on, position, area = 0, 0, 0, 0
        shortest, seen = 0, 0
        i, end = np.uint64(ends[n]), np.uint64(ends[n + 1])
        while i < end:
            code = int(characters[i]) - 48
            if code & ~31 == 0:  # one character: five bits, the highest a sign
                run = (code ^ 16) - 16
                i += one
            else:
                run, i, bits = _long_run(characters, i, end)
                seen |= bits
            off += run
            shortest |= off  # negative as soon as one is
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
    # Unsigned, so that an index needs no check for being counted from the end.
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
            if column != last_column:  # from the foot of a column on to the head of the next
                top, bottom = 0, height
            else:
                top = min(top, begin - column * height)
                bottom = max(bottom, end - column * height)
        if left >= 0:
            boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3] = left, top, right, bottom
