"""The training loop: it learns, it resumes exactly, and it says what is wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.made_data import make_pictures, make_video
from vistool.cli.train import train as command
from vistool.config import (
    AugmentConfig,
    IFCConfig,
    PixelConfig,
    SourceConfig,
    TrainConfig,
    ValidationConfig,
)
from vistool.data.annotations import read_annotations
from vistool.data.batches import Batch, collate
from vistool.data.clips import TrainingClip
from vistool.engine.checkpoint import CHECKPOINT, PREVIOUS
from vistool.engine.distributed import Processes
from vistool.engine.failures import failures_in_words
from vistool.engine.interruption import stop_wish
from vistool.engine.run_log import LOG, STARTS, code_revision
from vistool.engine.schedule import rate_factor
from vistool.engine.train import BEST, WEIGHTS, train
from vistool.engine.train_setup import started_with
from vistool.engine.validate import validate
from vistool.errors import (
    DataError,
    OutOfMemoryError,
    UsageError,
    VistoolError,
    WeightsError,
)
from vistool.models import build_model
from vistool.models.weights import load_model, read_header
from vistool.structures import ClipOutput, FrameFeatures

TINY = {
    "backbone": {"kind": "resnet", "stem_channels": 8, "bottleneck_channels": 4},
    "hidden_dim": 32,
    "num_heads": 4,
    "feedforward_dim": 64,
    "num_queries": 5,
    "encoder_layers": 1,
    "decoder_layers": 2,
}

TINY_VISTR = {
    **TINY,
    "architecture": "vistr",
    "hidden_dim": 48,
    "num_queries": 3,
    "clip_length": 2,
}


def settings(folder: Path, **changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "classes": {"red": ("red square",), "blue": ("blue square",)},
        "sources": (SourceConfig(annotations="pictures.json"),),
        "data": str(folder),
        "model": TINY,
        "augment": AugmentConfig(),
        "init": "random",
        "steps": 6,
        "batch": 2,
        "canvases": ((64, 64),),
        "frozen_blocks": 0,
        "warmup_steps": 2,
        "workers": 0,
        "save_every": 2,
        "device": "cpu",
        "card": {"license": "Apache-2.0"},
        **changes,
    }
    return TrainConfig(**values)  # type: ignore[arg-type]


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / LOG).read_text().splitlines()]


def losses(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in lines(run)]


class KilledError(Exception):
    pass


def dies_at(last: int) -> Callable[[int, int, Mapping[str, Any]], None]:
    def on_step(step: int, steps: int, line: Mapping[str, Any]) -> None:
        if step == last:
            raise KilledError

    return on_step


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    config = settings(tmp_path)
    train(config, whole)

    with pytest.raises(KilledError):
        train(config, broken, on_step=dies_at(5))  # the checkpoint is that of step 4
    assert [step for step, _ in losses(broken)] == [1, 2, 3, 4, 5]
    train(started_with(broken), broken)

    assert losses(whole) == losses(broken)
    assert [step for step, _ in losses(whole)] == [1, 2, 3, 4, 5, 6]
    starts = [json.loads(line) for line in (broken / STARTS).read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 4]
    expected, resumed = load_model(str(whole / WEIGHTS)), load_model(str(broken / WEIGHTS))
    for key, value in expected.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[key], value, rtol=0, atol=0)


def test_the_weight_file_tells_what_it_is(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    weights = train(settings(tmp_path, steps=1), tmp_path / "run")
    header = read_header(weights)
    assert header.config.class_names == ("red", "blue")
    assert header.metadata["license"] == "Apache-2.0"
    assert header.metadata["steps"] == "1 of 1"
    assert json.loads(header.metadata["training"])["batch"] == 2
    assert str(tmp_path) not in "".join(header.metadata.values())


def test_a_run_goes_on_with_its_own_settings_only(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    train(settings(tmp_path, steps=1), tmp_path / "run")
    with pytest.raises(UsageError, match="other settings"):
        train(settings(tmp_path, steps=1, seed=5), tmp_path / "run")
    with pytest.raises(UsageError, match="no training was started"):
        started_with(tmp_path)


def flipped(path: Path) -> None:
    """One bit of some tensor changes; torch reads the file without a complaint."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("damage", [cut, flipped, Path.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    make_pictures(tmp_path, 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(settings(tmp_path), whole)
    with pytest.raises(KilledError):
        train(settings(tmp_path), broken, on_step=dies_at(5))
    damage(broken / CHECKPOINT)
    warnings: list[str] = []
    train(settings(tmp_path), broken, on_warning=warnings.append)
    assert losses(whole) == losses(broken)
    if damage is Path.unlink:  # as if killed between two renamings: nothing is wrong
        assert warnings == []
    else:
        assert "not a usable checkpoint" in warnings[0]
        assert "of step 2" in warnings[0]


