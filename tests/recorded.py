"""Numbers recorded from the papers' published code, and weights computed by formula."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vistool.models.published import Rules, rename_key

LOSS_WEIGHTS = "criterion.empty_weight"
FIXTURES = Path(__file__).parent / "fixtures"
SHARED = Path(__file__).parents[2] / "shared" / "reference"


def recorded(name: str) -> dict[str, Tensor]:
    """Tensors of a recording; skips the test where a large one is not at hand."""
    return load_file(_file(f"{name}.safetensors"))


def in_our_names(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Published weights under our names, without IFC's weights of the loss."""
    return {rename_key(key, rules): state[key] for key in state.keys() - {LOSS_WEIGHTS}}


def recorded_json(name: str) -> Any:
    return json.loads(_file(f"{name}.json").read_text())


def _file(name: str) -> Path:
    for folder in (FIXTURES / name, SHARED / Path(name).parent / "a" / Path(name).name):
        if folder.is_file():
            return folder
    pytest.skip(f"the recording {name} is not in tests/fixtures and ../shared is absent")


def published_shapes(section: str, model: str = "ifc") -> dict[str, tuple[int, ...]]:
    """Keys and shapes of one section of the published models' key list."""
    path = SHARED / model / "official_keys.txt"
    if not path.is_file():
        pytest.skip("the list of published keys is not at hand: ../shared is absent")
    shapes: dict[str, tuple[int, ...]] = {}
    inside = False
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            inside = line.startswith(f"# section {section} ")
        elif inside and line:
            key, shape, *_ = line.split("\t")
            shapes[key] = tuple(json.loads(shape))
    return shapes


def formula_weights(
    shapes: Mapping[str, tuple[int, ...]], seed: int, stem_scale: float = 1.0
) -> dict[str, Tensor]:
    """Weights computed from name and shape, as the recordings of the full models used them."""
    return {
        key: torch.from_numpy(_formula_weight(key, shape, seed, stem_scale).astype(np.float32))
        for key, shape in shapes.items()
        if key != LOSS_WEIGHTS
    }


def _formula_weight(
    key: str, shape: tuple[int, ...], seed: int, stem_scale: float
) -> np.ndarray[Any, np.dtype[np.float64]]:
    crc = zlib.crc32(f"{seed}/{key}".encode())
    z = np.random.RandomState(crc).standard_normal(shape)  # a stream that NumPy froze
    if key.endswith("running_var"):
        is_stem = key.endswith("stem.conv1.norm.running_var")
        return np.exp(0.1 * z) * (stem_scale**2 if is_stem else 1.0)
    if key.endswith("running_mean") or (len(shape) == 1 and key.endswith("bias")):
        return 0.1 * z
    if len(shape) == 1:
        return (0.3 if ".bn3." in key or ".conv3.norm." in key else 1.0) + 0.1 * z
    if key.endswith("query_embed.weight"):
        return 3.0 * z
    if key.endswith(("memory_bus", "memory_pos")):
        return z
    rows = z.reshape(shape[0], -1)
    if rows.shape[1] > 1:
        rows = rows - rows.mean(axis=1, keepdims=True)
    return (_gain(key) * rows / np.sqrt(rows.shape[1])).reshape(shape)


def _gain(key: str) -> float:
    gain = 2.0**0.5
    if "class_embed" in key or key.endswith("insmask_head.9.weight"):
        gain = 2.0
    if key.endswith("in_proj_weight"):
        gain = 1.75
    if key.endswith("convert_to_weight.layers.2.weight"):
        gain = 0.35
    if "conv_offset" in key:
        gain = 1.0
    if key.endswith("self_attn.out_proj.weight"):
        gain = 0.5
    return gain
