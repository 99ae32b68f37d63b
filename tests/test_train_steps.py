"""One step of a training: gradients, precision, rates, frozen parts and averaged weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.made_data import make_pictures
from tests.made_training import (
    TINY,
    TINY_VISTR,
    KilledError,
    assert_close_gradients,
    dies_at,
    gradients,
    lines,
    losses,
    settings,
    unlabel,
    without_dropout,
)
from vistool.engine.train.checkpoint import CHECKPOINT
from vistool.engine.train.schedule import rate_factor
from vistool.engine.train.train import train
from vistool.errors import (
    UsageError,
    VistoolError,
)
from vistool.models import build_model
from vistool.models.checkpoints.files import load_model


@pytest.mark.parametrize("model", [TINY, TINY_VISTR], ids=["ifc", "vistr"])
def test_accumulated_batches_have_the_gradients_of_a_large_one(
    tmp_path: Path, model: dict[str, Any]
) -> None:
    # One picture has no labels, so the divisors of the parts differ.
    make_pictures(tmp_path, 3)
    unlabel(tmp_path / "pictures.json", image_id=1)
    common = {"steps": 1, "model": without_dropout(model), "clip_length": 2}
    train(settings(tmp_path, batch=6, **common), tmp_path / "large")
    train(settings(tmp_path, batch=2, accumulate=3, **common), tmp_path / "parts")
    assert_close_gradients(tmp_path / "parts", tmp_path / "large")
    ((_, expected),), ((_, loss),) = losses(tmp_path / "large"), losses(tmp_path / "parts")
    assert loss == pytest.approx(expected, rel=1e-5)


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
def test_every_trained_parameter_has_a_gradient_even_without_labels(
    tmp_path: Path, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes rely on it: none looks for parameters that a step left out."""
    make_pictures(tmp_path, 1)
    unlabel(tmp_path / "pictures.json", image_id=1)
    # A data set without any labels is refused, but all pictures of one step may lack them.
    monkeypatch.setattr("vistool.engine.train.setup.refuse_unlabelled", lambda videos, source: None)
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
    # bfloat16 has eight bits of precision; the weights are the same.
    assert losses(whole)[0][1] == pytest.approx(losses(full)[0][1], rel=0.03)
    saved = torch.load(whole / CHECKPOINT, weights_only=True)["scaler"]
    assert bool(saved) == (precision == "fp16")


def test_gradients_beyond_float16_lower_the_scale_without_stopping_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path, 2)

    def sensitive(device: str, enabled: bool) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(device, enabled=enabled, init_scale=2.0**30)

    monkeypatch.setattr("vistool.engine.train.train.GradScaler", sensitive)
    run = tmp_path / "run"
    train(settings(tmp_path, precision="fp16", steps=30, max_skipped=2), run)
    skipped = [line["skipped"] for line in lines(run) if "skipped" in line]
    assert skipped[0] == "gradients beyond float16 at scale 1.07374e+09"
    assert 2 < len(skipped) < 30


def test_a_model_that_cannot_be_compiled_is_reported_in_one_line(
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
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler for torch.compile"
)
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


def test_the_first_weights_soon_lose_their_share_of_the_average(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    run = tmp_path / "run"
    train(settings(tmp_path, steps=3, ema_decay=0.0, save_every=3), run)
    saved = torch.load(run / CHECKPOINT, weights_only=True)
    for key, value in saved["model"].items():
        torch.testing.assert_close(saved["averaged"][f"module.{key}"], value, rtol=0, atol=0)


def test_the_rates_are_those_of_the_papers() -> None:
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