def test_two_damaged_checkpoints_are_reported(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    run = tmp_path / "run"
    train(settings(tmp_path, steps=4), run)
    for name in (CHECKPOINT, PREVIOUS):
        cut(run / name)
    with pytest.raises(WeightsError, match="not a usable checkpoint"):
        train(settings(tmp_path, steps=4), run)


def test_a_torn_last_line_of_the_log_is_written_anew(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    run = tmp_path / "run"
    with pytest.raises(KilledError):
        train(settings(tmp_path), run, on_step=dies_at(3))
    with (run / LOG).open("a") as log:
        log.write('{"step":4,"lo')
    train(settings(tmp_path), run)
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_asked_to_stop_finishes_its_step_and_saves(
    tmp_path: Path, number: signal.Signals
) -> None:
    make_pictures(tmp_path, 4)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    config = settings(tmp_path, save_every=100)
    train(config, whole)

    def ask(step: int, steps: int, line: Mapping[str, Any]) -> None:
        if step == 3:  # all processes of the job, as a scheduler or a terminal does
            for worker in multiprocessing.active_children():
                assert worker.pid is not None
                os.kill(worker.pid, number)
            os.kill(os.getpid(), number)
            if number != signal.SIGINT:  # and `torchrun`, which has got it too, passes it on
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        train(settings(tmp_path, save_every=100, workers=1), stopped, on_step=ask)
    assert signal.getsignal(number) == before
    assert [step for step, _ in losses(stopped)] == [1, 2, 3, 4]  # what was begun by then
    train(config, stopped)
    assert losses(stopped) == losses(whole)


def test_a_second_ctrl_c_ends_the_process_and_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with stop_wish() as wish:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not wish.expressed
            os.kill(os.getpid(), signal.SIGINT)
            assert wish.expressed
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_data_worker_that_dies_is_told_in_one_line(tmp_path: Path) -> None:
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


def test_memory_that_is_full_has_its_exit_code_and_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(OutOfMemoryError) as error, failures_in_words("go on"):
        torch.empty(2**60)
    assert error.value.exit_code == 5
    assert "recompute" in error.value.hint
    with pytest.raises(RuntimeError, match="size"), failures_in_words("go on"):
        torch.ones(2) + torch.ones(3)


def test_a_disk_that_is_full_leaves_the_last_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    whole, full = tmp_path / "whole", tmp_path / "full"
    train(settings(tmp_path), whole)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int, steps: int, line: Mapping[str, Any]) -> None:
        if step == 3:  # weights still fit, a checkpoint does not
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
    for limit, name in ((600, LOG), (5000, WEIGHTS)):  # bytes; config.json has more than the first
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
def test_what_is_refused_leaves_no_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "own.toml"
    config.write_text('init = "random"\ndevice = "cpu"\n[[sources]]\nannotations = "none.json"\n')
    if existing:  # what is there already stays
        (tmp_path / "runs" / "train" / "own").mkdir(parents=True)
        (tmp_path / "runs" / "train" / "own" / "note.txt").write_text("mine")
    with pytest.raises(DataError, match=r"none\.json"):
        command(config=config, data=tmp_path, quiet=True)
    left = [path.name for path in (tmp_path / "runs" / "train").iterdir()]
    assert left == (["own"] if existing else [])


def test_a_data_set_is_where_it_is(tmp_path: Path) -> None:
    path = make_pictures(tmp_path, 1)
    with pytest.raises(UsageError, match="--data goes with a configuration"):
        command(config=path, data=tmp_path, quiet=True)


def test_a_run_goes_on_though_the_weights_it_started_from_are_gone(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    start = train(settings(tmp_path, steps=1), tmp_path / "start")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    config = settings(tmp_path, init=str(start))
    train(config, whole)
    with pytest.raises(KilledError):
        train(config, broken, on_step=dies_at(3))
    start.unlink()
    command(resume=broken, quiet=True)
    assert losses(broken) == losses(whole)


def test_a_picture_that_is_missing_costs_no_step_that_was_done(tmp_path: Path) -> None:
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


def test_losses_that_are_no_numbers_stop_the_run_after_some_steps(tmp_path: Path) -> None:
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


def test_a_step_with_a_broken_clip_is_skipped_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path, 3)

    def poisoned(clips: list[TrainingClip], pixels: PixelConfig) -> Batch:
        batch = collate(clips, pixels)
        for number, clip in enumerate(clips):
            if clip.origin.endswith("1.png"):
                batch.pixels[number] = torch.nan
        return batch

    monkeypatch.setattr("vistool.data.batches.collate", poisoned)
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
    monkeypatch.setattr("vistool.engine.train.broken_terms", lambda values: next(answers))
    run = tmp_path / "run"
    weights = train(settings(tmp_path, steps=3, save_every=100), run)
    assert read_header(weights).metadata["steps"] == "3 of 3"
    assert torch.load(run / CHECKPOINT, weights_only=True)["step"] == 3
    assert "dice" in lines(run)[-1]["skipped"]


def gradients(run: Path) -> list[torch.Tensor]:
    """Of the first step, clipped, from what Adam remembers of them."""
    saved = torch.load(run / CHECKPOINT, weights_only=True)
    return [moments["exp_avg"] for moments in saved["optimizer"]["state"].values()]


def assert_close_gradients(run: Path, expected: Path) -> None:
    wanted = gradients(expected)
    largest = max(gradient.abs().max().item() for gradient in wanted)
    for actual, gradient in zip(gradients(run), wanted, strict=True):
        # Sums in another order, relative to the tensor's largest; some gradients, as of the biases
        # of attention's keys, are nothing but rounding.
        atol = 2e-5 * gradient.abs().max().item() + 1e-7 * largest
        torch.testing.assert_close(actual, gradient, rtol=0, atol=atol)


def without_dropout(model: dict[str, Any]) -> dict[str, Any]:
    return {**model, "dropout": 0.0}


@pytest.mark.parametrize("model", [TINY, TINY_VISTR], ids=["ifc", "vistr"])
def test_accumulated_batches_have_the_gradients_of_a_large_one(
    tmp_path: Path, model: dict[str, Any]
) -> None:
    # One picture is not labelled at all, so the parts differ in what they are divided by.
    make_pictures(tmp_path, 3)
    unlabel(tmp_path / "pictures.json", image_id=1)
    common = {"steps": 1, "model": without_dropout(model), "clip_length": 2}
    train(settings(tmp_path, batch=6, **common), tmp_path / "large")
    train(settings(tmp_path, batch=2, accumulate=3, **common), tmp_path / "parts")
    assert_close_gradients(tmp_path / "parts", tmp_path / "large")
    ((_, expected),), ((_, loss),) = losses(tmp_path / "large"), losses(tmp_path / "parts")
    assert loss == pytest.approx(expected, rel=1e-5)


def unlabel(path: Path, image_id: int) -> None:
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != image_id]
    content["images"][image_id - 1] |= {"exhaustive": False, "exhaustive_category_ids": []}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("model", [TINY, TINY_VISTR], ids=["ifc", "vistr"])
