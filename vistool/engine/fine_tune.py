"""Fine-tuning: the settings of a training that has nothing but a data set and weights."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from vistool.config import IFCConfig, ModelConfig, SourceConfig, ValidationConfig
from vistool.errors import DataError
from vistool.formats.dataset import DataSet
from vistool.formats.detect import read_dataset
from vistool.models.weights import find_weights, read_header
from vistool.ops.pixels import input_size
from vistool.structures import Size

DEFAULT_INIT = "ifc-lite"
STEPS = 600
SIDE_MULTIPLE = 32  # of the canvas: the deepest stride of every backbone
VIEW = 0.75  # of a picture's height and width that a clip shows at the size of `predict`
CLIP_LENGTH = 2  # where a model takes any: the least that shows it motion
OF_CLASSES = {"class_names", "category_ids"}


def fine_tuning(
    dataset: Path, init: str, validation: Path | None = None, frames: Path | None = None
) -> dict[str, Any]:
    """Plain values of the `TrainConfig` that turns a model into one for a data set.

    The model is the one in the weight file, but for its classes: they are the set's categories,
    and go by the set's ids in results. Clips have the commonest shape of the set. What else
    differs from `TrainConfig`'s defaults suits a model that knows how to look and has to learn
    what for: a few hundred steps of small batches.

    Args:
        init: name or path of a weight file.
        validation: a set of the same categories, scored five times on the way.
        frames: folder of both sets' file names; None: found.

    Raises: DataError if the set cannot be read or has no category, WeightsError.
    """
    header = read_header(find_weights(init))
    found = read_dataset(dataset, frames=frames, masks=False)
    names = [category.name for category in found.categories]
    if not names or not found.videos:
        raise DataError(f"{dataset}: has no categories, or no videos and pictures, to learn from")
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
        plan = ValidationConfig(annotations=relative, frames=below, every=STEPS // 5)
        values["validation"] = msgspec.to_builtins(plan)
    return values


def _relative(path: Path, folder: Path) -> str:
    """A path from a folder on; `..` leads out of where a link leads to."""
    return os.path.relpath(path.resolve(), folder.resolve())


def _model_values(config: ModelConfig) -> dict[str, Any]:
    """A model's settings without its classes, as a configuration file has them."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    return {key: value for key, value in values.items() if key not in OF_CLASSES}


def _clip_length(config: ModelConfig) -> int:
    return CLIP_LENGTH if isinstance(config, IFCConfig) else config.clip_length


def _usual_size(dataset: DataSet) -> Size:
    return Counter(video.size for video in dataset.videos).most_common(1)[0][0]


def _canvas(picture: Size, config: ModelConfig) -> Size:
    """A view of most of such a picture, as large as the model will see it."""
    seen = input_size(picture, config.test_short_side, config.test_long_side, config.pixels)
    sides = (round(VIEW * side / SIDE_MULTIPLE) for side in seen)
    return Size(*(SIDE_MULTIPLE * max(1, side) for side in sides))
