"""The errors that vistool reports to the user; every expected failure is a VistoolError."""

from __future__ import annotations

import os
from collections.abc import Iterable


class VistoolError(Exception):
    """A failure that the user can correct; printed as an `error:` line and a `hint:` line.

    Args:
        message: the problem with its place and value, in one line.
        hint: how to correct it, in one line; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @staticmethod
    def of_system(error: OSError) -> VistoolError:
        """An OSError as a VistoolError with its notes; the file, if known, comes first."""
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        failure = VistoolError(f"{where}{error.strerror or error}")
        for note in getattr(error, "__notes__", ()):
            failure.add_note(note)
        return failure


class UsageError(VistoolError):
    """Options that do not exist or contradict each other."""

    exit_code = 2


class DataError(VistoolError):
    """Input that cannot be read, or that contradicts itself."""

    exit_code = 3


class WeightsError(VistoolError):
    """Weights that are missing, damaged, or of another architecture."""

    exit_code = 4


class OutOfMemoryError(VistoolError):
    """The memory was not large enough; the hint names smaller settings."""

    exit_code = 5


class PartialFailureError(VistoolError):
    """Some of several sources failed; the results of the others are on disk."""

    exit_code = 6


def visible(text: str) -> str:
    """Text from a file with control characters replaced by `?`, safe to print on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def first_few(items: Iterable[object], most: int, note: str = "") -> list[str]:
    """The first `most` items as text, then the number of the others, with `note` after it.

    >>> ", ".join(first_few(["cat", "dog", "horse", "cow"], 2))
    'cat, dog, ... and 2 more'
    """
    words = [str(item) for item in items]
    more = [f"... and {len(words) - most} more{note}"] if len(words) > most else []
    return words[:most] + more
