"""Many run-length codes at once, by compiled loops: decoded, checked and compared as runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numba
import numpy as np

from vistool.formats.rle import MAX_CHARACTERS, MAX_PIXELS
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

    def intersections(self, first: int) -> np.ndarray:
        """Pixels of each of the first masks in each of the others: [first, N - first] int64."""
        shared = np.zeros((first, len(self.areas) - first), np.int64)
        _intersect(self.edges, self.starts, shared)
        return shared

    def boxes(self, height: int) -> np.ndarray:
        """[N, 4] int64: left, top, right, bottom in pixels, the last two outside; 0 if empty."""
        boxes = np.zeros((len(self.areas), 4), np.int64)
        _bound(self.edges, self.starts, height, boxes)
        return boxes


def decode_runs(masks: Sequence[RLE]) -> Runs:
    """Decode masks that have one `size`; they may come from anywhere, see `Runs.sound`."""
    counts = [_text(mask["counts"]) for mask in masks]
    ends = np.zeros(len(masks) + 1, np.int64)
    np.cumsum([len(code) for code in counts], out=ends[1:])
    text = "".join(counts)
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
    return Runs(edges, starts, areas, sound)


def _text(counts: str | bytes) -> str:
    """Counts as they are in files; pycocotools itself hands out bytes."""
    return counts if isinstance(counts, str) else counts.decode("latin-1")


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
    """Fill the last four arrays, of `Runs`. There are no more edges than characters."""
    place = 0
    for n in range(len(areas)):
        first = place
        starts[n] = first
        position, previous, last_but_one = 0, 0, 0
        shortest, seen, cut_off = 0, 0, False
        i = ends[n]
        while i < ends[n + 1]:
            code = int(characters[i]) - 48
            seen |= code
            i += 1
            if code < 32:  # one character: five bits, the highest a sign
                run = (code ^ 16) - 16
            else:
                run, shift = code & 31, 5
                while code >= 32:
                    if i == ends[n + 1] or shift >= 5 * MAX_CHARACTERS:
                        cut_off = True
                        break
                    code = int(characters[i]) - 48
                    seen |= code
                    i += 1
                    run |= (code & 31) << shift
                    shift += 5
                run -= (code & 16) << (shift - 4)
            if cut_off:
                break
            if place > first + 2:  # stored as the difference to the last but one
                run += last_but_one
            last_but_one, previous = previous, run
            shortest = min(shortest, run)
            position += run
            edges[place] = position
            place += 1
        well_formed = not cut_off and seen & ~63 == 0
        sound[n] = well_formed and shortest >= 0 and position == pixels
        for k in range(first, place - 1, 2):
            areas[n] += edges[k + 1] - edges[k]
    starts[-1] = place


@compiled
def _intersect(edges: np.ndarray, starts: np.ndarray, shared: np.ndarray) -> None:
    first, others = shared.shape
    for p in range(first):
        ours = edges[starts[p] : starts[p + 1]]
        for g in range(others):
            shared[p, g] = _overlap(ours, edges[starts[first + g] : starts[first + g + 1]])


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
