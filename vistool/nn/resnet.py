"""ResNet-50 and -101 with frozen batch norm, as torchvision (v1.5) and as MSRA strides them."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vistool.nn.frozen_norm import FrozenBatchNorm2d

BLOCKS_PER_STAGE = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut; the stride is on the 3x3, or on the first."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        *,
        stride_in_1x1: bool,
        project: bool,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        out = channels * 4
        self.conv1 = nn.Conv2d(channels_in, channels, 1, stride=first, bias=False)
        self.norm1 = FrozenBatchNorm2d(channels)
        self.conv2 = nn.Conv2d(
            channels,
            channels,
            3,
            stride=second,
            padding=dilation,
            dilation=dilation,
            bias=False,
        )
        self.norm2 = FrozenBatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out, 1, bias=False)
        self.norm3 = FrozenBatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if project:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, out, 1, stride=stride, bias=False), FrozenBatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 4 * channels, ceil(H / stride), ceil(W / stride)]."""
        y = self.norm1(self.conv1(x)).relu()
        y = self.norm2(self.conv2(y)).relu()
        return (self.norm3(self.conv3(y)) + self.shortcut(x)).relu()


class ResNet(nn.Module):
    """Four stages at strides 4, 8, 16 and 32; the last one at 16 if it is dilated.

    Attributes: channels, strides: of the four outputs.
    """

    def __init__(
        self,
        depth: int = 50,
        stem_channels: int = 64,
        bottleneck_channels: int = 64,
        *,
        stride_in_1x1: bool = False,
        blocks: Sequence[int] | None = None,
        dilate_last: bool = False,
    ) -> None:
        super().__init__()
        self.channels = tuple(bottleneck_channels * 4 * 2**stage for stage in range(4))
        self.strides = (4, 8, 16, 16 if dilate_last else 32)
        self.stem_conv = nn.Conv2d(3, stem_channels, 7, stride=2, padding=3, bias=False)
        self.stem_norm = FrozenBatchNorm2d(stem_channels)
        self.stages = nn.ModuleList()
        channels_in = stem_channels
        for stage, num_blocks in enumerate(blocks or BLOCKS_PER_STAGE[depth]):
            dilated = dilate_last and stage == 3
            layers = []
            for block in range(num_blocks):
                layers.append(
                    Bottleneck(
                        channels_in,
                        bottleneck_channels * 2**stage,
                        stride=2 if stage > 0 and block == 0 and not dilated else 1,
                        stride_in_1x1=stride_in_1x1,
                        project=block == 0,
                        # The first block's input is not dilated yet.
                        dilation=2 if dilated and block > 0 else 1,
                    )
                )
                channels_in = self.channels[stage]
            self.stages.append(nn.Sequential(*layers))

    def freeze_first(self, stages: int) -> None:
        """Stop training the stem and the first stages (both papers: one)."""
        for part in [self.stem_conv, *self.stages[:stages]]:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[N, 3, H, W] -> four maps [N, channels[i], ceil(H / stride), ceil(W / stride)]."""
        x = self.stem_norm(self.stem_conv(x)).relu()
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return tuple(outputs)
