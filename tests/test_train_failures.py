"""Trainings that are stopped, refused or fail: their messages, and the files they leave."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.made_data import make_pictures
from tests.made_training import lines, losses, settings
from vistool.cli.train import train as command
from vistool.config import (
    AugmentConfig,
    PixelConfig,
    SourceConfig,
    ValidationConfig,
    from_mapping,
)
from vistool.data.batches import Batch, padded_batch
from vistool.data.clips import TrainingClip
from vistool.engine.train.checkpoint import CHECKPOINT
from vistool.engine.train.failures import explained_failures
from vistool.engine.train.log import LOG, STARTS
from vistool.engine.train.train import BEST, WEIGHTS, train
from vistool.errors import (
    DataError,
    OutOfMemoryError,
    UsageError,
    VistoolError,
)
from vistool.models.checkpoints.files import load_model, read_header
from vistool.signals import stop_request


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_asked_to_stop_finishes_its_step_and_saves(
    tmp_path: Path, number: signal.Signals
) -> None:
    make_pictures(tmp_path, 4)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    config = settings(tmp_path, save_every=100)
    train(config, whole)

    def ask(step: int, steps: int, line: Mapping[str, Any]) -> None:
        if step == 3:  # to all processes of the job, as from a scheduler or a terminal
            for worker in multiprocessing.active_children():
                assert worker.pid is not None
                os.kill(worker.pid, number)
            os.kill(os.getpid(), number)
            if number != signal.SIGINT:  # `torchrun`, which receives it too, passes it on
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(settings(tmp_path, save_every=100, workers=1), stopped, on_step=ask)
    assert signal.getsignal(number) == before
    assert [step for step, _ in losses(stopped)] == [1, 2, 3, 4]  # step 4 had begun
    train(config, stopped)
    assert losses(stopped) == losses(whole)


def test_a_second_ctrl_c_ends_the_process_and_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with stop_request() as request:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not request.made
        os.kill(os.getpid(), signal.SIGINT)
        assert request.made
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_data_worker_that_dies_is_reported_in_one_line(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    run = tmp_path / "run"

    def kill(step: int, steps: int, line: Mapping[str, Any]) -> None:
        if step == 2:
            for worker in multiprocessing.active_children():
                worker.kill()

    with pytest.raises(
        VistoolError, match="a process that loads data has died: DataLoader worker"
    ) as error:
        train(settings(tmp_path, steps=500, workers=1), run, on_step=kill)
    assert "fewer workers" in error.value.hint
    assert f"vistool train --resume {run}" in error.value.hint
    assert "\n" not in str(error.value)


def test_full_memory_has_its_exit_code_and_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(OutOfMemoryError) as error, explained_failures("go on"):
        torch.empty(2**60)
    assert error.value.exit_code == 5
    assert "recompute" in error.value.hint
    with pytest.raises(RuntimeError, match="size"), explained_failures("go on"):
        torch.ones(2) + torch.ones(3)


def test_a_full_disk_leaves_the_last_checkpoint_to_resume_from(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    whole, full = tmp_path / "whole", tmp_path / "full"
    train(settings(tmp_path), whole)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int, steps: int, line: Mapping[str, Any]) -> None:
        if step == 3:  # there is room for weights, but not for a checkpoint
            limit = 2 * (full / WEIGHTS).stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        with pytest.raises(VistoolError, match=r"checkpoint\.pt: could not be written") as error:
            train(settings(tmp_path), full, on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "make room" in error.value.hint
    assert not list(full.glob(".*"))  # nothing half-written
    train(settings(tmp_path), full)
    starts = [json.loads(line) for line in (full / STARTS).read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 2]
    assert losses(full) == losses(whole)


def test_a_log_or_weights_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    make_pictures(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit, name in ((600, LOG), (5000, WEIGHTS)):  # bytes
        run = tmp_path / name

        def fill(step: int, steps: int, line: Mapping[str, Any], limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

        try:
            with pytest.raises(OSError, match="File too large") as error:
                train(settings(tmp_path), run, on_step=fill)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert error.value.filename == str(run / name)


@pytest.mark.parametrize("existing", [False, True])
def test_a_refused_training_leaves_no_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "own.toml"
    config.write_text('init = "random"\ndevice = "cpu"\n[[sources]]\nannotations = "none.json"\n')
    if existing:  # existing files stay
        (tmp_path / "runs" / "train" / "own").mkdir(parents=True)
        (tmp_path / "runs" / "train" / "own" / "note.txt").write_text("mine")
    with pytest.raises(DataError, match=r"none\.json"):
        command(config=config, data=tmp_path, quiet=True)
    left = [path.name for path in (tmp_path / "runs" / "train").iterdir()]
    assert left == (["own"] if existing else [])


def test_a_missing_picture_costs_no_finished_step(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    run = tmp_path / "run"
    config = settings(tmp_path, save_every=100)

    def lose(step: int, steps: int, line: Mapping[str, Any]) -> None:
        for name in ("0.png", "1.png"):
            (tmp_path / name).rename(tmp_path / f"lost-{name}")

    with pytest.raises(DataError, match="missing"):
        train(config, run, on_step=lose)
    for name in ("0.png", "1.png"):
        (tmp_path / f"lost-{name}").rename(tmp_path / name)
    train(config, run)
    starts = [json.loads(line) for line in (run / STARTS).read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 1]


def test_nan_or_infinite_losses_stop_the_run_after_some_steps(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    run = tmp_path / "run"
    config = settings(
        tmp_path, steps=20, learning_rate=1e30, max_norm=0.0, warmup_steps=0, max_skipped=3
    )
    with pytest.raises(VistoolError, match=r"3 steps in a row.*not finite: loss, class") as error:
        train(config, run)
    assert "lower learning_rate" in error.value.hint
    assert [line["loss"] for line in lines(run)][-3:] == [None] * 3
    assert [("skipped" in line) for line in lines(run)][-4:] == [False, True, True, True]


def test_a_step_with_a_broken_clip_is_skipped_and_the_clip_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path, 3)

    def poisoned(clips: Sequence[TrainingClip], pixels: PixelConfig) -> Batch:
        batch = padded_batch(clips, pixels)
        for number, clip in enumerate(clips):
            if clip.origin.endswith("1.png"):
                batch.pixels[number] = torch.nan
        return batch

    monkeypatch.setattr("vistool.data.batches.padded_batch", poisoned)
    run = tmp_path / "run"
    train(settings(tmp_path, steps=12, max_skipped=12), run)
    skipped = [line["skipped"] for line in lines(run) if "skipped" in line]
    assert 0 < len(skipped) < 12
    for text in skipped:
        assert "class" in text
        assert f"in {tmp_path / '1.png'}" in text
        assert "0.png" not in text
    for value in load_model(str(run / WEIGHTS)).model.state_dict().values():
        assert value.isfinite().all()


def test_a_run_whose_last_step_is_skipped_is_saved_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path, 2)
    answers = iter([None, None, "dice"])
    monkeypatch.setattr("vistool.engine.train.train.broken_terms", lambda values: next(answers))
    run = tmp_path / "run"
    weights = train(settings(tmp_path, steps=3, save_every=100), run)
    assert read_header(weights).metadata["steps"] == "3 of 3"
    assert torch.load(run / CHECKPOINT, weights_only=True)["step"] == 3
    assert "dice" in lines(run)[-1]["skipped"]


def test_a_missing_tensorboard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pictures(tmp_path, 1)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="TensorBoard is not installed") as error:
        train(settings(tmp_path, tensorboard=True), tmp_path / "run")
    assert "vistool[tensorboard]" in error.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 3}, "batch = 3 clips cannot be shared evenly by 2 processes"),
        ({"accumulate": 0}, r"the settings: Expected `int` >= 1 - at `\$.accumulate`"),
        ({"ema_decay": 1.0}, r"Expected `float` < 1.0 - at `\$.ema_decay`"),
        ({"sources": ()}, r"`\$.sources`"),
        ({"canvases": ()}, r"`\$.canvases`"),
        ({"canvases": ((0, 64),)}, r"Expected `int` >= 1 - at `\$.canvases"),
        ({"workers": -1}, r"`\$.workers`"),
        ({"seed": -1}, r"`\$.seed`"),
        ({"learning_rate": -1.0}, r"`\$.learning_rate`"),
        ({"sources": (SourceConfig(annotations="a.json", weight=0.0),)}, r"`\$.sources"),
        ({"validation": ValidationConfig(annotations="a.json", every=0)}, r"validation.every"),
        ({"augment": AugmentConfig(max_pasted=0)}, r"augment.max_pasted"),
        ({"augment": AugmentConfig(scale=(0.0, 1.0))}, r"augment.scale"),
        ({"schedule": "step"}, "without milestones"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings(Path(), **changes).check(processes=2)


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(UsageError, match="scale goes from 2 to 1"):
        from_mapping({"scale": [2.0, 1.0]}, AugmentConfig, where="[augment]")


def scores(run: Path) -> dict[int, float]:
    return {line["step"]: line["val_AP50"] for line in lines(run) if "val_AP50" in line}


VALIDATED = {"validation": ValidationConfig(annotations="pictures.json", every=2), "save_every": 50}


def test_a_failing_validation_costs_no_step(tmp_path: Path) -> None:
    make_pictures(tmp_path / "train", 2)
    make_pictures(tmp_path / "held", 2)
    plan = ValidationConfig(annotations="../held/pictures.json", every=2)
    config = settings(tmp_path / "train", steps=3, validation=plan, save_every=50)
    run = tmp_path / "run"
    picture = next((tmp_path / "held").glob("*.png"))
    content = picture.read_bytes()
    picture.write_bytes(b"torn")
    with pytest.raises(DataError, match=picture.name):
        train(config, run)
    assert torch.load(run / CHECKPOINT, weights_only=True)["step"] == 2
    assert (run / WEIGHTS).exists()
    picture.write_bytes(content)
    train(config, run)
    assert [step for step, _ in losses(run)] == [1, 2, 3]
    assert sorted(scores(run)) == [2, 3]


@pytest.mark.parametrize("step", [2, 4])
def test_a_validation_stops_between_two_videos_when_requested(step: int, tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    config = settings(tmp_path, steps=4, **VALIDATED)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(config, whole)
    seen: list[int] = []

    def interrupt(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 2 * step - 3:  # the first video of the first validation, or of the second
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train(config, broken, on_validation=interrupt)
    assert len(seen) == 2 * step - 3
    assert torch.load(broken / CHECKPOINT, weights_only=True)["step"] == step
    assert step not in scores(broken)
    train(config, broken)
    assert (losses(broken), scores(broken)) == (losses(whole), scores(whole))
    assert read_header(broken / BEST).metadata == read_header(whole / BEST).metadata
    before = (broken / LOG).read_bytes()
    train(config, broken)  # all steps are done
    assert (broken / LOG).read_bytes() == before


def test_a_held_out_set_is_checked_before_training(tmp_path: Path) -> None:
    make_pictures(tmp_path / "train", 2)
    make_pictures(tmp_path / "held", 2)
    plan = ValidationConfig(annotations="../held/pictures.json")
    next((tmp_path / "held").glob("*.png")).unlink()
    with pytest.raises(DataError, match="1 frames are missing"):
        train(settings(tmp_path / "train", validation=plan), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["source", "validation"])
def test_annotations_without_masks_are_refused(what: str, tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    content = json.loads((tmp_path / "pictures.json").read_text())
    for annotation in content["annotations"]:
        annotation |= {"segmentation": [], "bbox": [1, 1, 5, 5]}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    boxes: dict[str, dict[str, Any]] = {
        "source": {"sources": (SourceConfig(annotations="boxes.json"),)},
        "validation": {"validation": ValidationConfig(annotations="boxes.json")},
    }
    with pytest.raises(DataError, match=r"boxes.json: 2 videos and pictures, and no mask"):
        train(settings(tmp_path, **boxes[what]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_source_without_pictures_is_named(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    content = json.loads((tmp_path / "pictures.json").read_text())
    (tmp_path / "none.json").write_text(json.dumps(content | {"images": [], "annotations": []}))
    sources = (SourceConfig(annotations="pictures.json"), SourceConfig(annotations="none.json"))
    with pytest.raises(DataError, match=r"none.json: no videos and no pictures"):
        train(settings(tmp_path, sources=sources), tmp_path / "run")


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    run = tmp_path / "run"
    few = ["steps=1", "workers=0", "batch=1", "device=cpu"]
    command(tmp_path / "pictures.json", output=run, overrides=few, quiet=True)
    before = (run / WEIGHTS).read_bytes()
    with pytest.raises(UsageError, match="is not empty") as error:
        command(tmp_path / "pictures.json", output=run, overrides=few, quiet=True)
    assert f"vistool train --resume {run}" in error.value.hint
    assert (run / WEIGHTS).read_bytes() == before


def test_temporary_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    run = tmp_path / "run"
    train(settings(tmp_path, steps=1), run)
    torn = [run / ".checkpoint-77-0a1b2c3d.part.pt", run / ".best-77-0a.part.safetensors"]
    for path in torn:
        path.write_bytes(b"half")
    train(settings(tmp_path, steps=1), run)
    assert not any(path.exists() for path in torn)
    assert (run / CHECKPOINT).exists()


def test_a_stop_in_a_validation_saves_a_step_that_was_skipped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path, 2)
    answers = iter([None, "dice"])
    monkeypatch.setattr("vistool.engine.train.train.broken_terms", lambda values: next(answers))

    def interrupt(done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(settings(tmp_path, steps=4, **VALIDATED), run, on_validation=interrupt)
    assert torch.load(run / CHECKPOINT, weights_only=True)["step"] == 2
