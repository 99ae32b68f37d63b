"""EfficientNet-Lite0 as a feature extractor: the small backbone for CPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistool.nn.frozen_norm import FrozenBatchNorm2d

NORM_EPS = 1e-3  # as the ImageNet weights were trained

# (repeats, kernel, stride of the first, expansion, output channels)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
TAPS = (2, 4, 10, 15)  # the last block at strides 4, 8, 16 and 32


class EfficientNetLite0(nn.Module):
    """The convolutional part of EfficientNet-Lite0: no squeeze-and-excitation, ReLU6 everywhere.

    Batch norm is frozen. Every step of stride 2 gives ceil(size / 2) cells, at any size.
    """

    channels = (24, 40, 112, 320)  # of the four maps
    strides = (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM_CHANNELS, kernel=3, stride=2)
        self.blocks = nn.ModuleList()
        channels = STEM_CHANNELS
        for repeats, kernel, first_stride, expansion, out_channels in STAGES:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                self.blocks.append(MBConv(channels, out_channels, kernel, stride, expansion))
                channels = out_channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x: [N, 3, H, W], pixels (x - 127) / 128. Returns the maps at strides 4, 8, 16, 32."""
        x = relu6_(self.stem(x))
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in TAPS:
                maps.append(x)
        stride4, stride8, stride16, stride32 = maps
        return stride4, stride8, stride16, stride32

    def freeze_first(self, blocks: int) -> None:
        """Exclude the stem and the first `blocks` blocks (0 to 16) from training."""
        self.stem.requires_grad_(False)
        self.blocks[:blocks].requires_grad_(False)


class MBConv(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise convolution, 1x1 projection."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.expand = ConvNorm(in_channels, inner, kernel=1) if expansion > 1 else None
        self.depthwise = ConvNorm(inner, inner, kernel=kernel, stride=stride, groups=inner)
        self.project = ConvNorm(inner, out_channels, kernel=1)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W]. Returns [N, C', ceil(H / stride), ceil(W / stride)]."""
        y = x if self.expand is None else relu6_(self.expand(x))
        y = relu6_(self.depthwise(y))
        y = self.project(y)
        return x + y if self.residual else y


class ConvNorm(nn.Module):
    """A convolution without bias, and the frozen norm after it, computed as one convolution.

    The norm is a constant factor and offset per channel. Folded into the filters it costs nothing;
    a separate pass over the activations would take a large part of the time on a CPU.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride=stride, groups=groups, bias=False
        )
        # A new frozen norm does not rescale, so the filters must preserve the scale of activations.
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        self.norm = FrozenBatchNorm2d(out_channels, eps=NORM_EPS)
        self.kernel, self.stride, self.groups = kernel, stride, groups

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W]. Returns [N, C', ceil(H / stride), ceil(W / stride)]."""
        scale, shift = self.norm.scale_and_shift()
        weight = self.conv.weight * scale[:, None, None, None]
        top, bottom = same_padding(x.shape[-2], self.kernel, self.stride)
        left, right = same_padding(x.shape[-1], self.kernel, self.stride)
        # Uneven padding without a padded copy of x: a filter extended by a row of zeros, with both
        # sides padded by the larger amount, reads the same cells.
        weight = F.pad(weight, (right - left, 0, bottom - top, 0))
        return F.conv2d(x, weight, shift, self.stride, (bottom, right), groups=self.groups)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Cells to add before and after an axis for ceil(size / stride) outputs.

    TensorFlow's rule, as the ImageNet weights were trained: an odd cell is added after, so the
    padding of a strided convolution depends on the size.

    >>> same_padding(224, 3, 2), same_padding(225, 3, 2), same_padding(7, 5, 1)
    ((0, 1), (1, 1), (2, 2))
    """
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def relu6_(x: Tensor) -> Tensor:
    """Clamp x to [0, 6] in place; the backward pass needs only the result, not x."""
    if not x.requires_grad:
        return F.relu6(x, inplace=True)
    return _ReLU6.apply(x)  # type: ignore[no-untyped-call]


class _ReLU6(torch.autograd.Function):
    """ReLU6 with a backward pass from its result; `F.relu6` stores a copy of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x.clamp_(0, 6))
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        # The gradient is 0 where the input is <= 0 or >= 6; the clamped result is equal there.
        return torch.ops.aten.hardtanh_backward(grads[0], result, 0.0, 6.0)
