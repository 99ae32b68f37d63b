"""The published models by name: parameters, classes and pixel normalisation of the papers."""

from __future__ import annotations

import pytest

from vistool.config import ModelConfig, ResNetConfig, from_json, to_json
from vistool.errors import UsageError
from vistool.models import build_model
from vistool.models.checkpoints.presets import PRESETS, preset

# In the published code (frozen norms of the backbone are buffers and not counted).
PARAMETERS = {
    "ifc-r50": 39_148_009,
    "ifc-r101": 58_087_913,
    "ifc-r50-coco": 39_148_009 + 10_280,
    "ifc-r101-coco": 58_087_913 + 10_280,
    "vistr-r50": 57_116_129,
    "vistr-r101": 76_056_033,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_preset_has_as_many_parameters_as_the_published_model(name: str) -> None:
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


@pytest.mark.parametrize("name", ["vistr-r50", "vistr-r101"])
def test_vistr_s_classes_are_youtube_vis_s_ids_and_none_has_id_0(name: str) -> None:
    config = preset(name)
    names = dict(zip(config.ids_of_classes(), config.class_names, strict=True))
    assert config.ids_of_classes() == tuple(range(41))
    assert names[0] not in preset("ifc-r50").class_names
    assert [names[i] for i in range(1, 41)] == list(preset("ifc-r50").class_names)


@pytest.mark.parametrize("name", ["vistr-r50", "vistr-r101"])
def test_vistr_is_tested_at_300_pixels_without_a_cap(name: str) -> None:
    config = preset(name)
    assert (config.test_short_side, config.test_long_side) == (300, None)
    assert (config.clip_length, config.pixels.rounding) == (36, "down")
    assert config.pixels.channel_order == "RGB"
    assert config.backbone == ResNetConfig(depth=101 if "101" in name else 50)


def test_ifc_s_larger_backbone_is_the_msra_variant() -> None:
    pixels = preset("ifc-r101").pixels
    assert preset("ifc-r101").backbone == ResNetConfig(depth=101, stride_in_1x1=True)
    assert (pixels.channel_order, pixels.std) == ("BGR", (1.0, 1.0, 1.0))
    assert pixels.mean == tuple(reversed(preset("ifc-r50").pixels.mean))


def test_a_misspelled_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="'ifc-r52'") as error:
        preset("ifc-r52")
    assert "did you mean ifc-r50" in error.value.hint
