"""Initialise a model for training from a weight file."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vistool.config import ModelConfig, VisTRConfig
from vistool.errors import WeightsError
from vistool.models.checkpoints.files import (
    START,
    find_weights,
    load_exactly,
    read_header,
    read_tensors,
)

CLASS_HEAD = "class_head."
QUERIES = "queries.weight"
INSTANCE_HEAD = "instance_head."
# VisTR's convolutions over time use the frame itself and those at this distance.
FRAMES_APART = 2


def load_start(model: nn.Module, config: ModelConfig, name_or_path: str) -> list[str]:
    """Initialise a model from a weight file; all other weights stay random.

    From a model with other classes, the rows of common classes and of "no object" are used. From a
    VisTR with another clip length, queries are interpolated over time. Files of
    `weights import --init-of` may contain only a part of the model.

    Returns: the keys that stay random, completely or in some rows.

    Raises: WeightsError if the file has another backbone or pixel normalisation, or does not fit.
    """
    path = find_weights(name_or_path)
    header = read_header(path)
    for setting in ("backbone", "pixels"):
        if getattr(header.config, setting) != getattr(config, setting):
            raise WeightsError(
                f"{path}: its {setting} are not those of the model to train",
                hint=f"set [model.{setting}] to what `vistool weights show {path}` shows",
            )
    state = read_tensors(path)
    if isinstance(config, VisTRConfig) and isinstance(header.config, VisTRConfig):
        state |= _for_clip_length(state, header.config.clip_length, config.clip_length)
    fresh = {key: value for key, value in model.state_dict().items() if key not in state}
    if header.config.class_names != config.class_names:
        fresh |= _with_known_classes(model, config, state, header.config)
    lacking = [key for key in fresh if not key.startswith(CLASS_HEAD)]
    if lacking and START not in header.metadata:
        raise WeightsError(
            f"{path}: lacks {len(lacking)} tensors of the model, for example {lacking[0]}"
        )
    load_exactly(model, {**state, **fresh}, where=str(path))
    return list(fresh)


def _with_known_classes(
    model: nn.Module, config: ModelConfig, given: Mapping[str, Tensor], source: ModelConfig
) -> dict[str, Tensor]:
    """The model's last class layer, with the given rows for all common classes.

    Returns: an empty mapping if the given weights have no class layer, or one of another shape.
    """
    layers = {key.rpartition(".")[0] for key in given if key.startswith(CLASS_HEAD)}
    if not layers:
        return {}
    rows = {name: row for row, name in enumerate(source.class_names)}
    known = [(row, rows[name]) for row, name in enumerate(config.class_names) if name in rows]
    known.append((len(config.class_names), len(source.class_names)))  # "no object"
    ours, theirs = (list(part) for part in zip(*known, strict=True))
    result = {}
    for key, own in model.state_dict().items():
        expected = (len(source.class_names) + 1, *own.shape[1:])
        if key.startswith(f"{max(layers)}.") and key in given and given[key].shape == expected:
            result[key] = own.clone()
            result[key][ours] = given[key][theirs].to(own)
    return result


def _for_clip_length(state: Mapping[str, Tensor], given: int, wanted: int) -> dict[str, Tensor]:
    """The weights of a VisTR that differ between clips of `given` and of `wanted` frames.

    The queries of an instance are interpolated over time, from its first frame to its last.
    """
    if given == wanted or QUERIES not in state:
        return {}
    by_frame = rearrange(state[QUERIES].float(), "(t q) c -> q c t", t=given)
    spread = F.interpolate(by_frame, size=wanted, mode="linear", align_corners=True)
    changed = {QUERIES: rearrange(spread, "q c t -> (t q) c").to(state[QUERIES])}
    if given <= FRAMES_APART:
        # The kernels for other frames were not trained: start from zero instead of random weights.
        for key, kernel in state.items():
            if key.startswith(INSTANCE_HEAD) and kernel.ndim == 5 and kernel.shape[2] == 3:
                changed[key] = kernel.clone()
                changed[key][:, :, [0, 2]] = 0
    return changed
