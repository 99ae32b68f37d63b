"""What a model that is to be trained takes over from a weight file."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vistool.config import ModelConfig, VisTRConfig
from vistool.errors import WeightsError
from vistool.models.weights import START, find_weights, load_exactly, read_header, read_tensors

CLASS_HEAD = "class_head."
QUERIES = "queries.weight"
INSTANCE_HEAD = "instance_head."
# VisTR's convolutions over time read the frame itself and those at this distance from it.
FRAMES_APART = 2


def load_start(model: nn.Module, config: ModelConfig, name_or_path: str) -> list[str]:
    """Fill a model that is to be trained with what a file has; the rest keeps its fresh weights.

    A whole model of other classes gives of its last class layer the rows of the classes that both
    have, and of "no object"; a VisTR for another clip length its queries, spread along time; a
    start that `weights import` wrote gives what it has.

    Returns: the keys that stay fresh, some rows of them at least.

    Raises: WeightsError if the file is for other pictures or another backbone, or misfits.
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
        raise WeightsError(f"{path}: lacks {len(lacking)} tensors of the model, as {lacking[0]}")
    load_exactly(model, {**state, **fresh}, where=str(path))
    return list(fresh)


def _with_known_classes(
    model: nn.Module, config: ModelConfig, given: Mapping[str, Tensor], source: ModelConfig
) -> dict[str, Tensor]:
    """The model's last class layer, with the given rows of all classes that both have.

    Empty if the given weights have none, or one of a shape that is not to be expected.
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
    """What changes in VisTR's weights, trained for clips of `given` frames, for others.

    The queries of an instance are read off along its frames, from the first to the last.
    """
    if given == wanted or QUERIES not in state:
        return {}
    by_frame = rearrange(state[QUERIES].float(), "(t q) c -> q c t", t=given)
    spread = F.interpolate(by_frame, size=wanted, mode="linear", align_corners=True)
    changed = {QUERIES: rearrange(spread, "q c t -> (t q) c").to(state[QUERIES])}
    if given <= FRAMES_APART:
        # What reads other frames has not seen any: it starts from nothing, instead of from noise.
        for key, kernel in state.items():
            if key.startswith(INSTANCE_HEAD) and kernel.ndim == 5 and kernel.shape[2] == 3:
                changed[key] = kernel.clone()
                changed[key][:, :, [0, 2]] = 0
    return changed
