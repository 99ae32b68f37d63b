"""Configuration files of the papers' training: models and hyperparameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from vistool.config import (
    IFCPipeline,
    LossConfig,
    TrainConfig,
    VisTRPipeline,
    apply_overrides,
    from_mapping,
    load_toml,
)
from vistool.models.checkpoints.presets import preset

CONFIGS = Path(__file__).parents[1] / "configs"
AS_PUBLISHED = {
    "learning_rate": 1e-4,
    "backbone_rate": 1e-5,
    "weight_decay": 1e-4,
    "schedule": "step",
    "gamma": 0.1,
    "warmup_steps": 0,
    "accumulate": 1,
    "ema_decay": 0.0,
    "frozen_blocks": None,  # one stage, as in the papers
    "loss": LossConfig(),  # the papers' weights
}
OF_FILE: dict[str, dict[str, Any]] = {
    "vistr-r50": {"batch": 8, "clip_length": 36, "max_norm": 0.1, "seed": 42},
    "ifc-r50": {
        **{"batch": 16, "clip_length": 5, "max_norm": 0.01},
        **{"steps": 6000, "milestones": (4000,)},
    },
    "ifc-r50-coco": {
        **{"batch": 32, "clip_length": 1, "max_norm": 0.01},
        **{"steps": 1108800, "milestones": (739200,)},
    },
}
RESNET_101 = ["model.backbone.depth=101"]
MSRA = [
    *RESNET_101,
    "model.backbone.stride_in_1x1=true",
    "model.pixels.channel_order=BGR",
    "model.pixels.mean=[103.53,116.28,123.675]",
    "model.pixels.std=[1.0,1.0,1.0]",
]


def read(name: str, overrides: list[str] | None = None) -> TrainConfig:
    path = CONFIGS / f"{name}.toml"
    values = apply_overrides(load_toml(path), overrides or [])
    config: TrainConfig = from_mapping(values, TrainConfig, where=str(path))
    return config


@pytest.mark.parametrize("name", OF_FILE)
def test_a_file_has_the_hyperparameters_of_the_paper(name: str) -> None:
    config = read(name)
    config.check(processes=config.batch)
    for setting, value in {**AS_PUBLISHED, **OF_FILE[name]}.items():
        assert getattr(config, setting) == value, setting


def test_vistr_s_rates_fall_after_12_of_18_epochs() -> None:
    config = read("vistr-r50")
    epoch = config.steps / 18
    assert round(config.milestones[0] / epoch, 3) == 12
    assert config.pipeline == VisTRPipeline()


def test_ifc_s_pictures_are_cropped_only_on_coco() -> None:
    assert read("ifc-r50").pipeline == IFCPipeline()
    on_coco = read("ifc-r50-coco").pipeline
    assert isinstance(on_coco, IFCPipeline)
    assert on_coco.crop_sides == (384, 600)
    assert on_coco.short_sides == tuple(range(480, 801, 32))


@pytest.mark.parametrize(
    ("file", "overrides", "model"),
    [
        ("ifc-r50", [], "ifc-r50"),
        ("ifc-r50", MSRA, "ifc-r101"),
        ("ifc-r50-coco", [], "ifc-r50-coco"),
        ("ifc-r50-coco", MSRA, "ifc-r101-coco"),
    ],
)
def test_ifc_s_model_is_the_published_one(file: str, overrides: list[str], model: str) -> None:
    assert read(file, overrides).model_config() == preset(model)


@pytest.mark.parametrize(("overrides", "model"), [([], "vistr-r50"), (RESNET_101, "vistr-r101")])
def test_vistr_s_model_is_the_published_one_without_its_unused_class(
    overrides: list[str], model: str
) -> None:
    published = preset(model)
    expected = msgspec.structs.replace(
        published, class_names=published.class_names[1:], category_ids=()
    )
    config = read("vistr-r50", overrides).model_config()
    assert config == expected
    assert config.ids_of_classes() == published.category_ids[1:]


@pytest.mark.parametrize("name", OF_FILE)
def test_the_overrides_that_a_file_names_exist(name: str) -> None:
    comments = [
        line for line in (CONFIGS / f"{name}.toml").read_text().splitlines() if line[:1] == "#"
    ]
    words = " ".join(comments).split()
    named = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert named
    read(name, named)
