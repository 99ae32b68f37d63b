"""Limits on the memory that a file may make vistool allocate, checked before it is allocated.

A few bytes can state any size. Users with larger files raise a limit by its environment variable,
which processes started by vistool inherit.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from vistool.errors import DataError, UsageError


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest number of pixels, bytes or frames that is read."""

    variable: str  # of the environment
    default: int
    most: int = 1 << 40  # the largest value that can be chosen

    @property
    def value(self) -> int:
        """The current limit. Raises: UsageError if the variable is not a valid number."""
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        if not (text.isascii() and text.isdecimal() and len(text) < 16):
            raise UsageError(f"{self.variable}={text!r}: not a whole number")
        number = int(text)
        if not 1 <= number <= self.most:
            raise UsageError(f"{self.variable}={number}: not from 1 to {self.most}")
        return number

    @property
    def hint(self) -> str:
        """How to raise the limit, for messages."""
        return f"the limit is {self.value}: set {self.variable} in the environment to raise it"


# Pixels of a picture, a frame or a mask. OpenCV reads at most 2 ** 30.
PIXELS = Limit("VISTOOL_MAX_PIXELS", 1 << 26, most=1 << 30)
# Bytes of a compressed file after unpacking.
UNPACKED_BYTES = Limit("VISTOOL_MAX_UNPACKED_BYTES", 1 << 30)
# Tracks times frames of a data set: a track has a mask, or None, for every frame.
TRACK_FRAMES = Limit("VISTOOL_MAX_TRACK_FRAMES", 1 << 25)


def refuse_too_many_masks(number: int, where: object) -> None:
    """Raises: DataError that begins with `where` if tracks times frames exceed the limit."""
    if number > TRACK_FRAMES.value:
        raise DataError(
            f"{where}: its tracks have {number} frames in all, too many", hint=TRACK_FRAMES.hint
        )
