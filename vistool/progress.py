"""The callback with which jobs report their progress."""

from __future__ import annotations

from collections.abc import Callable

# Called with the stage, the amount done, and the total amount (None: unknown).
OnProgress = Callable[[str, int, int | None], None]


def silent(stage: str, done: int, total: int | None) -> None:
    """Report nothing."""
