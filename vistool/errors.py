"""What can go wrong, in words for the user: every expected failure is a VistoolError."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Self


class VistoolError(Exception):
    """A failure the user can do something about; printed as an `error:` and a `hint:` line.

    >>> try:
    ...     vistool.predict("missing.mp4", model=model)
    ... except vistool.VistoolError as error:
    ...     print(error)
    missing.mp4: no such file or folder

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
        return VistoolError(f"{where}{error.strerror or error}").with_notes_of(error)

    def with_notes_of(self, error: BaseException) -> Self:
        """This failure, with what was noted on the error that it tells."""
        for note in getattr(error, "__notes__", ()):
            self.add_note(note)
        return self


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
    """Something did not fit in memory; the hint names what would need less."""

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


# How libraries say it that have no exception of their own for it: torch, OpenCV, and C++.
MEMORY_WORDS = (
    *("DefaultCPUAllocator", "CUDA out of memory", "not enough memory", "std::bad_alloc"),
    *("Insufficient memory", "Cannot allocate memory", "Failed to allocate"),
    *("can't start new thread", "could not create a primitive"),  # the latter of oneDNN
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on any device and in any library."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, VistoolError):
        return isinstance(error, OutOfMemoryError)
    return isinstance(error, MemoryError) or any(word in str(error) for word in MEMORY_WORDS)
