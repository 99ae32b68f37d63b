"""What ends a command from outside: Ctrl-C, SIGTERM, and the SIGHUP of a terminal that closes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vistool.stop_signals import STOP_SIGNALS

INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended
PATIENCE = 10.0  # seconds in which an interrupted command is left to save what is done


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at a signal that asks the process to end, as it must soon after.

    More of them within PATIENCE ask for the same, and must not break into the saving of what is
    done. One after that ends the process as soon as its files are in order, without waiting for
    threads. What the process was started to ignore, as `nohup` does, stays ignored.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    raised: list[float] = []  # when

    def interrupt(*_: object) -> None:
        if not raised or time.monotonic() > raised[-1] + PATIENCE:
            raised.append(time.monotonic())
            raise KeyboardInterrupt

    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            # Once told to end, it does, with its own exit code.
            signal.signal(number, signal.SIG_IGN if raised else handler)
        if len(raised) > 1:
            sys.stdout.flush()
            os._exit(INTERRUPTED)  # Python would abort where a thread is in the midst of torch