def test_recomputed_activations_give_the_same_gradients(
    tmp_path: Path, model: dict[str, Any]
) -> None:
    make_pictures(tmp_path, 2)
    common = {"steps": 1, "model": model, "clip_length": 2}  # with dropout
    train(settings(tmp_path, **common), tmp_path / "stored")
    train(settings(tmp_path, recompute=True, **common), tmp_path / "recomputed")
    assert_close_gradients(tmp_path / "recomputed", tmp_path / "stored")


@pytest.mark.parametrize("model", [TINY, TINY_VISTR], ids=["ifc", "vistr"])
def test_every_trained_parameter_has_a_gradient_even_where_nothing_is_to_be_found(
    tmp_path: Path, model: dict[str, Any]
) -> None:
    """Several processes rely on it: none looks for parameters that a step left out."""
    make_pictures(tmp_path, 1)
    unlabel(tmp_path / "pictures.json", image_id=1)
    train(settings(tmp_path, steps=1, model=model, clip_length=2), tmp_path / "run")
    config = settings(tmp_path, model=model, clip_length=2).model_config()
    trained = build_model(config)
    trained.backbone.freeze_first(0)
    assert len(gradients(tmp_path / "run")) == sum(p.requires_grad for p in trained.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_resumes_exactly(tmp_path: Path, precision: str) -> None:
    make_pictures(tmp_path, 4)
    full, whole, broken = (tmp_path / name for name in ("full", "whole", "broken"))
    train(settings(tmp_path), full)
    config = settings(tmp_path, precision=precision)
    train(config, whole)
    with pytest.raises(KilledError):
        train(config, broken, on_step=dies_at(5))
    train(config, broken)
    assert losses(whole) == losses(broken)
    assert losses(whole) != losses(full)
    # Eight bits of precision through a few layers, at the same weights.
    assert losses(whole)[0][1] == pytest.approx(losses(full)[0][1], rel=0.03)
    saved = torch.load(whole / CHECKPOINT, weights_only=True)["scaler"]
    assert bool(saved) == (precision == "fp16")


def test_gradients_beyond_float16_lower_the_scale_and_are_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path, 2)

    def sensitive(device: str, enabled: bool) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(device, enabled=enabled, init_scale=2.0**30)

    monkeypatch.setattr("vistool.engine.train.GradScaler", sensitive)
    run = tmp_path / "run"
    train(settings(tmp_path, precision="fp16", steps=30, max_skipped=2), run)
    skipped = [line["skipped"] for line in lines(run) if "skipped" in line]
    assert skipped[0] == "gradients beyond float16 at scale 1.07374e+09"
    assert 2 < len(skipped) < 30


