"""Handle the signals that ask commands, trainings and their data workers to stop."""

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

# Ctrl-C, and the signals that schedulers, `torchrun` and a closing terminal send to all processes
# of a job. Only those that the system has.
STOP_SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if name in signal.Signals.__members__
)
# The signals that a terminal sends to all processes started from it.
TERMINAL_SIGNALS = tuple(number for number in STOP_SIGNALS if number != signal.SIGTERM)
INTERRUPTED = 130  # a shell's exit code for a command that Ctrl-C ended
PATIENCE = 10.0  # seconds that an interrupted command has to save its results


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at a stop signal; the process must end soon after.

    More signals within PATIENCE are ignored, so that they do not interrupt the saving of results. A
    later signal raises it again; the process then ends when this context does, without waiting for
    threads. Signals that the process was started to ignore (`nohup`) stay ignored.
    """
    before = _handlers()
    raised: list[float] = []  # times of the interrupts

    def interrupt(*_: object) -> None:
        if not raised or time.monotonic() > raised[-1] + PATIENCE:
            raised.append(time.monotonic())
            raise KeyboardInterrupt

    _catch(before, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            # An interrupted process ends by itself, with its own exit code.
            signal.signal(number, signal.SIG_IGN if raised else handler)
        if len(raised) > 1:
            sys.stdout.flush()
            os._exit(INTERRUPTED)  # Python would abort if a thread were still running torch


@dataclass(slots=True)
class StopRequest:
    """Whether a signal asked the training to stop, which it does at the end of a step."""

    made: bool = False


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Record the signals that ask a training to stop.

    A second Ctrl-C ends the process as usual. Other signals may be repeated: `torchrun`, for
    example, passes them on. Signals that the process was started to ignore (`nohup`) stay ignored.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set signal handlers
        return
    before = _handlers()

    def record(number: int, frame: FrameType | None) -> None:
        request.made = True
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    _catch(before, record)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """Let a process of `multiprocessing` end when its parent process does.

    A parent that is killed cannot stop its child processes, which would wait for work forever.
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
    """Set the handler of all stop signals that are not ignored."""
    for number, previous in before.items():
        if previous != signal.SIG_IGN:
            signal.signal(number, handler)
