"""The released weights from the annotated sets, in one command: all stages, one after the other.

    python benchmarks/train_release.py ifc-lite --data FOLDER
    python benchmarks/train_release.py vistr-lite --data FOLDER --ifc ifc-lite

Every stage is a run of `vistool train` in a folder of --runs; started again, this goes on where it
was stopped. The result is RUNS/NAME.safetensors. How long the stages take, and what they gave, is
in weights/README.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vistool.engine.train import WEIGHTS
from vistool.engine.train_setup import SETTINGS
from vistool.models.weights import read_header

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "configs"


class Stage(NamedTuple):
    name: str
    config: str
    start: str | None  # the stage whose weights it starts from; None: as the configuration says
    settings: tuple[str, ...] = ()


LARGER = (
    "canvases=[[256,352],[256,352],[352,256],[288,288],[224,384]]",
    "augment.scale=[0.6,2.0]",
)
DOGS = 'augment.paste_classes={cat=1.5, dog=4.0, "hoofed animal"=1.2}'
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
    Stage("groups-clips", "ifc-lite-groups.toml", "groups-pictures"),
)
VISTR = (
    Stage("vistr-pictures", "vistr-lite.toml", "vistr-start"),
    Stage("vistr-clips", "vistr-lite-clips.toml", "vistr-pictures"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=["ifc-lite", "vistr-lite"])
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/release"))
    parser.add_argument("--ifc", default="ifc-lite", help="weights that vistr-lite starts from")
    args = parser.parse_args()

    released = args.runs / f"{args.model}.safetensors"
    data = ["--data", str(args.data)]
    if args.model == "ifc-lite":
        for stage in IFC:
            train(stage, args.runs, data)
        averaged = [weights_of(args.runs, name) for name in ("larger-clips", "clips")]
        run([HERE / "release_weights.py", released, *averaged, *data])
    else:
        start = weights_of(args.runs, "vistr-start")
        if not start.exists():
            start.parent.mkdir(parents=True, exist_ok=True)
            run([HERE / "vistr_start.py", start, "--ifc", args.ifc, *data])
        for stage in VISTR:
            train(stage, args.runs, data)
        run([HERE / "release_weights.py", released, weights_of(args.runs, "vistr-clips"), *data])
    print(f"{released} is done")


def train(stage: Stage, runs: Path, data: Sequence[str]) -> None:
    """Run a stage, or what is missing of it."""
    folder, weights = runs / stage.name, weights_of(runs, stage.name)
    if weights.exists() and len(set(read_header(weights).metadata["steps"].split(" of "))) == 1:
        return
    print(f"stage {stage.name}", flush=True)
    command: list[str | Path] = ["-m", "vistool", "train", *data]
    if (folder / SETTINGS).exists():
        run([*command, "--resume", folder])
        return
    settings = [*stage.settings]
    if stage.start is not None:
        settings.append(f"init={weights_of(runs, stage.start)}")
    changes = [part for setting in settings for part in ("--set", setting)]
    run([*command, CONFIGS / stage.config, "-o", folder, *changes])


def weights_of(runs: Path, stage: str) -> Path:
    return runs / stage / WEIGHTS


def run(arguments: Sequence[str | Path]) -> None:
    """Run Python; what fails there ends this, too."""
    done = subprocess.run([sys.executable, *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
