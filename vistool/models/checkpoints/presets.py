"""The configurations of the published models, by name."""

from __future__ import annotations

import difflib

import msgspec

from vistool.config import IFCConfig, ModelConfig, PixelConfig, ResNetConfig, VisTRConfig
from vistool.errors import UsageError

# In the order of their ids, 1 to 40.
YOUTUBE_VIS_2019 = (
    *("person", "giant_panda", "lizard", "parrot", "skateboard", "sedan", "ape", "dog", "snake"),
    *("monkey", "hand", "rabbit", "duck", "cat", "cow", "fish", "train", "horse", "turtle", "bear"),
    *("motorbike", "giraffe", "leopard", "fox", "deer", "owl", "surfboard", "airplane", "truck"),
    *("zebra", "tiger", "elephant", "snowboard", "boat", "shark", "mouse", "frog", "eagle"),
    *("earless_seal", "tennis_racket"),
)

# COCO's ids have gaps.
COCO = {
    **{1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train"},
    **{8: "truck", 9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign"},
    **{14: "parking meter", 15: "bench", 16: "bird", 17: "cat", 18: "dog", 19: "horse"},
    **{20: "sheep", 21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe"},
    **{27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee"},
    **{35: "skis", 36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat"},
    **{40: "baseball glove", 41: "skateboard", 42: "surfboard", 43: "tennis racket"},
    **{44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon"},
    **{51: "bowl", 52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli"},
    **{57: "carrot", 58: "hot dog", 59: "pizza", 60: "donut", 61: "cake", 62: "chair"},
    **{63: "couch", 64: "potted plant", 65: "bed", 67: "dining table", 70: "toilet", 72: "tv"},
    **{73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone"},
    **{78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book"},
    **{85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier"},
    **{90: "toothbrush"},
}

# The ResNet-101 of detectron2's MSRA weights, trained on BGR pictures with values up to 255.
MSRA_RESNET_101 = ResNetConfig(depth=101, stride_in_1x1=True)
MSRA_PIXELS = PixelConfig(mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), channel_order="BGR")

_IFC_R50 = IFCConfig(class_names=YOUTUBE_VIS_2019)
_IFC_R101 = msgspec.structs.replace(_IFC_R50, backbone=MSRA_RESNET_101, pixels=MSRA_PIXELS)

# VisTR's class numbers are the ids of YouTube-VIS, where id 0 does not exist.
_VISTR_R50 = VisTRConfig(class_names=("(unused)", *YOUTUBE_VIS_2019), category_ids=tuple(range(41)))
_VISTR_R101 = msgspec.structs.replace(_VISTR_R50, backbone=ResNetConfig(depth=101))


def _on_coco(config: IFCConfig) -> IFCConfig:
    """The model of the first stage, for single pictures of COCO at detectron2's 800 pixels."""
    return msgspec.structs.replace(
        config,
        class_names=tuple(COCO.values()),
        category_ids=tuple(COCO),
        clip_length=1,
        test_short_side=800,
    )


PRESETS: dict[str, ModelConfig] = {
    "ifc-r50": _IFC_R50,
    "ifc-r101": _IFC_R101,
    "vistr-r50": _VISTR_R50,
    "vistr-r101": _VISTR_R101,
    "ifc-r50-coco": _on_coco(_IFC_R50),
    "ifc-r101-coco": _on_coco(_IFC_R101),
}


def preset(name: str) -> ModelConfig:
    """The configuration of a published model. Raises: UsageError that lists the names."""
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(name, PRESETS, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise UsageError(
        f"no published model is named {name!r}", hint=f"{meant}there are: {', '.join(PRESETS)}"
    )
