"""Derive a model's configuration from the names and shapes in a published checkpoint."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from vistool.config import IFCConfig, ResNetConfig, VisTRConfig
from vistool.errors import WeightsError
from vistool.models.checkpoints.presets import COCO, preset
from vistool.nn.resnet import BLOCKS_PER_STAGE

Shape = tuple[int, ...]


def ifc_config(shapes: Mapping[str, Shape], settings: Mapping[str, Any]) -> IFCConfig:
    """The published model of these shapes, or a model of the same kind with other sizes.

    Args: shapes: by published name; settings: of the training, if the file has them.
    """
    if "detr.transformer.encoder.norm.weight" in shapes:
        raise WeightsError(
            "this IFC was trained with pre_norm, unlike all published ones",
            hint="vistool supports IFC with post-norm layers only",
        )
    body = r"detr\.backbone\.0\.backbone\."
    backbone = _resnet_config(
        shapes,
        stem="detr.backbone.0.backbone.stem.conv1.weight",
        first="detr.backbone.0.backbone.res2.0.conv1.weight",
        blocks=[body + rf"res{stage}\.(\d\d?)\..*" for stage in (2, 3, 4, 5)],
    )
    classes = _dim(shapes, "detr.class_embed.layers.1.weight", 0, 41) - 1
    base = preset(
        f"ifc-r{101 if backbone.depth == 101 else 50}{'-coco' if classes == len(COCO) else ''}"
    )
    assert isinstance(base, IFCConfig)
    assert isinstance(base.backbone, ResNetConfig)
    encoder = r"detr\.transformer\.encoder\.(?:enc|bus)_layers\.(\d\d?)\..*"
    decoder = r"detr\.transformer\.clip_decoder\.layers\.(\d\d?)\..*"
    first = "detr.transformer.encoder.enc_layers.0."
    hidden_dim = _agreed(
        shapes,
        [
            *(("detr.input_proj.weight", 0), ("detr.input_proj.bias", 0)),
            *((f"{first}norm1.weight", 0), (f"{first}linear1.weight", 1)),
            ("detr.query_embed.weight", 1),
        ],
        base.hidden_dim,
    )
    feedforward = [(f"{first}linear1.weight", 0), (f"{first}linear1.bias", 0)]
    fewest = _fewest_layers(base, backbone, hidden_dim)
    config = replace(
        base,
        backbone=replace(backbone, stride_in_1x1=base.backbone.stride_in_1x1),
        hidden_dim=hidden_dim,
        feedforward_dim=_agreed(
            shapes, [*feedforward, (f"{first}linear2.weight", 1)], base.feedforward_dim
        ),
        encoder_layers=max(_count(shapes, encoder), fewest[0]),
        decoder_layers=max(_count(shapes, decoder), fewest[1]),
        num_memory_tokens=_dim(shapes, "detr.transformer.memory_bus", 0, base.num_memory_tokens),
        num_queries=_dim(shapes, "detr.query_embed.weight", 0, base.num_queries),
    )
    if classes == len(base.class_names):
        return config
    return replace(config, class_names=tuple(f"class {k}" for k in range(1, classes + 1)))


def vistr_config(shapes: Mapping[str, Shape], settings: Mapping[str, Any]) -> VisTRConfig:
    """The published model of these shapes, or a model of the same kind with other sizes.

    Args: shapes: by published name; settings: of the training, if the file has them.
    """
    body = r"vistr\.backbone\.0\.body\."
    backbone = _resnet_config(
        shapes,
        stem="vistr.backbone.0.body.conv1.weight",
        first="vistr.backbone.0.body.layer1.0.conv1.weight",
        blocks=[body + rf"layer{stage}\.(\d\d?)\..*" for stage in (1, 2, 3, 4)],
    )
    base = preset("vistr-r101" if backbone.depth == 101 else "vistr-r50")
    assert isinstance(base, VisTRConfig)
    first = "vistr.transformer.encoder.layers.0."
    hidden_dim = _agreed(
        shapes,
        [
            *(("vistr.input_proj.weight", 0), ("vistr.input_proj.bias", 0)),
            *((f"{first}norm1.weight", 0), (f"{first}linear1.weight", 1)),
            ("vistr.query_embed.weight", 1),
        ],
        base.hidden_dim,
    )
    feedforward = [(f"{first}linear1.weight", 0), (f"{first}linear1.bias", 0)]
    attended = _dim(shapes, "mask_head.lay1.weight", 1, hidden_dim + base.num_heads)
    fewest = _fewest_layers(base, backbone, hidden_dim)
    encoder, decoder = (
        rf"vistr\.transformer\.{part}\.layers\.(\d\d?)\..*" for part in ("encoder", "decoder")
    )
    queries = _dim(shapes, "vistr.query_embed.weight", 0, base.num_queries * base.clip_length)
    frames = max(1, queries // base.num_queries)
    config = replace(
        base,
        # Dilation of the last stage does not change the shapes.
        backbone=replace(backbone, dilate_last=settings.get("dilation") is True),
        hidden_dim=hidden_dim,
        num_heads=max(1, attended - hidden_dim),
        feedforward_dim=_agreed(
            shapes, [*feedforward, (f"{first}linear2.weight", 1)], base.feedforward_dim
        ),
        encoder_layers=max(_count(shapes, encoder), fewest[0]),
        decoder_layers=max(_count(shapes, decoder), fewest[1]),
        pre_norm="vistr.transformer.encoder.norm.weight" in shapes,
        clip_length=frames,
        clip_stride=base.clip_stride if frames == base.clip_length else max(1, frames // 2),
    )
    classes = _dim(shapes, "vistr.class_embed.weight", 0, len(base.class_names) + 1) - 1
    if classes == len(base.class_names):
        return config
    names = tuple(f"class {k}" for k in range(classes))
    return replace(config, class_names=names, category_ids=tuple(range(classes)))


def _dim(shapes: Mapping[str, Shape], key: str, axis: int, default: int) -> int:
    """A dimension of a tensor; the default if the tensor is missing, which is reported later."""
    shape = shapes.get(key, ())
    return shape[axis] if len(shape) > axis and shape[axis] > 0 else default


def _agreed(shapes: Mapping[str, Shape], places: list[tuple[str, int]], default: int) -> int:
    """The most frequent size among these tensors and axes; others are reported later."""
    found = [size for key, axis in places if (size := _dim(shapes, key, axis, 0))]
    return Counter(found).most_common(1)[0][0] if found else default


def _count(keys: Mapping[str, Shape], pattern: str) -> int:
    """The number of layers: one more than the highest number in keys of this pattern."""
    found = (re.fullmatch(pattern, key) for key in keys)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _fewest_layers(
    base: IFCConfig | VisTRConfig, backbone: ResNetConfig, hidden_dim: int
) -> tuple[int, int]:
    """The smallest numbers of encoder and decoder layers to assume.

    At the published widths they are the published numbers, so that missing layers are noticed.
    """
    widths = (backbone.bottleneck_channels, hidden_dim)
    if widths == (ResNetConfig().bottleneck_channels, base.hidden_dim):
        return base.encoder_layers, base.decoder_layers
    return 1, 1


def _resnet_config(
    shapes: Mapping[str, Shape], *, stem: str, first: str, blocks: list[str]
) -> ResNetConfig:
    """The backbone; of the published width, a ResNet-50 or -101, unless it has more blocks."""
    default = ResNetConfig()
    width = _dim(shapes, first, 0, default.bottleneck_channels)
    config = replace(
        default,
        stem_channels=_dim(shapes, stem, 0, default.stem_channels),
        bottleneck_channels=width,
    )
    counted = [_count(shapes, pattern) for pattern in blocks]
    for depth in (50, 101):
        published = BLOCKS_PER_STAGE[depth]
        if width == default.bottleneck_channels:
            fits = all(n <= most for n, most in zip(counted, published, strict=True))
        else:
            fits = tuple(counted) == published
        if fits:
            return replace(config, depth=depth)
    return replace(config, blocks=tuple(max(1, n) for n in counted))
