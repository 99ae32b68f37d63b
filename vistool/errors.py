"""The errors that vistool reports to the user; every expected failure is a VistoolError."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Self


class VistoolError(Exception):
    """A failure that the user can correct; printed as an `error:` line and a `hint:` line.

    >>> try:
    ...     vistool.predict("missing.mp4", model=model)
    ... except vistool.VistoolError as error:
    ...     print(error)
    missing.mp4: no such file or folder

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
        return VistoolError(f"{where}{error.strerror or error}").with_notes_of(error)

    def with_notes_of(self, error: BaseException) -> Self:
        """This error with the notes of the error that caused it."""
        for note in getattr(error, "__notes__", ()):
            self.add_note(note)
        return self


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
    """The memory was not large enough; the hint names settings that need less."""

    exit_code = 5


class PartialFailureError(VistoolError):
    """Some of several sources failed or are incomplete; the results of the others are on disk."""

    exit_code = 6


class IncompleteSourceError(VistoolError):
    """A source lacks frames; the results of its other frames are on disk."""

    exit_code = 7


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


# Messages of libraries that have no exception class for lack of memory: torch, OpenCV and C++.
MEMORY_WORDS = (
    *("DefaultCPUAllocator", "CUDA out of memory", "not enough memory", "std::bad_alloc"),
    *("Insufficient memory", "Cannot allocate memory", "Failed to allocate"),
    *("can't start new thread", "could not create a primitive"),  # the latter of oneDNN
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory was exhausted, on any device and in any library."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, VistoolError):
        return isinstance(error, OutOfMemoryError)
    return isinstance(error, MemoryError) or any(word in str(error) for word in MEMORY_WORDS)
