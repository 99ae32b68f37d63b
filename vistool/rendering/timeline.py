"""Timelines: the times at which every track is visible, as a lane in the track's colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vistool.rendering.contact_sheet import FAINT, INK, PAPER, text_width, write
from vistool.rendering.palette import track_color

LANE = 18  # height of a lane, pixels
SCORE_WIDTH = 60  # width of the bar of score 1, pixels
SCALE = 0.42  # font scale
TICKS = 8  # the largest number of ticks on the time axis
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # seconds


@dataclass(frozen=True, slots=True)
class Lane:
    """One track."""

    track_id: int
    label: str  # class name
    score: float
    seen: Sequence[tuple[float, float]]  # start and end of each visible part, seconds


def timeline(lanes: Sequence[Lane], start: float, end: float, width: int) -> np.ndarray:
    """Draw the name, score and lane of every track, and a time axis in seconds below.

    Args: start, end: of the time axis, seconds; width: of the picture, pixels.

    Returns: [H, width, 3] uint8 RGB.
    """
    names = [f"{lane.label} {lane.track_id}" for lane in lanes]
    left = max((text_width(name, SCALE) for name in names), default=0) + 14
    first, last = left + SCORE_WIDTH + 50, width - 16
    picture = np.full((LANE * (len(lanes) + 1) + 8, width, 3), PAPER, np.uint8)

    def column(time: float) -> int:
        return first + round((last - first) * (time - start) / max(end - start, 1e-9))

    bottom = LANE * len(lanes)
    for time in _ticks(start, end):
        picture[: bottom + 4, column(time)] = (220, 220, 220)
        text = f"{time:g} s"
        place = min(column(time) - text_width(text, 0.4) // 2, width - text_width(text, 0.4))
        write(picture, text, place, bottom + LANE, FAINT, 0.4)
    for row, (lane, name) in enumerate(zip(lanes, names, strict=True)):
        top, color = LANE * row, track_color(lane.track_id)
        write(picture, name, 0, top + LANE - 5, INK, SCALE)
        filled = left + round(SCORE_WIDTH * min(max(lane.score, 0.0), 1.0))
        picture[top + 5 : top + LANE - 5, left : left + SCORE_WIDTH] = (235, 235, 235)
        picture[top + 5 : top + LANE - 5, left:filled] = color
        write(picture, f"{lane.score:.2f}", left + SCORE_WIDTH + 6, top + LANE - 5, FAINT, 0.4)
        for begin, stop in lane.seen:
            picture[
                top + 3 : top + LANE - 3, column(begin) : max(column(stop), column(begin) + 1)
            ] = color
    return picture


def _ticks(start: float, end: float) -> list[float]:
    """Round times from `start` to `end`, at a step from `STEPS`.

    >>> _ticks(0.0, 7.3)
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    step = next((step for step in STEPS if (end - start) / step <= TICKS), STEPS[-1])
    first, last = int(np.ceil(start / step)), int(np.floor(end / step))
    return [round(number * step, 3) for number in range(first, last + 1)]
