"""Check that each model can overfit eight clips, from random weights, to mask AP 0.95.

    python research/overfit.py                        # both models
    python research/overfit.py --models ifc --steps 2000

A correct training must be able to. examples/make_dataset.py makes clips of two frames; six of the
eight have two patterned shapes of three classes. The only augmentation is mirroring. The small
models have all parts of the papers' models and are trained by `vistool train`. AP is that of its
validation on the same eight clips, over track IoU from 0.5 to 0.95. Training stops when it reaches
the goal.

Wall-clock seconds include the effect of other programs on the machine; CPU seconds do not.

With OMP_NUM_THREADS=1 and --every 50, on one CPU core, IFC has AP 0.957 after 200 steps and 63 s,
VisTR has AP 0.950 after 450 steps and 107 s (with the published initialisation of its mask head, AP
0.137 after 700 steps; see MAPS_GAIN in models/vistr).
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
from vistool.engine.train.train import train

MAKER = Path(__file__).resolve().parent.parent / "examples" / "make_dataset.py"
CLIPS, FRAMES, SEED = 8, 2, 5
GOAL = 0.95
BACKBONE = {
    "kind": "resnet",
    "stem_channels": 16,
    "bottleneck_channels": 16,
    "blocks": [1, 1, 1, 1],
}
SMALL = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "feedforward_dim": 256,
    "dropout": 0.0,
    "clip_length": FRAMES,
}
MODELS: dict[str, dict[str, Any]] = {
    "ifc": {
        **SMALL,
        "architecture": "ifc",
        "backbone": BACKBONE,
        "hidden_dim": 96,
        "num_queries": 5,
        "test_short_side": 128,
    },
    # Its masks distinguish instances by attention maps, which sum to 1 and are thus stronger with
    # fewer cells. The mask head runs once per query.
    "vistr": {
        **SMALL,
        "architecture": "vistr",
        "backbone": BACKBONE,
        "hidden_dim": 192,
        "num_queries": 3,
        "test_short_side": 96,
    },
}
# Training settings that differ between the models.
TRAINING: dict[str, dict[str, Any]] = {
    "ifc": {"learning_rate": 1e-3},
    "vistr": {
        "learning_rate": 1e-3,
        "batch": 4,
        "loss": {"dice_weight": 4.0, "focal_weight": 4.0},
    },
}


class ReachedError(Exception):
    """Stops the training when the goal is reached."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=1500, help="at most")
    parser.add_argument("--every", type=int, default=25, help="steps between two validations")
    args = parser.parse_args()
    print(f"{CLIPS} clips of {FRAMES} frames; {torch.get_num_threads()} threads")
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            if not overfit(name, Path(folder), args.steps, args.every):
                raise SystemExit(f"{name}: AP {GOAL} not reached in {args.steps} steps")


def overfit(name: str, folder: Path, steps: int, every: int) -> bool:
    """Train a model until its AP reaches the goal. Returns: False if it does not in `steps`."""
    make_set = runpy.run_path(str(MAKER))["make_set"]
    make_set(folder, "clips", videos=CLIPS, frames=FRAMES, size=canvas(name), seed=SEED)
    config = settings(name, folder, steps, every)
    begun, begun_cpu = time.perf_counter(), time.process_time()

    last: dict[str, Any] = {}

    def report(step: int, scores: Mapping[str, float]) -> None:
        terms = ", ".join(f"{term} {last[term]:.3f}" for term in ("loss", "class", "dice"))
        print(
            f"{name:6} step {step:5}: {terms}; AP {scores['val_AP']:.3f}, "
            f"AP50 {scores['val_AP50']:.3f}; {time.perf_counter() - begun:4.0f} s, "
            f"{time.process_time() - begun_cpu:4.0f} s of CPU",
            flush=True,
        )
        if scores["val_AP"] >= GOAL:
            raise ReachedError

    try:
        train(
            config,
            folder / "run",
            on_step=lambda step, steps, line: last.update(line),
            on_scores=report,
        )
    except ReachedError:
        return True
    return False


def canvas(name: str) -> tuple[int, int]:
    """The height and width of a model's pictures."""
    height: int = MODELS[name]["test_short_side"]
    return height, height + 32


def settings(name: str, folder: Path, steps: int, every: int) -> TrainConfig:
    values = {
        "data": str(folder),
        "sources": [{"annotations": "clips.json"}],
        "validation": {"annotations": "clips.json", "every": every},
        "model": MODELS[name],
        "pipeline": {"paper": "ifc", "short_sides": [canvas(name)[0]]},
        "init": "random",
        "frozen_blocks": 0,
        "steps": steps,
        "batch": CLIPS,
        "clip_length": FRAMES,
        "backbone_rate": TRAINING[name]["learning_rate"],
        "weight_decay": 0.0,
        "warmup_steps": 50,
        "ema_decay": 0.98,
        "workers": 0,  # clips this small take no time
        "save_every": steps,
        **TRAINING[name],
    }
    config: TrainConfig = from_mapping(values, TrainConfig, where="the benchmark")
    return config


if __name__ == "__main__":
    main()
