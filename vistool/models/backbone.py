"""The backbones that a configuration can name."""

from __future__ import annotations

from vistool.config import BackboneConfig, EfficientNetLiteConfig, ResNetConfig
from vistool.nn.efficientnet import EfficientNetLite0
from vistool.nn.resnet import ResNet

Backbone = ResNet | EfficientNetLite0


def build_backbone(config: BackboneConfig) -> Backbone:
    """Four maps of every picture; `channels` says how deep each is."""
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
