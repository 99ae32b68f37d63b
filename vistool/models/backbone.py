"""Build the backbone that a configuration describes."""

from __future__ import annotations

from vistool.config import BackboneConfig, EfficientNetLiteConfig, ResNetConfig
from vistool.nn.efficientnet import EfficientNetLite0
from vistool.nn.resnet import ResNet

Backbone = ResNet | EfficientNetLite0


def build_backbone(config: BackboneConfig) -> Backbone:
    """A backbone that returns four feature maps; `channels` and `strides` describe them."""
    match config:
        case ResNetConfig():
            return ResNet(
                config.depth,
                config.stem_channels,
                config.bottleneck_channels,
                stride_in_1x1=config.stride_in_1x1,
                blocks=config.blocks,
                dilate_last=config.dilate_last,
            )
        case EfficientNetLiteConfig():
            return EfficientNetLite0()
