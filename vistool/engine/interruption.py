"""Ctrl-C and SIGTERM, as schedulers send it, as a wish that is granted when a step is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class StopWish:
    """Whether somebody wants the run to stop."""

    expressed: bool = False


@contextmanager
def stop_wish() -> Iterator[StopWish]:
    """Catch the first Ctrl-C or SIGTERM; the second one ends the process as ever."""
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish  # only the main thread may deal with signals
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def express(number: int, frame: FrameType | None) -> None:
        wish.expressed = True
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, express)
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
