"""Train the released weights from the annotated data sets: all stages in one command.

    python research/train_release.py ifc-lite --data FOLDER
    python research/train_release.py vistr-lite --data FOLDER

Every stage is a training with a run folder in --runs. An interrupted command continues when it is
started again. The result is RUNS/NAME.safetensors. ifc-lite is trained first on ten classes, then
on more data with fourteen; vistr-lite starts from the weights of ten classes. The stages' times and
scores are in weights/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from start_classes import write_start
from training_data import prepare

from vistool.config import TrainConfig, apply_overrides, from_mapping, load_toml
from vistool.engine.train.train import WEIGHTS
from vistool.engine.train.train import train as run_training
from vistool.models.checkpoints.files import read_header

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "configs"


class Stage(NamedTuple):
    name: str
    config: str
    start: str | None  # the stage with the initial weights; None: those of the configuration
    settings: tuple[str, ...] = ()
    keep: tuple[int, ...] = ()  # steps after which a copy of the averaged weights is kept
    stop: int | None = None  # the step after which it ends, before the end of its schedule


class StoppedError(Exception):
    """A stage has reached its last step."""


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
TEN_CLASSES = (
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
# Stages whose weights are averaged, and their share in the mean.
MEAN = {"groups-clips": 4, "longer-clips": 9, "largest-clips": 9}
# From the mean. Two classes are learnt apart, and merged again after these stages.
APART = (
    'classes.elephant=["elephant"]',
    'classes.bear=["bear"]',
    'classes.other animal=["rhino", "tiger", "otter", "turtle", "rhesus monkey"]',
)
MORE_DATA = (
    Stage("more-data", "ifc-lite-more.toml", "more-start", (*APART, "steps=2800"), stop=786),
    Stage(
        "more-data-end",
        "ifc-lite-more.toml",
        "more-data",
        (
            *APART,
            "steps=650",
            "learning_rate=1.8e-4",
            "backbone_rate=3.6e-5",
            "warmup_steps=20",
            "ema_decay=0.998",
            "seed=202",
        ),
    ),
)
VISTR = (
    Stage("vistr-pictures", "vistr-lite.toml", "vistr-start"),
    Stage("vistr-clips", "vistr-lite-clips.toml", "vistr-pictures"),
)
SHORT_SIDES = {"ifc-lite": 320, "vistr-lite": 224}  # of the released models' input, pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=["ifc-lite", "vistr-lite"])
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/release"))
    parser.add_argument("--ifc", type=Path, help="weights of ten classes, if available")
    args = parser.parse_args()

    released = args.runs / f"{args.model}.safetensors"
    ten_classes = args.ifc or mean_on_ten_classes(args.runs, args.data)
    if args.model == "ifc-lite":
        start, prepared = weights_of(args.runs, "more-start"), args.runs / "data"
        if not start.exists():
            start.parent.mkdir(parents=True, exist_ok=True)
            write_start(start, str(ten_classes), classes_of(MORE_DATA[0].config, APART))
        prepare(args.data, prepared)
        for stage in MORE_DATA:
            train(stage, args.runs, prepared)
        merged, last = args.runs / "merged.safetensors", MORE_DATA[-1]
        write_start(merged, str(weights_of(args.runs, last.name)), classes_of(last.config, ()))
        release(released, [merged], prepared, args.model)
    else:
        start = weights_of(args.runs, "vistr-start")
        if not start.exists():
            start.parent.mkdir(parents=True, exist_ok=True)
            run([HERE / "vistr_start.py", start, "--ifc", ten_classes, "--data", args.data])
        for stage in VISTR:
            train(stage, args.runs, args.data)
        release(released, [weights_of(args.runs, VISTR[-1].name)], args.data, args.model)
    print(f"{released} is done")


def classes_of(config: str, overrides: Sequence[str]) -> dict[str, list[str]]:
    classes: dict[str, list[str]] = apply_overrides(load_toml(CONFIGS / config), overrides)[
        "classes"
    ]
    return classes


def mean_on_ten_classes(runs: Path, data: Path) -> Path:
    """The mean weights of the first nine stages of ifc-lite, trained if they do not exist."""
    mean = runs / "ten-classes.safetensors"
    if not mean.exists():
        for stage in TEN_CLASSES:
            train(stage, runs, data)
        files = [
            f for stage in TEN_CLASSES for f in MEAN.get(stage.name, 0) * files_of(stage, runs)
        ]
        release(mean, files, data, "ifc-lite")
    return mean


def release(output: Path, weights: Sequence[Path], data: Path, model: str) -> None:
    """Write the mean of weights, with the settings for prediction."""
    seen = ["--short-side", str(SHORT_SIDES[model])]
    run([HERE / "release_weights.py", output, *weights, "--data", data, *seen])


def train(stage: Stage, runs: Path, data: Path) -> None:
    """Run a stage, or the rest of it."""
    folder = runs / stage.name
    if is_done(folder / WEIGHTS, stage.stop):
        return
    settings = [f"data={data}", *stage.settings]
    if stage.stop:
        settings.append(f"save_every={stage.stop}")
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
        if step == stage.stop:
            raise StoppedError

    with contextlib.suppress(StoppedError):
        run_training(config, folder, on_step=after, on_warning=print)


def is_done(weights: Path, stop: int | None) -> bool:
    if not weights.exists():
        return False
    done, steps = map(int, read_header(weights).metadata["steps"].split(" of "))
    return done == (stop or steps)


def kept_as(step: int) -> str:
    return f"step-{step}.safetensors"


def files_of(stage: Stage, runs: Path) -> list[Path]:
    """The weight files of a stage, at its end and after the steps in `keep`."""
    folder = runs / stage.name
    return [folder / WEIGHTS, *(folder / kept_as(step) for step in stage.keep)]


def weights_of(runs: Path, stage: str) -> Path:
    return runs / stage / WEIGHTS


def run(arguments: Sequence[str | Path]) -> None:
    """Run a Python script, and exit if it fails."""
    done = subprocess.run([sys.executable, *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
