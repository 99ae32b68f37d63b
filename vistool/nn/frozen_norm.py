"""Batch normalisation whose statistics and affine part never change: one multiply-add a channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.Module):
    """x * scale + shift per channel, from four buffers that no training touches.

    Written as one multiply-add: for the gradient of x only the scale is kept, where
    `F.batch_norm` would keep x itself.
    """

    weight: Tensor  # [C], as the other three
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W]. Returns the same shape, dtype and memory format."""
        scale, shift = self.scale_and_shift()
        # In the dtype of x: autocast would otherwise widen every activation to float32.
        scale, shift = scale.to(x.dtype)[:, None, None], shift.to(x.dtype)[:, None, None]
        return torch.addcmul(shift, x, scale)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The layer as two [C] vectors: y = x * scale + shift."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale
