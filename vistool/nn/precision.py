"""Which parts of a model compute in float32 although the rest computes in half."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def full_precision(model: nn.Module, device: torch.device) -> AbstractContextManager[object]:
    """A context without autocast, for what forms a model's features: backbone and transformer.

    Their rounding to bfloat16 adds up over many layers and costs a mask 3 to 4 % of its overlap
    with float32's (ifc-lite); the heads' alone, less than 1 %. A training step is noisy anyhow and
    needs the memory, so there nothing changes.
    """
    return nullcontext() if model.training else torch.autocast(device.type, enabled=False)
