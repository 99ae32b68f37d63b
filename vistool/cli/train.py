"""`vistool train`: annotated pictures and videos -> a weight file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vistool.cli.console import answer, progress, say
from vistool.config import TrainConfig, apply_overrides, from_mapping, load_toml
from vistool.errors import UsageError


def train(
    config: Annotated[
        Path | None,
        typer.Argument(help="Settings as TOML, like configs/ifc-lite.toml; not with --resume."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that the paths of the sources are relative to.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Run folder [runs/train/NAME].")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder, exactly.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: --set steps=2000 --set augment.scale=[1,2]"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train a model on annotated pictures (COCO) and videos (YouTube-VIS).

    Example: vistool train configs/ifc-lite.toml --data ~/data
    """
    from vistool.engine.train import started_with
    from vistool.engine.train import train as run_training
    from vistool.formats.results import new_run_folder

    if resume is not None:
        settings, folder = started_with(resume), resume
    elif config is not None:
        values = apply_overrides(load_toml(config), overrides or [])
        if data is not None:
            values["data"] = str(data)
        settings = from_mapping(values, TrainConfig, where=str(config))
        folder = output or new_run_folder(Path("runs/train"), config.stem, exist_ok=False)
    else:
        raise UsageError("nothing to train", hint="give a configuration, or --resume RUN")
    say(f"run folder: {folder}")
    with progress(quiet=quiet, unit="steps") as show:
        weights = run_training(
            settings, folder, on_step=lambda step, steps, terms: show("training", step, steps)
        )
    answer(str(weights))
