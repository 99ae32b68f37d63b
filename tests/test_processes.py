"""Commands in separate processes: killed and resumed, and several that share the work."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from tests.made_data import make_pictures, make_video
from tests.made_training import assert_close_gradients, lines, losses, settings, unlabel
from tests.processes import PATIENCE, Start, wait_until
from tests.untrained import save_untrained
from vistool.config import SourceConfig, ValidationConfig
from vistool.engine.train.checkpoint import CHECKPOINT
from vistool.engine.train.log import LOG
from vistool.engine.train.setup import SETTINGS
from vistool.engine.train.train import BEST, train
from vistool.models.checkpoints.files import read_header

pytestmark = pytest.mark.slow  # each process needs seconds to import torch

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread, as in the started processes: sums in another order differ in the last digit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def say(text: str) -> None:
    """Print a line for people who run the tests with -s."""
    sys.stdout.write(f"{text}\n")


def start_together(start: Start, *commands: list[str]) -> list[subprocess.Popen[str]]:
    """One process per command, with the environment variables that `torchrun` would set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **ONE_THREAD,
        "WORLD_SIZE": str(len(commands)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [
        start("-m", "vistool", *command, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, command in enumerate(commands)
    ]


def prepared(folder: Path, run: str, **changes: Any) -> Path:
    """A run folder with settings in it and without any step."""
    (folder / run).mkdir()
    config = settings(folder, **changes)
    (folder / run / SETTINGS).write_bytes(msgspec.json.encode(config))
    return folder / run


def wait_for_steps(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    log = run / LOG
    wait_until(lambda: log.exists() and len(log.read_bytes().splitlines()) >= count, process)


def test_a_run_that_is_killed_repeatedly_has_the_losses_of_an_uninterrupted_one(
    tmp_path: Path, start: Start
) -> None:
    make_pictures(tmp_path, 4)
    changes: dict[str, Any] = {"steps": 24, "save_every": 5, "workers": 1}
    whole = prepared(tmp_path, "whole", **changes)
    train(settings(tmp_path, **changes), whole)

    killed = prepared(tmp_path, "killed", **changes)
    resume = ("-m", "vistool", "train", "--quiet", "--resume", killed)
    last_seen = []
    for steps in (3, 8, 17):  # before the first checkpoint, and after some
        process = start(*resume, env=ONE_THREAD)
        wait_for_steps(killed, steps, process)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
        last_seen.append(losses_as_they_are(killed)[-1][0])
    process = start(*resume, env=ONE_THREAD)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors

    starts = [json.loads(line)["step"] for line in (killed / "starts.jsonl").read_text().split()]
    say(f"\nkilled after steps {last_seen}, went on from steps {starts[1:]}")
    say("step  uninterrupted          killed")
    for (step, expected), (_, loss) in zip(losses(whole), losses(killed), strict=True):
        say(f"{step:4}  {expected:<21} {loss}")
    assert losses(killed) == losses(whole)
    assert [step for step, _ in losses(killed)] == list(range(1, 25))
    # It resumes from the last complete checkpoint.
    assert all(0 <= seen - begun <= 5 for seen, begun in zip(last_seen, starts[1:], strict=True))
    assert starts[-1] >= 10


def losses_as_they_are(run: Path) -> list[tuple[int, float]]:
    """The losses of a killed run, whose last line may be incomplete."""
    whole = [line for line in (run / LOG).read_bytes().splitlines(keepends=True) if b"\n" in line]
    return [(json.loads(line)["step"], json.loads(line)["loss"]) for line in whole]


def test_two_processes_have_the_gradients_of_one(tmp_path: Path, start: Start) -> None:
    # One picture has no labels, so that the processes have different numbers of instances.
    make_pictures(tmp_path, 3)
    make_video(tmp_path, 4)
    unlabel(tmp_path / "pictures.json", image_id=1)
    changes: dict[str, Any] = {
        "steps": 1,
        "batch": 4,
        "accumulate": 2,
        "clip_length": 2,
        "model": {**settings(tmp_path).model, "dropout": 0.0},
        "sources": (
            SourceConfig(annotations="pictures.json"),
            SourceConfig(annotations="videos.json"),
        ),
        "validation": ValidationConfig(annotations="pictures.json"),
    }
    one, two = tmp_path / "one", prepared(tmp_path, "two", **changes)
    train(settings(tmp_path, **changes), one)
    together = start_together(start, *[["train", "--resume", str(two)]] * 2)
    answers = [process.communicate(timeout=PATIENCE) for process in together]
    assert [process.returncode for process in together] == [0, 0], answers
    assert answers[0][0].strip() == str(two / "weights.safetensors")
    assert answers[1][0] == ""  # only the first process prints

    assert_close_gradients(two, one)
    expected, actual = lines(one)[0], lines(two)[0]
    compared = [key for key in expected if "seconds" not in key]
    say(f"\n{'':18} {'one process':>14} {'two processes':>14}")
    for key in compared:
        say(f"{key:18} {expected[key]:14.8g} {actual[key]:14.8g}")
        assert actual[key] == pytest.approx(expected[key], rel=1e-5)
    assert read_header(two / BEST).metadata["steps"] == "1 of 1"


def test_data_that_one_process_cannot_read_is_reported_once_and_costs_no_step(
    tmp_path: Path, start: Start
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        make_pictures(folder, 4)
    (there / "2.png").unlink()
    run = prepared(here, "run", steps=1000, save_every=1000, data=str(here))
    together = start_together(
        start, *(["train", "--resume", str(run), "--data", str(data)] for data in (here, there))
    )
    errors = [process.communicate(timeout=PATIENCE)[1] for process in together]
    assert [process.returncode for process in together] == [3, 3], errors
    assert "2.png: no such file" in errors[0]
    assert errors[1] == ""
    assert "Traceback" not in errors[0]
    assert (run / CHECKPOINT).exists() == bool(losses(run))  # all finished steps
    assert (f"vistool train --resume {run}" in errors[0]) == bool(losses(run))


def test_annotations_that_one_process_cannot_read_are_reported_once(
    tmp_path: Path, start: Start
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    make_pictures(here, 1)
    run = prepared(here, "run", data=str(here))
    together = start_together(
        start, *(["train", "--resume", str(run), "--data", str(data)] for data in (here, there))
    )
    errors = [process.communicate(timeout=PATIENCE)[1] for process in together]
    assert [process.returncode for process in together] == [3, 3], errors
    assert f"error: {there / 'pictures.json'}: no such annotation file" in errors[0]
    assert errors[1] == ""


def test_the_others_report_a_killed_process_in_one_line(tmp_path: Path, start: Start) -> None:
    make_pictures(tmp_path, 4)
    run = prepared(tmp_path, "run", steps=1000, save_every=2, workers=1)
    together = start_together(start, *[["train", "--quiet", "--resume", str(run)]] * 2)
    wait_for_steps(run, 3, together[0])
    together[1].kill()
    errors = [process.communicate(timeout=PATIENCE)[1] for process in together]
    assert together[0].returncode == 1
    assert errors[0].splitlines() == [
        f"run folder: {run}",
        "error: another process of this training has ended or cannot be reached",
        f"hint: its own message gives the reason; go on with: vistool train --resume {run}",
    ]
    saved = torch.load(run / CHECKPOINT, weights_only=True)["step"]
    assert 2 <= saved <= losses_as_they_are(run)[-1][0]


def test_a_signal_to_a_job_under_torchrun_saves_every_step(tmp_path: Path, start: Start) -> None:
    """The launcher receives it too and passes it on to processes that already have it."""
    make_pictures(tmp_path, 4)
    run = prepared(tmp_path, "run", steps=1000, save_every=1000, workers=1)
    launcher = start(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "vistool", "train", "--resume", run),
        env=ONE_THREAD,
    )
    wait_for_steps(run, 2, launcher)
    job = [launcher.pid]
    for process in job:  # the list grows: children, and their children
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            job += map(int, children.read_text().split())
    assert len(job) >= 5  # two processes that train, with a worker each
    for process in job:
        os.kill(process, signal.SIGTERM)
    errors = launcher.communicate(timeout=PATIENCE)[1]
    assert f"go on with: vistool train --resume {run}" in errors
    assert torch.load(run / CHECKPOINT, weights_only=True)["step"] == losses(run)[-1][0]


def test_two_machines_train_together(tmp_path: Path, start: Start) -> None:
    """Started as in the README; here, both machines are this one."""
    make_pictures(tmp_path, 4)
    run = prepared(tmp_path, "run", steps=3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"),
        *("-m", "vistool", "train", "--quiet", "--resume", str(run)),
    ]
    machines = [start(*command, env=ONE_THREAD) for _ in range(2)]
    answers = [machine.communicate(timeout=PATIENCE) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], answers
    assert sorted(answer.strip() for answer, _ in answers) == ["", str(run / "weights.safetensors")]
    (begun,) = (json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines())
    assert begun["processes"] == 2
    assert [step for step, _ in losses(run)] == [1, 2, 3]


def test_half_precision_works_with_several_processes(tmp_path: Path, start: Start) -> None:
    make_pictures(tmp_path, 4)
    run = prepared(tmp_path, "run", steps=4, precision="fp16")
    together = start_together(start, *[["train", "--quiet", "--resume", str(run)]] * 2)
    answers = [process.communicate(timeout=PATIENCE) for process in together]
    assert [process.returncode for process in together] == [0, 0], answers
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4]
    assert torch.load(run / CHECKPOINT, weights_only=True)["scaler"]


def test_processes_share_the_videos_and_a_failing_one_does_not_stop_the_others(
    tmp_path: Path, start: Start
) -> None:
    weights = save_untrained(tmp_path / "model.safetensors", ("red", "blue"), num_queries=4)
    sources = []
    for name in ("first", "second", "third", "fourth"):
        make_video(tmp_path / name, 3)
        sources.append(tmp_path / name / "v")
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    command = ["predict", *map(str, [bad, *sources]), "--model", str(weights), "--no-overlay"]
    together = start_together(start, *[[*command, "-o", str(tmp_path / "runs")]] * 2)
    answers = [process.communicate(timeout=PATIENCE) for process in together]
    assert [process.returncode for process in together] == [6, 6], answers
    done = [answer.split() for answer, _ in answers]
    assert [len(folders) for folders in done] == [2, 2]
    assert len({*done[0], *done[1]}) == 4
    for folder in (tmp_path / "runs").iterdir():
        assert (folder / "results.json").exists()
    assert "1 of 5 sources failed" in answers[0][1]
