"""Weight files and checkpoints that claim what is not so: refused in words, and soon."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from tests.recorded import recorded
from tests.untrained import save_untrained
from vistool.cli.app import app
from vistool.config import to_json
from vistool.errors import WeightsError
from vistool.models.checkpoints.files import load_model, read_header
from vistool.models.checkpoints.importing import import_checkpoint, save_imported
from vistool.models.checkpoints.safe_pickle import read_checkpoint

runner = CliRunner()

# Settings of a model, by their place in it, that no model has or that the file cannot fill.
HEADERS: list[tuple[str, Any]] = [
    ("num_queries", 10**9),
    ("num_queries", 60_000),
    ("num_queries", -1),
    ("num_queries", 0),
    ("hidden_dim", 8 * 10**6),
    ("hidden_dim", 60_000),
    ("hidden_dim", 33),
    ("num_heads", 7),
    ("num_heads", 0),
    ("feedforward_dim", 65_000),
    ("encoder_layers", 10**6),
    ("encoder_layers", 1000),
    ("decoder_layers", 10**6),
    ("num_memory_tokens", 10**9),
    ("clip_length", 0),
    ("clip_stride", -3),
    ("test_short_side", 10**9),
    ("dropout", 7),
    ("category_ids", [1, 1]),
    ("category_ids", [1]),
    ("class_names", ["cat"]),
    ("class_names", ["cat"] * 1_000_000),
    ("backbone.bottleneck_channels", 10**9),
    ("backbone.bottleneck_channels", 10_000),
    ("backbone.stem_channels", 10**9),
    ("backbone.blocks", [10**6, 1, 1, 1]),
    ("backbone.blocks", [0, 0, 0, 0]),
    ("pixels.std", [0, 1, 1]),
    ("pixels.std", [-1, 1, 1]),
    ("pixels.side_multiple", 0),
]


@pytest.mark.parametrize(("place", "value"), HEADERS)
def test_a_header_that_claims_another_model(tmp_path: Path, place: str, value: Any) -> None:
    good = save_untrained(tmp_path / "good.safetensors", ("cat", "dog"), 5)
    content = json.loads(to_json(read_header(good).config))
    *tables, key = place.split(".")
    inner = content
    for table in tables:
        inner = inner[table]
    inner[key] = value
    path = tmp_path / "bad.safetensors"
    save_file(load_file(good), path, {"config": json.dumps(content)})
    begun = time.process_time()
    with pytest.raises(WeightsError, match=r"bad\.safetensors"):
        load_model(str(path))
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"num_queries": 1e999}', "\0", ""])
def test_a_header_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"config": text})
    with pytest.raises(WeightsError, match=r"bad\.safetensors"):
        load_model(str(path))


@pytest.mark.parametrize(
    ("number", "dtype", "fault"),
    [
        (float("nan"), torch.float32, "holds NaN or infinity"),
        (float("-inf"), torch.float32, "holds NaN or infinity"),
        (3, torch.int64, "int64 instead of floating point"),
    ],
)
def test_weights_that_are_no_weights(
    tmp_path: Path, number: float, dtype: torch.dtype, fault: str
) -> None:
    good = save_untrained(tmp_path / "good.safetensors", ("cat", "dog"), 5)
    state = load_file(good)
    state["queries.weight"] = state["queries.weight"].to(dtype)
    state["queries.weight"][2, 3] = number
    path = tmp_path / "bad.safetensors"
    save_file(state, path, {"config": to_json(read_header(good).config)})
    with pytest.raises(WeightsError, match=rf"1 unusable \(queries\.weight {fault}"):
        load_model(str(path))


def test_large_weights_are_weights(tmp_path: Path) -> None:
    good = save_untrained(tmp_path / "good.safetensors", ("cat", "dog"), 5)
    state = load_file(good)
    state["queries.weight"] = torch.full_like(state["queries.weight"], 3e38)  # the sum overflows
    path = tmp_path / "large.safetensors"
    save_file(state, path, {"config": to_json(read_header(good).config)})
    assert load_model(str(path))


# --- checkpoints to import ------------------------------------------------------------------------


def checkpoint(path: Path, change: Mapping[str, Tensor]) -> Path:
    torch.save({"model": {**recorded("ifc/small_weights"), **change}}, path)
    return path


def test_a_tensor_under_two_names_is_not_chosen_silently(tmp_path: Path) -> None:
    key, value = next(iter(recorded("ifc/small_weights").items()))
    path = checkpoint(tmp_path / "m.pth", {f"module.{key}": value + 1})
    with pytest.raises(WeightsError, match=f"holds both {key} and module.{key}"):
        import_checkpoint(path)


@pytest.mark.parametrize(
    "key", ["detr.input_proj.weight", "detr.query_embed.weight", "detr.transformer.memory_bus"]
)
def test_a_transposed_tensor_is_named_as_such(tmp_path: Path, key: str) -> None:
    value = recorded("ifc/small_weights")[key].transpose(0, 1).contiguous()
    path = checkpoint(tmp_path / "m.pth", {key: value})
    done = runner.invoke(app, ["weights", "import", str(path)])
    assert done.exit_code == 4, done.stderr
    assert "wrong shape" in done.stderr
    assert key in done.stderr
    assert "1 heads" not in done.stderr


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float32])
def test_numbers_that_are_no_weights_are_not_imported(tmp_path: Path, dtype: torch.dtype) -> None:
    key = "detr.query_embed.weight"
    value = recorded("ifc/small_weights")[key].clone()
    value[0, 0] = float("nan") if dtype.is_floating_point else 1
    imported = import_checkpoint(checkpoint(tmp_path / "m.pth", {key: value.to(dtype)}))
    (unusable,) = imported.report.of("unusable")
    assert unusable.published == key
    with pytest.raises(WeightsError, match="1 hold no usable numbers"):
        save_imported(imported, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


class Odd:
    """Pickles as the given value."""

    def __init__(self, *how: Any) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return self.how


ODD_PICKLES: dict[str, bytes] = {
    "a dtype that torch has not": pickle.dumps({"a": np.zeros(3, np.longdouble)}),
    "complex numbers": pickle.dumps({"a": np.zeros(3, np.complex64)}),
    "text": pickle.dumps({"a": np.array(["x"])}),
    "times": pickle.dumps({"a": np.zeros(3, "datetime64[s]")}),
    "a dtype of a number": pickle.dumps({"a": Odd(np.dtype, (7,))}, 2),
    "a dtype by its class alone": b"\x80\x02}X\x01\0\0\0acnumpy\ndtype\n)\x81s.",
    "an array without a state": b"\x80\x02}X\x01\0\0\0acnumpy\nndarray\n)R)bs.",
    "long numbers": b"I" + b"9" * 5000 + b"\n.",
    "nested": b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b".",
    "a class as a value": b"\x80\x02}X\x01\0\0\0acnumpy\nndarray\ns.",
    "not a mapping": pickle.dumps([1, 2, 3]),
    "no names": pickle.dumps({1: np.zeros(3)}),
    "laughs": pickle.dumps({"__author__": None, "a": 1}),
}


@pytest.mark.parametrize("name", ODD_PICKLES)
def test_an_odd_pickle(tmp_path: Path, name: str) -> None:
    path = tmp_path / "odd.pkl"
    path.write_bytes(ODD_PICKLES[name])
    with pytest.raises(WeightsError, match=r"odd\.pkl"):
        read_checkpoint(path)


def test_an_array_by_its_class_alone_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "odd.pkl"
    path.write_bytes(b"\x80\x02}X\x01\0\0\0acnumpy\nndarray\n)\x81s.")
    assert read_checkpoint(path).tensors["a"].shape == (0,)


def test_an_author_that_would_never_end(tmp_path: Path) -> None:
    laughs: list[Any] = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]
    path = tmp_path / "odd.pkl"
    path.write_bytes(pickle.dumps({"__author__": laughs, "a": np.zeros(3, np.float32)}))
    assert read_checkpoint(path).author == ""


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, device="meta"),
        torch.zeros(3).to_sparse(),
    ],
    ids=["without numbers", "sparse"],
)
def test_a_tensor_that_holds_no_plain_numbers(tmp_path: Path, tensor: Tensor) -> None:
    path = tmp_path / "odd.pth"
    torch.save({"a": tensor}, path)
    with pytest.raises(WeightsError, match=r"odd\.pth"):
        read_checkpoint(path)
