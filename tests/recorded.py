"""Numbers recorded from the papers' published code, and weights computed by formula."""

from __future__ import annotations

import json
import lzma
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from vistool.models.checkpoints.names import Rules, rename_key

LOSS_WEIGHTS = "criterion.empty_weight"
FIXTURES = Path(__file__).parent / "fixtures"


def recorded(name: str) -> dict[str, Tensor]:
    """Tensors of a recording, which a test may change: every call reads them again."""
    return load(_unpacked(f"{name}.safetensors.xz"))


def in_our_names(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Published weights under our names, without IFC's weights of the loss."""
    return {rename_key(key, rules): state[key] for key in state.keys() - {LOSS_WEIGHTS}}


def recorded_json(name: str) -> Any:
    """A recording in JSON, packed or not."""
    path = FIXTURES / f"{name}.json"
    return json.loads(path.read_bytes() if path.is_file() else _unpacked(f"{name}.json.xz"))


@cache
def _unpacked(name: str) -> bytes:
    return lzma.decompress((FIXTURES / name).read_bytes())


def published_shapes(section: str, model: str = "ifc") -> dict[str, tuple[int, ...]]:
    """Keys and shapes of one section of the published models' key list."""
    shapes: dict[str, tuple[int, ...]] = {}
    inside = False
    for line in _unpacked(f"{model}/official_keys.txt.xz").decode().splitlines():
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
