"""Can each model learn eight clips by heart, from random weights, to mask AP 0.95?

    python benchmarks/overfit.py                        # both models
    python benchmarks/overfit.py --models ifc --steps 2000

A training that is set up right must. Clips of two frames with patterned shapes are made for it by
examples/make_dataset.py, and nothing is done to them but that they are mirrored at times. The
training is `vistool train`'s own, small models of both papers, and AP is that of its validation, on
the same eight clips; it stops as soon as that reaches the goal.
"""

from __future__ import annotations

import argparse
import runpy
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vistool.config import TrainConfig, from_mapping
from vistool.engine.train import train

MAKER = Path(__file__).resolve().parent.parent / "examples" / "make_dataset.py"
CLIPS, FRAMES, HEIGHT, WIDTH = 8, 2, 192, 256
GOAL = 0.95
BACKBONE = {
    "kind": "resnet",
    "stem_channels": 16,
    "bottleneck_channels": 16,
    "blocks": [1, 1, 1, 1],
}
SMALL = {
    "backbone": BACKBONE,
    "num_queries": 5,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "feedforward_dim": 256,
    "dropout": 0.0,
    "clip_length": FRAMES,
    "test_short_side": HEIGHT,
}
MODELS = {
    "ifc": {"architecture": "ifc", "hidden_dim": 96, **SMALL},
    "vistr": {"architecture": "vistr", "hidden_dim": 96, **SMALL},
}


class ReachedError(Exception):
    """The goal, so that no more is trained."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=1500, help="at most")
    parser.add_argument("--every", type=int, default=100, help="steps between two looks at AP")
    args = parser.parse_args()
    print(f"{CLIPS} clips of {FRAMES} frames, {WIDTH}x{HEIGHT}; {torch.get_num_threads()} threads")
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            overfit(name, Path(folder), args.steps, args.every)


def overfit(name: str, folder: Path, steps: int, every: int) -> None:
    make_set = runpy.run_path(str(MAKER))["make_set"]
    make_set(folder, "clips", videos=CLIPS, frames=FRAMES, size=(HEIGHT, WIDTH), seed=4)
    config = settings(MODELS[name], folder, steps, every)
    begun = time.perf_counter()

    def told(step: int, _steps: int, line: Mapping[str, Any]) -> None:
        if "val_AP" in line:
            seconds = time.perf_counter() - begun
            print(
                f"{name:6} step {step:5}: loss {line['loss']:.3f}, AP {line['val_AP']:.3f}, "
                f"AP50 {line['val_AP50']:.3f}, {seconds:4.0f} s",
                flush=True,
            )
            if line["val_AP"] >= GOAL:
                raise ReachedError

    try:
        train(config, folder / "run", on_step=told)
    except ReachedError:
        print(f"{name}: learnt by heart")
    else:
        raise SystemExit(f"{name}: AP {GOAL} not reached in {steps} steps")


def settings(model: dict[str, Any], folder: Path, steps: int, every: int) -> TrainConfig:
    values = {
        "data": str(folder),
        "sources": [{"annotations": "clips.json"}],
        "validation": {"annotations": "clips.json", "every": every},
        "model": model,
        "pipeline": {"paper": "ifc", "short_sides": [HEIGHT]},
        "init": "random",
        "frozen_blocks": 0,
        "steps": steps,
        "batch": CLIPS,
        "clip_length": FRAMES,
        "learning_rate": 1e-3,
        "backbone_rate": 1e-3,
        "weight_decay": 0.0,
        "warmup_steps": 50,
        "ema_decay": 0.98,
        "save_every": steps,
    }
    config: TrainConfig = from_mapping(values, TrainConfig, where="the benchmark")
    return config


if __name__ == "__main__":
    main()
