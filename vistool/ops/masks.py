"""Resizing masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corners not aligned, no antialiasing. [..., H, W] -> [..., *size] float."""
    flat = masks.flatten(0, -3).unsqueeze(1).to(torch.promote_types(masks.dtype, torch.float32))
    resized = F.interpolate(flat, size=list(size), mode="bilinear", align_corners=False)
    return resized.view(*masks.shape[:-2], *size)