def test_a_model_that_cannot_be_compiled_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path, 1)

    def fail(*arguments: object, **settings: object) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", lambda network: fail)
    with pytest.raises(VistoolError, match=r"^torch\.compile failed: no C\+\+ compiler$") as error:
        train(settings(tmp_path, compile=True), tmp_path / "run")
    assert "compile=false" in error.value.hint


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch's compiler itself uses
def test_a_compiled_model_has_the_losses_of_one_that_is_not(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    without = {"steps": 3, "model": without_dropout(TINY)}
    train(settings(tmp_path, **without), tmp_path / "plain")
    train(settings(tmp_path, compile=True, **without), tmp_path / "compiled")
    for (_, expected), (_, loss) in zip(
        losses(tmp_path / "plain"), losses(tmp_path / "compiled"), strict=True
    ):
        assert loss == pytest.approx(expected, rel=1e-3)  # fused sums, and three steps on


def test_frozen_stages_keep_their_weights(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    first = train(settings(tmp_path, steps=1), tmp_path / "first")
    config = settings(tmp_path, steps=2, init=str(first), frozen_blocks=None, backbone_rate=1e-2)
    second = train(config, tmp_path / "second")  # one stage, as in the papers
    before, after = (load_model(str(path)).model.state_dict() for path in (first, second))
    moved = {
        key.removeprefix("backbone.").partition(".weight")[0]
        for key in before
        if key.startswith("backbone.") and not torch.equal(before[key], after[key])
    }
    assert not any(key.startswith(("stem", "stages.0")) for key in moved)
    for stage in (1, 2, 3):
        assert any(key.startswith(f"stages.{stage}") for key in moved)
    with pytest.raises(UsageError, match="frozen_blocks = 5: the backbone has 4 stages"):
        train(settings(tmp_path, frozen_blocks=5), tmp_path / "third")


def test_the_best_of_the_validated_weights_are_kept(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    run, broken = tmp_path / "run", tmp_path / "broken"
    plan = ValidationConfig(annotations="pictures.json", every=2, measure="AP50")
    config = settings(tmp_path, steps=5, validation=plan)
    train(config, run)
    scores = {line["step"]: line["val_AP50"] for line in lines(run) if "val_AP50" in line}
    assert sorted(scores) == [2, 4, 5]  # also in the end
    header = read_header(run / BEST)
    best = max(scores, key=lambda step: (scores[step], -step))
    assert header.metadata["steps"] == f"{best} of 5"
    assert f"AP50 {scores[best]:.4f} on pictures.json" in header.metadata["validation"]
    with pytest.raises(KilledError):
        train(config, broken, on_step=dies_at(3))
    train(config, broken)
    assert read_header(broken / BEST).metadata == header.metadata
    expected, resumed = (load_model(str(r / BEST)).model.state_dict() for r in (run, broken))
    for key, value in expected.items():
        torch.testing.assert_close(resumed[key], value, rtol=0, atol=0)


def test_a_model_that_finds_everything_validates_at_one(tmp_path: Path) -> None:
    videos = read_annotations(make_video(tmp_path, 4), {"red": ["red square"]})
    model = OneSquare()
    scores = validate(model, videos, Processes(torch.device("cpu")))  # type: ignore[arg-type]
    assert scores == {"AP": 1.0, "AP50": 1.0}


class OneSquare:
    """Sees what is as red as the made square, and is sure of it."""

    config = IFCConfig(class_names=("red",), test_short_side=64, clip_length=2, clip_stride=1)

    def encode_frames(self, pixels: torch.Tensor) -> FrameFeatures:
        red, _, blue = pixels.unbind(1)
        logits = torch.where(red - blue > 2, 10.0, -10.0)
        return FrameFeatures(top=logits[:, None], laterals=(), padded=None)

    def decode_clips(self, features: FrameFeatures, num_frames: int) -> ClipOutput:
        masks = features.top.unflatten(0, (-1, num_frames)).transpose(1, 2)
        return ClipOutput(torch.tensor([[[10.0, -10.0]]]).expand(len(masks), -1, -1), masks)


def test_tensorboard_is_asked_for_by_name_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path, 1)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="TensorBoard is not installed") as error:
        train(settings(tmp_path, tensorboard=True), tmp_path / "run")
    assert "vistool[tensorboard]" in error.value.hint


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_revision_is_that_of_the_code_and_not_of_the_repository_around_it(
    tmp_path: Path,
) -> None:
    package, installed = tmp_path / "package", tmp_path / "venv" / "package"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("x = 1\n")
    assert code_revision(package) is None
    git(tmp_path, "init")
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert code_revision(package) == commit
    assert code_revision(installed) is None
    (package / "__init__.py").write_text("x = 2\n")
    assert code_revision(package) == f"{commit}-dirty"


def test_the_first_weights_soon_fade_from_the_average(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    run = tmp_path / "run"
    train(settings(tmp_path, steps=3, ema_decay=0.0, save_every=3), run)
    saved = torch.load(run / CHECKPOINT, weights_only=True)
    for key, value in saved["model"].items():
        torch.testing.assert_close(saved["averaged"][f"module.{key}"], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 3}, "batch = 3 clips cannot be shared evenly by 2 processes"),
        ({"accumulate": 0}, "accumulate = 0: must be at least 1"),
        ({"ema_decay": 1.0}, "ema_decay = 1"),
        ({"schedule": "step"}, "without milestones"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings(Path(), **changes).check(processes=2)


def test_the_rates_of_the_papers() -> None:
    paper = settings(
        Path(), schedule="step", steps=6000, milestones=(4000,), warmup_factor=1.0, warmup_steps=10
    )
    assert [rate_factor(paper, step) for step in (0, 3999, 4000, 5999)] == [
        1.0,
        1.0,
        pytest.approx(0.1),
        pytest.approx(0.1),
    ]
    smooth = settings(Path(), schedule="cosine", steps=1000, warmup_steps=0)
    assert rate_factor(smooth, 500) == pytest.approx(0.5)
    half = settings(Path(), schedule="constant", warmup_factor=0.5, warmup_steps=10)
    np.testing.assert_allclose(
        [rate_factor(half, step) for step in (0, 4, 9, 99)], [0.55, 0.75, 1, 1]
    )


def test_a_run_is_resumed_with_its_own_settings_and_the_few_that_may_change(tmp_path: Path) -> None:
    make_pictures(tmp_path / "here", 2)
    run = tmp_path / "run"
    with pytest.raises(KilledError):
        train(settings(tmp_path / "here", steps=3), run, on_step=dies_at(2))
    with pytest.raises(UsageError, match="own settings"):
        command(config=tmp_path / "other.toml", resume=run)
    with pytest.raises(UsageError, match="started with other settings: seed"):
        command(resume=run, overrides=["seed=9"])
    (tmp_path / "here").rename(tmp_path / "moved")
    command(resume=run, data=tmp_path / "moved", quiet=True)
    assert [step for step, _ in losses(run)] == [1, 2, 3]
    assert started_with(run).data == str(tmp_path / "moved")


def test_training_starts_from_another_run_s_weights(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    first = train(settings(tmp_path, steps=1), tmp_path / "first")
    second = train(
        settings(tmp_path, steps=1, init=str(first), learning_rate=0.0, backbone_rate=0.0),
        tmp_path / "second",
    )
    started = load_model(str(first)).model.state_dict()
    for key, value in load_model(str(second)).model.state_dict().items():
        torch.testing.assert_close(value, started[key], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_tiny_model_learns_to_tell_made_squares_apart(tmp_path: Path) -> None:
    make_pictures(tmp_path, 8)
    run = tmp_path / "run"
    rates = {"learning_rate": 1e-3, "backbone_rate": 1e-3, "warmup_steps": 100}
    # Plain clips: what the augmentations add takes longer to learn than a test may.
    plain = AugmentConfig(motion=0.0, colour=0.0, blur_chance=0.0, paste_chance=0.0)
    train(settings(tmp_path, steps=400, batch=4, augment=plain, **rates), run)
    values = [loss for _, loss in losses(run)]
    assert sum(values[-20:]) < 0.5 * sum(values[:20])
