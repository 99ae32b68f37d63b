"""The released weights from the annotated sets, in one command: all stages, one after the other.

    python research/train_release.py ifc-lite --data FOLDER
    python research/train_release.py vistr-lite --data FOLDER --ifc ifc-lite

Every stage is a training with a run folder in --runs; started again, this goes on where it was
stopped. The result is RUNS/NAME.safetensors. How long the stages take, and what they gave, is
in weights/README.md.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vistool.config import TrainConfig, apply_overrides, from_mapping, load_toml
from vistool.engine.train.train import WEIGHTS
from vistool.engine.train.train import train as run_training
from vistool.models.checkpoints.files import read_header

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "configs"


class Stage(NamedTuple):
    name: str
    config: str
    start: str | None  # the stage whose weights it starts from; None: as the configuration says
    settings: tuple[str, ...] = ()
    keep: tuple[int, ...] = ()  # steps after which a copy of the averaged weights is kept


LARGER = (
    "canvases=[[256,352],[256,352],[352,256],[288,288],[224,384]]",
    "augment.scale=[0.6,2.0]",
)
DOGS = 'augment.paste_classes={cat=1.5, dog=4.0, "hoofed animal"=1.2}'
CROWDED = (
    "augment.max_paste_shots=3",
    "augment.paste_chance=0.75",
    "augment.max_pasted=3",
    "loss.focal_weight=15",
)
IFC = (
    Stage("pictures", "ifc-lite.toml", None, ("steps=6000",)),
    Stage("clips", "ifc-lite-clips.toml", "pictures"),
    Stage(
        "larger-pictures",
        "ifc-lite.toml",
        "clips",
        (
            *LARGER,
            "batch=6",
            "steps=3400",
            "learning_rate=3e-4",
            "backbone_rate=6e-5",
            "augment.paste_chance=0.6",
            "augment.max_pasted=4",
            "seed=32",
        ),
    ),
    Stage(
        "larger-clips",
        "ifc-lite-clips.toml",
        "larger-pictures",
        (
            *LARGER,
            DOGS,
            "steps=2400",
            "learning_rate=2.5e-4",
            "backbone_rate=5e-5",
            "warmup_steps=100",
            "augment.paste_chance=0.7",
            "augment.max_pasted=4",
            "loss.class_weight=2",
            "seed=33",
        ),
    ),
    Stage(
        "groups-pictures",
        "ifc-lite.toml",
        "larger-clips",
        (
            "canvases=[[256,352],[256,352],[352,256],[288,288],[224,384],[192,256]]",
            "augment.scale=[0.6,2.0]",
            "steps=1080",
            "warmup_steps=150",
            "augment.paste_chance=0.6",
            "augment.max_pasted=4",
            'augment.paste_classes={cat=1.5, dog=4.0, "hoofed animal"=1.5, bird=1.5}',
            "loss.class_weight=2",
            "query_groups=3",
            "seed=51",
        ),
    ),
    Stage("groups-clips", "ifc-lite-groups.toml", "groups-pictures", keep=(1400, 1800)),
    Stage(
        "crowded-clips",
        "ifc-lite-groups.toml",
        "groups-clips",
        (*CROWDED, "steps=1100", "schedule=constant", "warmup_steps=40", "seed=112"),
    ),
    Stage(
        "longer-clips",
        "ifc-lite-groups.toml",
        "crowded-clips",
        (
            *CROWDED,
            "steps=4600",
            "clip_length=4",
            "batch=2",
            "learning_rate=2.5e-4",
            "backbone_rate=4e-5",
            "warmup_steps=40",
            "seed=113",
        ),
    ),
    Stage(
        "largest-clips",
        "ifc-lite-groups.toml",
        "longer-clips",
        (
            *CROWDED,
            "augment.paste_chance=0.65",
            "canvases=[[320,448],[320,416],[416,320],[352,352],[288,512],[256,352]]",
            "steps=5000",
            "clip_length=4",
            "batch=2",
            "learning_rate=2.5e-4",
            "backbone_rate=4e-5",
            "warmup_steps=60",
            "seed=121",
        ),
    ),
)
# What the weights of some stages count in the mean of them all.
MEAN = {"groups-clips": 4, "longer-clips": 9, "largest-clips": 9}
VISTR = (
    Stage("vistr-pictures", "vistr-lite.toml", "vistr-start"),
    Stage("vistr-clips", "vistr-lite-clips.toml", "vistr-pictures"),
)
SHORT_SIDES = {"ifc-lite": 320, "vistr-lite": 224}  # of what the released models see, pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=["ifc-lite", "vistr-lite"])
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/release"))
    parser.add_argument("--ifc", default="ifc-lite", help="weights that vistr-lite starts from")
    args = parser.parse_args()

    released = args.runs / f"{args.model}.safetensors"
    if args.model == "ifc-lite":
        for stage in IFC:
            train(stage, args.runs, args.data)
        averaged = [
            path for stage in IFC for path in MEAN.get(stage.name, 0) * files_of(stage, args.runs)
        ]
    else:
        start = weights_of(args.runs, "vistr-start")
        if not start.exists():
            start.parent.mkdir(parents=True, exist_ok=True)
            run([HERE / "vistr_start.py", start, "--ifc", args.ifc, "--data", args.data])
        for stage in VISTR:
            train(stage, args.runs, args.data)
        averaged = [weights_of(args.runs, VISTR[-1].name)]
    seen = ["--short-side", str(SHORT_SIDES[args.model])]
    run([HERE / "release_weights.py", released, *averaged, "--data", args.data, *seen])
    print(f"{released} is done")


def train(stage: Stage, runs: Path, data: Path) -> None:
    """Run a stage, or what is missing of it."""
    folder = runs / stage.name
    if is_done(folder / WEIGHTS):
        return
    settings = [f"data={data}", *stage.settings]
    if stage.keep:
        settings.append(f"save_every={math.gcd(*stage.keep, 200)}")
    if stage.start is not None:
        settings.append(f"init={weights_of(runs, stage.start)}")
    values = apply_overrides(load_toml(CONFIGS / stage.config), settings)
    config: TrainConfig = from_mapping(values, TrainConfig, where=stage.config)

    def after(step: int, steps: int, line: Mapping[str, Any]) -> None:
        if step in stage.keep:
            shutil.copyfile(folder / WEIGHTS, folder / kept_as(step))
        if step % 100 == 0:
            print(f"{stage.name}: step {step} of {steps}, loss {line['loss']:.3f}", flush=True)

    run_training(config, folder, on_step=after, on_warning=print)


def is_done(weights: Path) -> bool:
    if not weights.exists():
        return False
    done, steps = read_header(weights).metadata["steps"].split(" of ")
    return done == steps


def kept_as(step: int) -> str:
    return f"step-{step}.safetensors"


def files_of(stage: Stage, runs: Path) -> list[Path]:
    """The weights that a stage leaves, at its end and on the way."""
    folder = runs / stage.name
    return [folder / WEIGHTS, *(folder / kept_as(step) for step in stage.keep)]


def weights_of(runs: Path, stage: str) -> Path:
    return runs / stage / WEIGHTS


def run(arguments: Sequence[str | Path]) -> None:
    """Run Python; what fails there ends this, too."""
    done = subprocess.run([sys.executable, *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
