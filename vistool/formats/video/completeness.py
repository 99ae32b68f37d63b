"""Check that all frames of a video file were decoded, by comparison with its headers.

A decoder does not report an error for a file that was cut between two frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vistool.formats.video.container import Stated
from vistool.formats.video.ffmpeg import TICKS

# Messages of ffmpeg about a file without its end.
CUT_OFF = ("partial file", "ended prematurely")
SLACK = 0.5  # the largest error of a stated duration, in seconds
# Seconds; ffmpeg moves a frame with the time of the one before by a tick.
STILL = 1.5 / TICKS


@dataclass(frozen=True, slots=True)
class Promise:
    """The content of a file according to its headers."""

    stated: Stated
    picture_end: float | None  # seconds from the container's start; None: not stated
    length: int  # bytes of the file when it was opened


@dataclass(frozen=True, slots=True)
class Shortfall:
    """The report that frames are missing."""

    expected: int | None  # the complete number of frames; None: unknown
    about: bool = False  # the number is an estimate from the rate, without an index


class FrameClock:
    """Records the times of a video's frames during decoding."""

    def __init__(self, fps: float) -> None:
        self.count = 0
        self.last = 0.0  # seconds from the first frame to the last one
        self._interval = 1 / fps
        self._first_stamp = self._last_stamp = 0.0  # seconds from the container's start
        self._largest_gap = 0.0

    def time_of(self, stamp: float) -> float:
        """Seconds from the first frame; from the nominal rate if time stamps do not increase."""
        if not self.count:
            return 0.0
        time = round((stamp - self._first_stamp) * TICKS) / TICKS  # without the rounding of floats
        return time if time > self.last + STILL else self.last + self._interval

    def add(self, time: float, stamp: float) -> None:
        """Count a frame."""
        if self.count:
            self._largest_gap = max(self._largest_gap, time - self.last)
        else:
            self._first_stamp = stamp
        self.count, self.last, self._last_stamp = self.count + 1, time, stamp

    def shortfall(
        self,
        promise: Promise,
        length: int,
        complaints: Sequence[str],
        beyond: float,
        *,
        at_end: bool,
    ) -> Shortfall | None:
        """A report if requested frames are missing; None if they are complete.

        A smaller number of frames alone is not evidence: a clip cut out of a video may begin with
        frames that cannot be decoded.

        Args:
            promise: the content according to the headers.
            length: bytes of the file now.
            complaints: of the decoder.
            beyond: the end of the requested time range, in seconds; inf: all frames.
            at_end: the file ended before that time.
        """
        stated = promise.stated
        short = at_end and length < max(promise.length, stated.length or 0)
        if stated.times is not None:
            times = stated.times[stated.times < beyond]
            if self.count >= len(times):
                return None
            usual = float(np.diff(times).max(initial=0.0))
            late = times[-1] - self.last > 1.5 * usual
            gap = self._largest_gap > 2.5 * usual
            return Shortfall(len(times)) if short or complaints or late or gap else None
        by_rate = round(self.last / self._interval) + 1
        lost = bool(complaints) and self.count < by_rate
        if not at_end:
            return Shortfall(by_rate, about=True) if lost else None
        end = promise.picture_end if promise.picture_end is not None else stated.end
        cut = any(mark in complaint for complaint in complaints for mark in CUT_OFF)
        is_whole = stated.has_end or stated.length is not None
        early = self._ends_early(end) and (bool(complaints) or not is_whole)
        if not (lost or short or cut or early or stated.has_end is False):
            return None
        expected = max(by_rate, round(min(end or 0.0, beyond) / self._interval))
        return Shortfall(expected if expected > self.count else None, about=True)

    def _ends_early(self, end: float | None) -> bool:
        """Does the stated end come much later than the last frame? False for a single frame."""
        if end is None or self.count < 2:
            return False
        left = end - self._last_stamp - self._interval
        return left > max(SLACK, 2 * self._largest_gap)
