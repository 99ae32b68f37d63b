"""Deformable convolution (v1, unmodulated) in plain PyTorch: CPU, CUDA and gradients alike."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

TAPS = 9  # of a 3x3 kernel


def deform_conv3x3(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """3x3 convolution, stride 1, padding 1, with a learned offset for each tap.

    Tap k = 3 * row + column samples bilinearly at its usual position plus (dy, dx) in cells;
    outside the map, values are 0. With zero offsets it is an ordinary convolution.

    Args:
        x: [N, C, H, W]; weight: [C', C, 3, 3].
        offset: [N, 18, H, W]; channel 2k is dy and channel 2k + 1 is dx of tap k.

    Returns: [N, C', H, W].
    """
    grids = _sampling_grids(offset)
    source = x.to(grids.dtype)
    y = x.new_zeros(())
    for tap, grid in enumerate(grids):
        read = F.grid_sample(source, grid, padding_mode="zeros", align_corners=False)
        kernel = weight[:, :, tap // 3, tap % 3]
        y = y + einsum(kernel, read.to(x.dtype), "d c, n c h w -> n d h w")
    return y


def _sampling_grids(offset: Tensor) -> Tensor:
    """Sampling positions of every tap in the coordinates of `grid_sample`: [9, N, H, W, 2], (x, y).

    At the exact centre of a cell, the slopes on both sides differ. The published operator takes the
    slope below and to the right, and 0 just outside the first row and column. Positions there are
    moved by less than float32 resolves, so that gradients equal the published ones.
    """
    # Half precision cannot resolve positions among hundreds of cells.
    exact = torch.promote_types(offset.dtype, torch.float32)
    size = torch.tensor(offset.shape[-2:], dtype=exact, device=offset.device)
    rows, columns = (torch.arange(n, dtype=exact, device=offset.device) for n in offset.shape[-2:])
    cells = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    steps = torch.arange(-1, 2, dtype=exact, device=offset.device)
    taps = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).flatten(0, 1)
    moves = rearrange(offset.to(exact), "n (k yx) h w -> k n h w yx", yx=2)
    places = moves + cells + taps[:, None, None, None]
    margin = 2 * torch.finfo(exact).eps * size
    on_centre = (places - places.round()).abs() < margin
    places = places + margin * (on_centre.to(exact) - 3 * (places == -1).to(exact))
    # From -1 to 1 between the map's outer edges, half a cell from a centre.
    return ((2 * places + 1) / size - 1).flip(-1)


class DeformConv3x3(nn.Module):
    """`deform_conv3x3` with its weight, no bias."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """x: [N, C, H, W]; offset: [N, 18, H, W], (dy, dx) of every tap -> [N, C', H, W]."""
        return deform_conv3x3(x, offset, self.weight)
