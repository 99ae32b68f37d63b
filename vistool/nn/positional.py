"""Sine position codes over any number of axes: (y, x) of a frame, or (frame, y, x) of a clip."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0
EPSILON = 1e-6


def sine_position(padded: Tensor, channels_per_axis: int) -> Tensor:
    """Position code of every cell, normalised by the number of valid cells along each axis.

    A cell's position along an axis is the number of valid cells up to and including it, divided by
    the number on its whole line and multiplied by 2 pi, so the far edge of a picture has the same
    code at any size. (DETR's normalised code; IFC section 4.1 in 2-D, VisTR section 3.2 in 3-D.)

    Args:
        padded: [N, *axes] bool, True on padding.
        channels_per_axis: d; even channels hold sines, odd ones cosines.

    Returns: [N, len(axes) * d, *axes] float32, axes in the order of `padded`'s.
    """
    valid = (~padded).to(torch.float32)
    index = torch.arange(channels_per_axis, device=padded.device)
    exponent = 2 * torch.div(index, 2, rounding_mode="floor") / channels_per_axis
    period = TEMPERATURE**exponent
    codes = []
    for axis in range(1, padded.ndim):
        count = valid.cumsum(axis)
        share = count / (count.narrow(axis, count.shape[axis] - 1, 1) + EPSILON)
        angle = (share * (2 * math.pi)).unsqueeze(-1) / period
        code = torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1)
        codes.append(code.flatten(-2).movedim(-1, 1))
    return torch.cat(codes, dim=1)
