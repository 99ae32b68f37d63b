"""Child processes end with their parent, even if it is killed or waits forever."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.made_eval import make_set
from tests.processes import Start, programs, wait_until
from tests.untrained import save_untrained
from vistool.formats import threads
from vistool.formats.threads import prefetch


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.chdir(tmp_path)
    with programs() as start:
        yield start


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def below(pid: int) -> set[int]:
    """All processes that a process has started, and those that they have."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | below(child)
    return found


def test_the_processes_of_an_evaluation_end_when_it_is_killed(tmp_path: Path, start: Start) -> None:
    weights = save_untrained(tmp_path / "w.safetensors", ("cat", "dog"), 5)
    truth = make_set(tmp_path / "data", lengths=(3, 60, 60, 60), frames=True)
    process = start("-m", "vistool", "eval", truth, "-m", weights, "--workers", "2")
    wait_until(lambda: list(tmp_path.glob("runs/**/meta.json")), process)
    children = below(process.pid)
    assert len(children) >= 2
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(map(is_there, children)):
        assert time.monotonic() < deadline, f"{children} still run"
        time.sleep(0.05)


def test_what_never_comes_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PATIENCE", 0.2)
    never = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        never.wait()

    ahead = prefetch(items(), 1)
    assert next(ahead) == 1
    begun = time.monotonic()
    ahead.close()
    assert time.monotonic() - begun < 5
    never.set()  # so that the thread ends with the test
