"""Rules that rename the keys of published checkpoints to vistool's names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vistool.errors import WeightsError

Rules = Sequence[tuple[str, str]]

# detectron2's ResNet.
_RESNET: Rules = (
    (r"stem\.conv1\.norm\.(.*)", r"stem_norm.\1"),
    (r"stem\.conv1\.(.*)", r"stem_conv.\1"),
    (r"res(\d)\.(\d+)\.shortcut\.norm\.(.*)", r"stages.{\1-2}.\2.shortcut.1.\3"),
    (r"res(\d)\.(\d+)\.shortcut\.(.*)", r"stages.{\1-2}.\2.shortcut.0.\3"),
    (r"res(\d)\.(\d+)\.conv(\d)\.norm\.(.*)", r"stages.{\1-2}.\2.norm\3.\4"),
    (r"res(\d)\.(\d+)\.conv(\d)\.(.*)", r"stages.{\1-2}.\2.conv\3.\4"),
)

# torchvision's ResNet.
_TORCHVISION_RESNET: Rules = (
    (r"conv1\.(.*)", r"stem_conv.\1"),
    (r"bn1\.(.*)", r"stem_norm.\1"),
    (r"layer(\d)\.(\d+)\.downsample\.(\d)\.(.*)", r"stages.{\1-1}.\2.shortcut.\3.\4"),
    (r"layer(\d)\.(\d+)\.bn(\d)\.(.*)", r"stages.{\1-1}.\2.norm\3.\4"),
    (r"layer(\d)\.(\d+)\.conv(\d)\.(.*)", r"stages.{\1-1}.\2.conv\3.\4"),
)

# Caffe2's ResNet, which detectron2 takes from MSRA: a norm is a scale and a shift.
_CAFFE2_BLOCK = r"res(\d)_(\d+)_branch"
_CAFFE2_RESNET: Rules = (
    (r"conv1_w", r"stem_conv.weight"),
    (r"res_conv1_bn_s", r"stem_norm.weight"),
    (r"res_conv1_bn_b", r"stem_norm.bias"),
    (_CAFFE2_BLOCK + "1_w", r"stages.{\1-2}.\2.shortcut.0.weight"),
    (_CAFFE2_BLOCK + "1_bn_s", r"stages.{\1-2}.\2.shortcut.1.weight"),
    (_CAFFE2_BLOCK + "1_bn_b", r"stages.{\1-2}.\2.shortcut.1.bias"),
    *(
        (_CAFFE2_BLOCK + f"2{letter}_{old}", rf"stages.{{\1-2}}.\2.{new.format(number)}")
        for number, letter in enumerate("abc", start=1)
        for old, new in (("w", "conv{}.weight"), ("bn_s", "norm{}.weight"), ("bn_b", "norm{}.bias"))
    ),
)

# DETR's transformer layers: norm1 follows self-attention; the last norm follows the feed-forward.
_ENCODER_LAYER: Rules = (
    (r"self_attn\.(.*)", r"self_attention.attend.\1"),
    (r"norm1\.(.*)", r"self_attention.norm.\1"),
    (r"norm2\.(.*)", r"feedforward.norm.\1"),
    (r"(linear[12]\..*)", r"feedforward.\1"),
)
_DECODER_LAYER: Rules = (
    (r"self_attn\.(.*)", r"self_attention.attend.\1"),
    (r"multihead_attn\.(.*)", r"cross_attention.attend.\1"),
    (r"norm1\.(.*)", r"self_attention.norm.\1"),
    (r"norm2\.(.*)", r"cross_attention.norm.\1"),
    (r"norm3\.(.*)", r"feedforward.norm.\1"),
    (r"(linear[12]\..*)", r"feedforward.\1"),
)


def _below(old: str, new: str, rules: Rules) -> list[tuple[str, str]]:
    """The rules for keys with a prefix; a group in `old` is \\1 in `new`."""
    groups = re.compile(old).groups
    return [
        (old + pattern, new + re.sub(r"\\(\d)", lambda m: f"\\{int(m[1]) + groups}", name))
        for pattern, name in rules
    ]


# EfficientNet-Lite0's features; the first `_bn0` is the stem's.
EFFICIENTNET_NAMES: Rules = (
    (r"_conv_stem\.(.*)", r"stem.conv.\1"),
    (r"_bn0\.(.*)", r"stem.norm.\1"),
    (r"_blocks\.(\d+)\._(expand|depthwise|project)_conv\.(.*)", r"blocks.\1.\2.conv.\3"),
    (r"_blocks\.(\d+)\._bn0\.(.*)", r"blocks.\1.expand.norm.\2"),
    (r"_blocks\.(\d+)\._bn1\.(.*)", r"blocks.\1.depthwise.norm.\2"),
    (r"_blocks\.(\d+)\._bn2\.(.*)", r"blocks.\1.project.norm.\2"),
)

IFC_NAMES: Rules = (
    *_below(r"detr\.backbone\.0\.backbone\.", r"backbone.", _RESNET),
    *_below(
        r"detr\.transformer\.encoder\.enc_layers\.(\d+)\.",
        r"encoder.frame_layers.\1.",
        _ENCODER_LAYER,
    ),
    *_below(
        r"detr\.transformer\.encoder\.bus_layers\.(\d+)\.",
        r"encoder.exchange_layers.\1.",
        _ENCODER_LAYER,
    ),
    *_below(
        r"detr\.transformer\.clip_decoder\.layers\.(\d+)\.", r"decoder.layers.\1.", _DECODER_LAYER
    ),
    (r"detr\.transformer\.clip_decoder\.norm\.(.*)", r"decoder.norm.\1"),
    (r"detr\.transformer\.memory_bus", r"memory_tokens"),
    (r"detr\.transformer\.memory_pos", r"memory_positions"),
    (r"detr\.class_embed\.(.*)", r"class_head.\1"),
    (r"detr\.query_embed\.(.*)", r"queries.\1"),
    (r"detr\.input_proj\.(.*)", r"project.\1"),
    (r"detr\.mask_head\.lay(\d)\.(.*)", r"mask_head.conv\1.\2"),
    (r"detr\.mask_head\.gn(\d)\.(.*)", r"mask_head.norm\1.\2"),
    (r"detr\.mask_head\.out_lay\.(.*)", r"mask_head.\1"),
    (r"detr\.mask_head\.adapter(\d)\.(.*)", r"laterals.{\1-1}.\2"),
    (r"detr\.mask_head\.convert_to_weight\.(.*)", r"mask_kernel.\1"),
)
# Backbones without a model, trained on ImageNet.
TORCHVISION_RESNET_NAMES: Rules = tuple(_below(r"", r"backbone.", _TORCHVISION_RESNET))
DETECTRON2_RESNET_NAMES: Rules = tuple(
    _below(r"(?:backbone\.)?(?:bottom_up\.)?", r"backbone.", _RESNET)
)
CAFFE2_RESNET_NAMES: Rules = tuple(_below(r"", r"backbone.", _CAFFE2_RESNET))

VISTR_NAMES: Rules = (
    *_below(r"vistr\.backbone\.0\.body\.", r"backbone.", _TORCHVISION_RESNET),
    *_below(r"vistr\.transformer\.encoder\.layers\.(\d+)\.", r"encoder.\1.", _ENCODER_LAYER),
    *_below(r"vistr\.transformer\.decoder\.layers\.(\d+)\.", r"decoder.layers.\1.", _DECODER_LAYER),
    (r"vistr\.transformer\.encoder\.norm\.(.*)", r"encoder_norm.\1"),
    (r"vistr\.transformer\.decoder\.norm\.(.*)", r"decoder.norm.\1"),
    (r"vistr\.class_embed\.(.*)", r"class_head.\1"),
    (r"vistr\.bbox_embed\.(.*)", r"box_head.\1"),
    (r"vistr\.query_embed\.(.*)", r"queries.\1"),
    (r"vistr\.input_proj\.(.*)", r"project.\1"),
    (r"bbox_attention\.q_linear\.(.*)", r"attention_maps.query.\1"),
    (r"bbox_attention\.k_linear\.(.*)", r"attention_maps.key.\1"),
    (r"mask_head\.lay(\d)\.(.*)", r"mask_head.conv\1.\2"),
    (r"mask_head\.gn(\d)\.(.*)", r"mask_head.norm\1.\2"),
    (r"mask_head\.adapter(\d)\.(.*)", r"laterals.{\1-1}.\2"),
    (r"mask_head\.conv_offset\.(.*)", r"mask_head.offset.\1"),
    (r"mask_head\.dcn\.(.*)", r"mask_head.deform.\1"),
    (r"insmask_head\.(.*)", r"instance_head.\1"),
)
# VisTR extends DETR; common parts have the same names, with another prefix or none.
DETR_NAMES: Rules = tuple(
    (pattern.replace(r"vistr\.", r"(?:vistr\.|detr\.)?", 1), name) for pattern, name in VISTR_NAMES
)


def rename_key(key: str, rules: Rules) -> str:
    """The key in vistool's names; `{3-2}` in a rule is the number 1. Raises: WeightsError."""
    for pattern, name in rules:
        match = re.fullmatch(pattern, key)
        if match:
            counted = match.expand(name)
            return re.sub(r"\{(\d+)-(\d+)\}", lambda m: str(int(m[1]) - int(m[2])), counted)
    raise WeightsError(f"{key}: no such key in the published model")
