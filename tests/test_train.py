"""The training loop: it learns, it resumes exactly, and it says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.made_data import make_pictures
from vistool.config import AugmentConfig, SourceConfig, TrainConfig
from vistool.engine.train import CHECKPOINT, LOG, WEIGHTS, started_with, train
from vistool.errors import UsageError, VistoolError, WeightsError
from vistool.models.weights import load_model, read_header

TINY = {
    "backbone": {"kind": "resnet", "stem_channels": 8, "bottleneck_channels": 4},
    "hidden_dim": 32,
    "num_heads": 4,
    "feedforward_dim": 64,
    "num_queries": 5,
    "encoder_layers": 1,
    "decoder_layers": 2,
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
        "workers": 0,
        "save_every": 2,
        "device": "cpu",
        "card": {"license": "Apache-2.0"},
        **changes,
    }
    return TrainConfig(**values)  # type: ignore[arg-type]


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


class KilledError(Exception):
    pass


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    config = settings(tmp_path)
    train(config, whole)

    saved = {}

    def die_at_five(step: int, steps: int, terms: dict[str, float]) -> None:
        if step == 5:  # as SIGKILL would leave it: the checkpoint is that of step 4
            saved["checkpoint"] = (broken / CHECKPOINT).read_bytes()
            raise KilledError

    with pytest.raises(KilledError):
        train(config, broken, on_step=die_at_five)
    (broken / CHECKPOINT).write_bytes(saved["checkpoint"])
    train(started_with(broken), broken)

    assert losses(whole) == losses(broken)
    assert sorted(losses(whole)) == [1, 2, 3, 4, 5, 6]
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


def test_a_damaged_checkpoint_is_reported(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    run = tmp_path / "run"
    train(settings(tmp_path, steps=1), run)
    (run / CHECKPOINT).write_bytes((run / CHECKPOINT).read_bytes()[:1000])
    with pytest.raises(WeightsError, match="not a usable checkpoint"):
        train(settings(tmp_path, steps=1), run)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_term(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    with pytest.raises(VistoolError, match="no longer a number; terms: class"):
        train(
            settings(tmp_path, steps=20, learning_rate=1e30, max_norm=1e30, warmup_steps=0),
            tmp_path / "run",
        )


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
    train(settings(tmp_path, steps=400, batch=4, learning_rate=1e-3, backbone_rate=1e-3), run)
    values = list(losses(run).values())
    assert sum(values[-20:]) < 0.5 * sum(values[:20])
