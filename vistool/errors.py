"""What can go wrong, in words for the user: every expected failure is a VistoolError."""

from __future__ import annotations

import os
from collections.abc import Iterable


class VistoolError(Exception):
    """A failure the user can do something about; printed as an `error:` and a `hint:` line.

    Args:
        message: what, where and the number, in one line.
        hint: the way out, in one line; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @staticmethod
    def of_system(error: OSError) -> VistoolError:
        """What the system refused, and its notes: the file comes first, if it is known."""
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        failure = VistoolError(f"{where}{error.strerror or error}")
        for note in getattr(error, "__notes__", ()):
            failure.add_note(note)
        return failure


class UsageError(VistoolError):
    """Options that do not exist or do not go together."""

    exit_code = 2


class DataError(VistoolError):
    """Input that cannot be read, or that contradicts itself."""

    exit_code = 3


class WeightsError(VistoolError):
    """Weights that are missing, damaged, or made for another architecture."""

    exit_code = 4


class OutOfMemoryError(VistoolError):
    """The model did not fit; the hint names a clip length or size that would."""

    exit_code = 5


class PartialFailureError(VistoolError):
    """Some of several sources failed, or are incomplete; the others are done and on disk."""

    exit_code = 6


class IncompleteSourceError(VistoolError):
    """What there is of a source is done and on disk, but frames of it are missing."""

    exit_code = 7


def visible(text: str) -> str:
    """One line of text from a file, without what could command the terminal that shows it."""
    return "".join(c if c.isprintable() else "?" for c in text)


def first_few(items: Iterable[object], most: int, note: str = "") -> list[str]:
    """Some of many things in words: the first `most`, and then the number of the others.

    >>> ", ".join(first_few(["cat", "dog", "horse", "cow"], 2))
    'cat, dog, ... and 2 more'
    """
    words = [str(item) for item in items]
    more = [f"... and {len(words) - most} more{note}"] if len(words) > most else []
    return words[:most] + more
