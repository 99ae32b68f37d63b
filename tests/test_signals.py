"""Ctrl-C, SIGTERM and SIGHUP: every command ends cleanly and keeps its finished results."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.processes import PATIENCE, Start, wait_until
from tests.test_cli import program
from tests.test_predict_command import make_video, spooled, weights
from vistool import signals
from vistool.formats.results.files import RESULTS, read_meta, read_results, write_results
from vistool.signals import ended_by_signals

__all__ = ["weights"]  # a fixture
ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def ask(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDING)
def test_every_command_is_interrupted_and_may_clean_up(number: signal.Signals) -> None:
    done = []

    def action() -> None:
        try:
            ask(number)
            done.append("went on")
        finally:
            for again in ENDING:
                ask(again)
            done.append("saved")

    with ended_by_signals():
        result = CliRunner().invoke(program(action), ["act"])
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
    assert done == ["saved"]
    for again in ENDING:  # while the process ends
        ask(again)


def test_a_command_that_is_not_interrupted_leaves_the_signals_as_they_were() -> None:
    before = [signal.getsignal(number) for number in ENDING]
    with ended_by_signals():
        assert [signal.getsignal(number) for number in ENDING] != before
    assert [signal.getsignal(number) for number in ENDING] == before


def test_the_message_of_an_interrupted_command_is_printed() -> None:
    def action() -> None:
        error = KeyboardInterrupt()
        error.add_note("3 frames are in here")
        raise error

    result = CliRunner().invoke(program(action), ["act"])
    assert result.stderr == "3 frames are in here\ninterrupted\n"


def test_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    with ended_by_signals():
        ask(signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            ask(signal.SIGTERM)


def test_a_later_signal_ends_the_process_without_waiting_for_threads(
    tmp_path: Path, start: Start
) -> None:
    """Python does not abort, although one of them is in a long computation."""
    script = (
        "import os, signal, sys, threading, time, torch\n"
        "from pathlib import Path\n"
        "from tests.test_cli import program\n"
        "from vistool import signals\n"
        "from vistool.formats.files import atomic_path\n"
        "signals.PATIENCE = 0.2\n"
        "def work():\n"
        "    while True: torch.ones(300, 300) @ torch.ones(300, 300)\n"
        "def action():\n"
        f"    with atomic_path(Path({str(tmp_path / 'file')!r})) as part:\n"
        "        part.touch()\n"
        "        threading.Thread(target=work, daemon=True).start()\n"
        "        try:\n"
        "            print('going', flush=True)\n"
        "            time.sleep(60)\n"
        "        finally:\n"
        "            print('ending', flush=True)\n"
        "            time.sleep(60)\n"
        "with signals.ended_by_signals(): program(action)(['act'])\n"
    )
    process = start("-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "ending\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE) == ("", "interrupted\n")
    assert process.returncode == signals.INTERRUPTED
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("long") / "long.mp4", 6000)


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDING)
def test_several_signals_leave_the_partial_results_of_predict(
    tmp_path: Path, weights: Path, long_video: Path, start: Start, number: signal.Signals
) -> None:
    options = (long_video, "-m", weights, "-o", tmp_path, "--conf", "0")
    process = start("-m", "vistool", "predict", *options)
    wait_until(lambda: spooled(tmp_path / "long"), process)
    for _ in range(8):  # to the whole group, as a terminal does
        os.killpg(process.pid, number)
        time.sleep(0.02)
    errors = process.communicate(timeout=PATIENCE)[1].splitlines()
    assert process.returncode == 130, errors
    meta = read_meta(tmp_path / "long" / "meta.json")
    assert not meta.complete
    assert 0 < meta.length < 6000
    assert errors[-2:] == [
        f"the {meta.length} frames that were done are in {tmp_path / 'long'}",
        "interrupted",
    ]
    results = read_results(tmp_path / "long" / "results.json")
    assert {len(r["segmentations"]) for r in results} == {meta.length}
    assert {p.name for p in (tmp_path / "long").iterdir()} == {"results.json", "meta.json"}


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_leaves_nothing_of_a_half_drawn_video(
    tmp_path: Path, long_video: Path, start: Start, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_results(run / RESULTS, [])
    process = start("-m", "vistool", "render", long_video, run, "-o", run / "out.mp4")
    wait_until(lambda: list(run.glob(".out-*.part.mp4")), process)
    os.killpg(process.pid, number)
    errors = process.communicate(timeout=PATIENCE)[1].splitlines()
    assert process.returncode == 130, errors
    assert errors[-1] == "interrupted"
    assert [path.name for path in run.iterdir()] == ["results.json"]
