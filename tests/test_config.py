"""Settings: one home, one default, and an error that lists the keys that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistool.config import (
    IFCConfig,
    ModelConfig,
    PixelConfig,
    ResNetConfig,
    TrainConfig,
    apply_overrides,
    from_json,
    from_mapping,
    load_toml,
    to_json,
)
from vistool.errors import UsageError

CONFIGS = Path(__file__).parents[1] / "configs"


@given(
    st.builds(
        IFCConfig,
        class_names=st.lists(st.text(min_size=1), min_size=1, max_size=4).map(tuple),
        backbone=st.builds(ResNetConfig, depth=st.sampled_from([50, 101])),
        hidden_dim=st.integers(1, 512),
        pixels=st.builds(PixelConfig, channel_order=st.sampled_from(["RGB", "BGR"])),
    )
)
def test_a_model_s_configuration_survives_the_header_of_its_file(config: IFCConfig) -> None:
    assert from_json(to_json(config), ModelConfig, where="header") == config


def test_a_misspelt_key_is_an_error_that_names_the_one_meant() -> None:
    values = {"class_names": ["cat"], "num_querys": 40}
    with pytest.raises(UsageError, match="unknown setting 'num_querys'") as error:
        from_mapping(values, IFCConfig, where="model.toml")
    assert "did you mean num_queries?" in error.value.hint
    assert "hidden_dim" in error.value.hint


def test_a_misspelt_key_in_a_table_is_located() -> None:
    values = {"class_names": ["cat"], "backbone": {"kind": "resnet", "dpth": 50}}
    with pytest.raises(UsageError, match=r"unknown setting 'dpth' in \[backbone\]") as error:
        from_mapping(values, IFCConfig, where="model.toml")
    assert "did you mean depth?" in error.value.hint


def test_a_value_of_another_type_is_located() -> None:
    values = {"class_names": ["cat"], "hidden_dim": "many"}
    with pytest.raises(UsageError, match="hidden_dim"):
        from_mapping(values, IFCConfig, where="model.toml")


def test_overrides_change_nested_values_and_leave_the_original_alone() -> None:
    values = {"augment": {"scale": [1.0, 2.0], "colour": 0.5}, "steps": 3}
    changed = apply_overrides(values, ["augment.colour=0", "card.license=CC0", "steps=7"])
    assert changed["augment"] == {"scale": [1.0, 2.0], "colour": 0}
    assert changed["card"] == {"license": "CC0"}
    assert changed["steps"] == 7
    assert values["augment"] == {"scale": [1.0, 2.0], "colour": 0.5}


@pytest.mark.parametrize("override", ["steps", "=3"])
def test_an_override_without_key_or_value_is_refused(override: str) -> None:
    with pytest.raises(UsageError, match="key=value"):
        apply_overrides({}, [override])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_the_shipped_training_configurations_are_valid(path: Path) -> None:
    config = from_mapping(load_toml(path), TrainConfig, where=path.name)
    assert len(config.model_config().class_names) == len(config.classes)


def test_a_broken_toml_file_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("steps = 3\nbatch = = 4\n")
    with pytest.raises(UsageError, match="line 2"):
        load_toml(path)
