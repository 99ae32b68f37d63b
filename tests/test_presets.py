"""The published models by name: as large as the papers' and with their classes and pixels."""

from __future__ import annotations

import pytest
import torch

from vistool.config import ModelConfig, ResNetConfig, from_json, to_json
from vistool.errors import UsageError
from vistool.models import build_model
from vistool.models.presets import PRESETS, preset

# Of the published code (the backbone's frozen norms are buffers and do not count).
PARAMETERS = {
    "ifc-r50": 39_148_009,
    "ifc-r101": 58_087_913,
    "ifc-r50-coco": 39_148_009 + 10_280,
    "ifc-r101-coco": 58_087_913 + 10_280,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_preset_has_as_many_parameters_as_the_published_model(name: str) -> None:
    with torch.device("meta"):
        model = build_model(preset(name))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_every_class_of_a_preset_has_its_own_name_and_id(name: str) -> None:
    config = preset(name)
    ids = config.ids_of_classes()
    assert len(set(config.class_names)) == len(set(ids)) == len(config.class_names) == len(ids)
    assert from_json(to_json(config), ModelConfig, where="header") == config


def test_the_video_models_know_youtube_vis_2019() -> None:
    config = preset("ifc-r50")
    names = dict(zip(config.ids_of_classes(), config.class_names, strict=True))
    assert len(names) == 40
    assert [names[i] for i in (1, 10, 20, 30, 40)] == [
        *("person", "monkey", "bear", "zebra", "tennis_racket")
    ]
    assert (config.test_short_side, config.test_long_side, config.clip_length) == (360, 1333, 5)


def test_the_picture_models_know_coco() -> None:
    config = preset("ifc-r101-coco")
    names = dict(zip(config.ids_of_classes(), config.class_names, strict=True))
    assert len(names) == 80
    assert {1: "person", 13: "stop sign", 44: "bottle", 90: "toothbrush"}.items() <= names.items()
    assert set(range(1, 91)) - set(names) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def test_ifc_s_larger_backbone_is_the_msra_variant() -> None:
    backbone, pixels = preset("ifc-r101").backbone, preset("ifc-r101").pixels
    assert backbone == ResNetConfig(depth=101, stride_in_1x1=True)
    assert (pixels.channel_order, pixels.std) == ("BGR", (1.0, 1.0, 1.0))
    assert pixels.mean == tuple(reversed(preset("ifc-r50").pixels.mean))


def test_a_name_nearly_right_is_corrected() -> None:
    with pytest.raises(UsageError, match="'ifc-r52'") as error:
        preset("ifc-r52")
    assert "did you mean ifc-r50" in error.value.hint
