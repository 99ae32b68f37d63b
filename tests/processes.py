"""Programs that tests start: waited for with patience, and never left running."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

Start = Callable[..., subprocess.Popen[str]]

PATIENCE = 240.0  # seconds, on a machine that has much else to do


@contextlib.contextmanager
def programs() -> Iterator[Start]:
    """A function start(*arguments, env=...) that runs Python, in a process group of its own.

    Its output is piped, as text; `env` is added to the environment. What still runs in the end is
    killed, with all of its group.
    """
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with process:  # waits for it and closes the pipes
                pass


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for what a program is to bring about; fails if it ends before that or takes too long."""
    begun = time.monotonic()
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() - begun < PATIENCE
        time.sleep(0.01)


def ignore(_number: int, _frame: object) -> None:
    """A signal handler that does nothing. Unlike SIG_IGN, programs that are started lose it."""
