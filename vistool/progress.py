"""How far a job is: what it tells while it runs."""

from __future__ import annotations

from collections.abc import Callable

# Told the stage, how much of it is done, and how much there is; None: not known.
OnProgress = Callable[[str, int, int | None], None]


def silent(stage: str, done: int, total: int | None) -> None:
    """Tell nobody."""
