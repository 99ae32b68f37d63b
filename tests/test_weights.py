"""Weight files: a file holds everything a model needs, and wrong files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.test_ifc import small_ifc
from vistool.errors import WeightsError
from vistool.formats.files import sha256_of
from vistool.models.checkpoints import names as published
from vistool.models.checkpoints.files import (
    available_weights,
    find_weights,
    load_exactly,
    load_model,
    read_header,
    save_model,
)


def test_a_saved_model_comes_back_with_its_configuration(tmp_path: Path) -> None:
    model = small_ifc()
    save_model(model, tmp_path / "m.safetensors", {"license": "Apache-2.0"})
    loaded = load_model(str(tmp_path / "m.safetensors"))
    assert loaded.model.config == model.config
    assert loaded.header.metadata == {"license": "Apache-2.0"}
    assert not loaded.model.training
    for key, value in model.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[key], value, rtol=0, atol=0)


def test_the_same_model_is_written_to_the_same_bytes(tmp_path: Path) -> None:
    """Checksums of weight files are keys elsewhere."""
    model, notes = small_ifc(), {str(n): "note" for n in range(8)}
    paths = [tmp_path / f"{n}.safetensors" for n in range(4)]
    for path in paths:
        save_model(model, path, notes)
    assert len({sha256_of(path) for path in paths}) == 1
    assert load_model(paths[0]).header.metadata == notes


def test_a_file_of_half_precision_is_half_as_large_and_loads_as_float32(tmp_path: Path) -> None:
    model = small_ifc()
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_model(model, full, {})
    save_model(model, half, {}, half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    loaded = load_model(str(half)).model
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for a, b in zip(loaded.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_tensors_that_do_not_fit_are_counted_and_named(tmp_path: Path) -> None:
    model = small_ifc()
    state = dict(model.state_dict())
    state["surplus"] = torch.zeros(1)
    state["queries.weight"] = torch.zeros(3, 3)
    del state["memory_tokens"]
    with pytest.raises(WeightsError) as error:
        load_exactly(model, state, where="file")
    message = str(error.value)
    assert "1 missing (memory_tokens" in message
    assert "1 unknown (surplus" in message
    assert "queries.weight (3, 3) instead of (12, 64)" in message


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(WeightsError, match="no weights named 'nonsense'") as error:
        find_weights("nonsense")
    for path in available_weights():
        assert path.stem in error.value.hint


@pytest.mark.parametrize("content", [b"", b"not a weight file", b"\xff" * 64])
def test_a_file_without_weights_is_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        read_header(path)


def test_an_external_safetensors_file_is_reported(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(WeightsError, match="no model configuration"):
        load_model(str(tmp_path / "m.safetensors"))


def test_a_truncated_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(small_ifc(), path, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_model(str(path))


def test_a_published_key_without_a_rule_is_an_error() -> None:
    with pytest.raises(WeightsError, match=r"detr\.surprise"):
        published.rename_key("detr.surprise", published.IFC_NAMES)


def test_the_list_of_released_weights_has_their_checksums() -> None:
    card = (Path(__file__).parents[1] / "weights" / "README.md").read_text()
    for path in available_weights():
        assert f"`{path.stem}`" in card
        assert sha256_of(path) in card


def test_every_shipped_weight_file_loads() -> None:
    for path in available_weights():
        loaded = load_model(str(path))
        assert len(loaded.header.config.class_names) > 0
        assert {"license", "training"} <= loaded.header.metadata.keys()
        assert all(value.isfinite().all() for value in load_file(path).values())
