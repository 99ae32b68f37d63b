"""The signals that ask a process to end, for commands, trainings and their data workers alike."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

# Ctrl-C, and what schedulers, `torchrun` and a terminal that closes send to all processes of a job
# that is to stop, as far as the system has them.
STOP_SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if name in signal.Signals.__members__
)
# Those that a terminal sends to all that was started from it.
TERMINAL_SIGNALS = tuple(number for number in STOP_SIGNALS if number != signal.SIGTERM)
INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended
PATIENCE = 10.0  # seconds in which an interrupted command is left to save what is done


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at a signal that asks the process to end, as it must soon after.

    More of them within PATIENCE ask for the same, and must not break into the saving of what is
    done. One after that ends the process as soon as its files are in order, without waiting for
    threads. What the process was started to ignore, as `nohup` does, stays ignored.
    """
    before = _handlers()
    raised: list[float] = []  # when

    def interrupt(*_: object) -> None:
        if not raised or time.monotonic() > raised[-1] + PATIENCE:
            raised.append(time.monotonic())
            raise KeyboardInterrupt

    _catch(before, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            # Once told to end, it does, with its own exit code.
            signal.signal(number, signal.SIG_IGN if raised else handler)
        if len(raised) > 1:
            sys.stdout.flush()
            os._exit(INTERRUPTED)  # Python would abort where a thread is in the midst of torch


@dataclass(slots=True)
class StopWish:
    """Whether somebody wants a training to stop, as it does when a step is done."""

    expressed: bool = False


@contextmanager
def stop_wish() -> Iterator[StopWish]:
    """Note the signals that ask a training to stop.

    A second Ctrl-C ends the process as ever; the others may be repeated by those who pass them on,
    as `torchrun` does. What the process was started to ignore, as `nohup` does, stays ignored.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish  # only the main thread may deal with signals
        return
    before = _handlers()

    def express(number: int, frame: FrameType | None) -> None:
        wish.expressed = True
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    _catch(before, express)
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """Let this process, which another one started by `multiprocessing`, end when that one does.

    One that is killed tells nobody; its processes would wait for ever for something to do.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(INTERRUPTED)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()


def _handlers() -> dict[signal.Signals, Any]:
    return {number: signal.getsignal(number) for number in STOP_SIGNALS}


def _catch(before: dict[signal.Signals, Any], handler: Callable[..., None]) -> None:
    """Let a function handle the signals that are not ignored."""
    for number, previous in before.items():
        if previous != signal.SIG_IGN:
            signal.signal(number, handler)
