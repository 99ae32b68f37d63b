"""What asks a training to stop, as a wish that is granted when a step is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from vistool.stop_signals import STOP_SIGNALS


@dataclass(slots=True)
class StopWish:
    """Whether somebody wants the run to stop."""

    expressed: bool = False


@contextmanager
def stop_wish() -> Iterator[StopWish]:
    """Catch Ctrl-C, a scheduler's SIGTERM and a closing terminal's SIGHUP.

    A second Ctrl-C ends the process as ever; the others may be repeated by those who pass them on,
    as `torchrun` does. What the process was started to ignore, as `nohup` does, stays ignored.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish  # only the main thread may deal with signals
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def express(number: int, frame: FrameType | None) -> None:
        wish.expressed = True
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, express)
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
