"""Start a training from a configuration, or from a data set and weights only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from vistool.annotations.dataset import DataSet
from vistool.annotations.read import read_dataset
from vistool.config import (
    IFCConfig,
    ModelConfig,
    SourceConfig,
    TrainConfig,
    ValidationConfig,
    changed,
    from_mapping,
    load_toml,
)
from vistool.engine.distributed import joined
from vistool.engine.train.train import StepCallback
from vistool.engine.train.train import train as run_training
from vistool.errors import DataError, UsageError
from vistool.formats.files import new_run_folder
from vistool.models.checkpoints.files import find_weights, read_header
from vistool.ops.pixels import input_size
from vistool.structures import Size

DEFAULT_INIT = "ifc-lite"
STEPS = 600
VALIDATIONS = 5
SIDE_MULTIPLE = 32  # of the canvas: the deepest stride of every backbone
VIEW = 0.75  # share of a picture's height and width in a clip, at the picture size of `predict`
CLIP_LENGTH = 2  # for models that take any length: the shortest with motion
CLASS_SETTINGS = {"class_names", "category_ids"}


def train(
    source: str | Path,
    *,
    init: str | Path | None = None,
    validation: str | Path | None = None,
    frames: str | Path | None = None,
    data: str | Path | None = None,
    output: str | Path | None = None,
    on_step: StepCallback = lambda step, steps, line: None,
    **settings: Any,
) -> Path:
    """Train a model, as `vistool train` does. Returns: the weight file.

    >>> weights = vistool.train(
    ...     "own/train.json", init="ifc-lite", validation="own/valid.json", steps=2000
    ... )  # doctest: +SKIP
    >>> vistool.load_model(weights)  # doctest: +SKIP

    An interrupted training is resumed with `vistool train --resume RUN`.

    Args:
        source, init, validation, frames, data: as in `training_settings`.
        output: the run folder; None: runs/train/NAME, with the name of the source.
        on_step: called after every step with its number, the number of steps, and the loss terms.
        settings: of `TrainConfig` by name, for example steps=2000 and canvases=[(192, 256)];
            settings in a table as `**{"augment.colour": 0.2}`.

    Raises: the errors of `vistool.engine.train.train.train`; UsageError for an output folder that
        is not empty.
    """
    config = training_settings(
        source, init=init, validation=validation, frames=frames, data=data, changes=settings
    )
    with joined(config.device) as processes:
        folder = processes.agree(lambda: training_folder(output, source))
        return run_training(config, folder, processes=processes, on_step=on_step)


def training_settings(
    source: str | Path,
    *,
    init: str | Path | None = None,
    validation: str | Path | None = None,
    frames: str | Path | None = None,
    data: str | Path | None = None,
    changes: Mapping[str, Any],
) -> TrainConfig:
    """The settings of a new training.

    Args:
        source: a data set, whose categories the model learns (`fine_tuning`), or a configuration
            (.toml).
        init: name or file of the initial weights; None: ifc-lite for a data set, or the value in
            the configuration.
        validation: with a data set: another one of the same categories, scored five times during
            training.
        frames: with a data set: the folder of the frames of both sets; None: found by
            `frames_folder`.
        data: with a configuration: the folder that its paths are relative to.
        changes: other settings, in the form of `changed`.

    Raises: UsageError for unknown or contradictory settings; DataError, WeightsError.
    """
    source = Path(source)
    if source.suffix == ".toml":
        for name, value in {"validation": validation, "frames": frames}.items():
            if value is not None:
                raise UsageError(
                    f"{source}: {name} goes with a data set, not with a configuration",
                    hint="set it there: [validation] annotations, or frames of [[sources]]",
                )
        given = {"init": init, "data": data}
        values = changed(load_toml(source), {k: str(v) for k, v in given.items() if v is not None})
        return from_mapping(changed(values, changes), TrainConfig, where=str(source))
    if data is not None:
        raise UsageError(
            f"{source}: data goes with a configuration, not with a data set",
            hint="name the folder of its frames with frames, if they are not found",
        )
    paths = (None if path is None else Path(path) for path in (validation, frames))
    values = changed(fine_tuning(source, str(init or DEFAULT_INIT), *paths), changes)
    config: TrainConfig = from_mapping(values, TrainConfig, where=str(source))
    if config.validation is None or "validation.every" in changes:
        return config
    every = max(1, config.steps // VALIDATIONS)
    return replace(config, validation=replace(config.validation, every=every))


def training_folder(output: str | Path | None, source: str | Path) -> Path:
    """The folder of a new run. Raises: UsageError if it is not empty."""
    if output is None:
        return new_run_folder(Path("runs/train"), Path(source).resolve().stem, exist_ok=False)
    output = Path(output)
    if output.is_dir() and any(output.iterdir()):
        raise UsageError(
            f"{output}: is not empty",
            hint=f"to resume a run: vistool train --resume {output}; else choose another -o",
        )
    return output


def fine_tuning(
    dataset: Path, init: str, validation: Path | None = None, frames: Path | None = None
) -> dict[str, Any]:
    """Settings that fine-tune a model on a data set, as plain values of a `TrainConfig`.

    The model is that of the weight file with other classes: the categories of the data set, whose
    ids are used in results. Clips have the most frequent size in the data set. Other values that
    differ from `TrainConfig`'s defaults suit a trained model that learns new classes: a few hundred
    steps with small batches.

    Args: as in `training_settings`.
    Raises: DataError if the data set cannot be read or has no category, WeightsError.
    """
    header = read_header(find_weights(init))
    found = read_dataset(dataset, frames=frames, masks=False)
    names = [category.name for category in found.categories]
    if not names or not found.videos:
        raise DataError(f"{dataset}: has no categories, or no videos and pictures, to train on")
    place = dataset.absolute()  # "." has no name
    folder = place.parent
    below = None if frames is None else _relative(frames, folder)
    model = _model_values(header.config)
    if len(set(names)) == len(names):
        model["category_ids"] = [category.id for category in found.categories]
    values = {
        "data": str(folder),
        "classes": {name: [name] for name in names},
        "sources": [msgspec.to_builtins(SourceConfig(annotations=place.name, frames=below))],
        "model": model,
        "init": init,
        "steps": STEPS,
        "batch": 4,
        "clip_length": _clip_length(header.config),
        "canvases": [list(_canvas(_usual_size(found), header.config))],
        "learning_rate": 4e-4,
        "backbone_rate": 4e-5,
        "warmup_steps": 50,
        "ema_decay": 0.99,
        "augment": {"scale": [1.0, 1.8], "colour": 0.4},
    }
    if validation is not None:
        relative = _relative(validation, folder)
        plan = ValidationConfig(annotations=relative, frames=below)
        values["validation"] = msgspec.to_builtins(plan)
    return values


def _relative(path: Path, folder: Path) -> str:
    """The path relative to a folder; links are resolved, because `..` applies to their targets."""
    return os.path.relpath(path.resolve(), folder.resolve())


def _model_values(config: ModelConfig) -> dict[str, Any]:
    """A model's settings without its classes, in the form of a configuration file."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    return {key: value for key, value in values.items() if key not in CLASS_SETTINGS}


def _clip_length(config: ModelConfig) -> int:
    return CLIP_LENGTH if isinstance(config, IFCConfig) else config.clip_length


def _usual_size(dataset: DataSet) -> Size:
    return Counter(video.size for video in dataset.videos).most_common(1)[0][0]


def _canvas(picture: Size, config: ModelConfig) -> Size:
    """The canvas for clips: VIEW of the picture's sides at the size of the model's input."""
    seen = input_size(picture, config.test_short_side, config.test_long_side, config.pixels)
    sides = (round(VIEW * side / SIDE_MULTIPLE) for side in seen)
    return Size(*(SIDE_MULTIPLE * max(1, side) for side in sides))
