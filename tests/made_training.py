"""Small trainings on synthetic pictures, and readers of their files, for the tests of `train`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vistool.config import (
    AugmentConfig,
    SourceConfig,
    TrainConfig,
)
from vistool.engine.train.checkpoint import CHECKPOINT
from vistool.engine.train.log import LOG

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
    return [(line["step"], line["loss"]) for line in lines(run) if "loss" in line]


class KilledError(Exception):
    pass


def dies_at(last: int) -> Callable[[int, int, Mapping[str, Any]], None]:
    def on_step(step: int, steps: int, line: Mapping[str, Any]) -> None:
        if step == last:
            raise KilledError

    return on_step


def gradients(run: Path) -> list[torch.Tensor]:
    """The clipped gradients of the first step, from Adam's first moments."""
    saved = torch.load(run / CHECKPOINT, weights_only=True)
    return [moments["exp_avg"] for moments in saved["optimizer"]["state"].values()]


def assert_close_gradients(run: Path, expected: Path) -> None:
    wanted = gradients(expected)
    largest = max(gradient.abs().max().item() for gradient in wanted)
    for actual, gradient in zip(gradients(run), wanted, strict=True):
        # Sums in another order differ, relative to the tensor's largest value. Some gradients, such
        # as those of the key biases in attention, are only rounding errors.
        atol = 2e-5 * gradient.abs().max().item() + 1e-7 * largest
        torch.testing.assert_close(actual, gradient, rtol=0, atol=atol)


def without_dropout(model: dict[str, Any]) -> dict[str, Any]:
    return {**model, "dropout": 0.0}


def unlabel(path: Path, image_id: int) -> None:
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != image_id]
    content["images"][image_id - 1] |= {"exhaustive": False, "exhaustive_category_ids": []}
    path.write_text(json.dumps(content))
