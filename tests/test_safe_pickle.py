"""Checkpoints of unknown origin: read to the value, refused by name, and never executed."""

from __future__ import annotations

import argparse
import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.test_import import run
from vistool.errors import WeightsError
from vistool.models.checkpoints.safe_pickle import read_checkpoint, refuse_unsafe_torch


class Harmful:
    """Unpickled by the plain reader, it runs a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.target}",)


def new_torch(content: object, path: Path) -> None:
    torch.save(content, path)


def legacy_torch(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def plain_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


WRITERS = [new_torch, legacy_torch, plain_pickle]


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_would_run_a_command_is_refused_by_name(
    write: Callable[[object, Path], None], tmp_path: Path
) -> None:
    content = {"model": {"w": np.zeros(2)}, "args": Harmful(tmp_path / "harm")}
    write(content, tmp_path / "bad.pth")
    result = run(tmp_path / "bad.pth")
    assert result.exit_code == 4
    assert f"refused because of {os.system.__module__}.system" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pth"]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Path("x"), "pathlib"),
        (np.array([{}, {}], dtype=object), r"numpy\.dtype\('O8?'\)"),
        (io.BytesIO, r"_?io\.BytesIO"),
        (eval, r"((builtins|__builtin__)\.)?eval"),
    ],
)
def test_whatever_is_neither_numbers_nor_a_container_is_refused(
    write: Callable[[object, Path], None], value: object, name: str, tmp_path: Path
) -> None:
    write({"model": {"w": value}}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=f"refused because of {name}"):
        read_checkpoint(tmp_path / "bad.pth")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_any_protocol_and_order_keep_their_values(protocol: int, tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {
        "c": array,
        "fortran": np.asfortranarray(array),
        "big-endian": array.astype(">f8"),
        "half": array.astype(np.float16),
        "integer": array.astype(np.int64),
        "scalar": np.float32(3.5),
    }
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(OrderedDict(arrays), protocol=protocol))
    tensors = read_checkpoint(tmp_path / "m.pkl").tensors
    assert tensors.keys() == arrays.keys()
    for key, value in arrays.items():
        assert tensors[key].tolist() == np.asarray(value).tolist()


def test_settings_of_the_training_are_read_as_plain_values(tmp_path: Path) -> None:
    settings = argparse.Namespace(lr=1e-4, masks=True, names=["a"], frozen_weights=None)
    legacy_torch({"model": {"w": torch.ones(1)}, "args": settings}, tmp_path / "m.pth")
    assert read_checkpoint(tmp_path / "m.pth").settings == vars(settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"a letter, not a checkpoint", "neither a torch checkpoint nor a pickle"),
        (b"<html>404</html>", "a web page, not weights"),
        (b"PK\x03\x04" + b"\0" * 60, "neither a torch checkpoint nor a pickle"),
        (pickle.dumps([1, 2]), "contains a list, not named weights"),
        (pickle.dumps({"epoch": 3}), "no weights, only: epoch"),
        (pickle.dumps({"w": np.zeros(2)}), "of an unknown model: w"),
    ],
)
def test_a_file_of_something_else_is_reported(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(content)
    result = run(tmp_path / "m.pth")
    assert result.exit_code == 4
    assert message in result.stderr


def test_a_text_that_is_cut_off_in_its_length_is_reported(tmp_path: Path) -> None:
    """The pickle of a legacy checkpoint may end within the four bytes of a text's length."""
    legacy_torch({"model": {"w": torch.ones(1)}}, tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    place = data.index(b"type_size")
    (tmp_path / "m.pth").write_bytes(data[: data.index(b"X\x05\0\0\0", place) + 2])
    with pytest.raises(WeightsError, match="neither a torch checkpoint nor a pickle"):
        read_checkpoint(tmp_path / "m.pth")


def test_a_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    result = run(tmp_path / "absent.pth")
    assert result.exit_code == 4
    assert "absent.pth: cannot be read: No such file" in result.stderr


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_reported(
    write: Callable[[object, Path], None], share: float, tmp_path: Path
) -> None:
    path = tmp_path / "m.pth"
    write({"model": {"w": np.ones(1000), "v": np.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(WeightsError, match="neither a torch checkpoint nor a pickle"):
        read_checkpoint(path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "m.pkl"


@given(place=st.floats(0, 1), value=st.integers(0, 255), data=st.binary(max_size=30))
def test_damage_anywhere_is_an_error_of_ours_or_harmless(
    scratch: Path, place: float, value: int, data: bytes
) -> None:
    content: Any = {"model": {"w": np.ones((3, 2), np.float32), "v": np.zeros(4, np.int64)}}
    damaged = bytearray(pickle.dumps(content, protocol=2))
    at = int(place * (len(damaged) - 1))
    damaged[at : at + 1] = bytes([value]) + data
    scratch.write_bytes(damaged)
    try:
        tensors = read_checkpoint(scratch).tensors
    except WeightsError:
        return
    assert all(isinstance(value, Tensor) for value in tensors.values())


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cu121"])
def test_a_torch_whose_safe_reader_was_not_safe_is_refused(version: str) -> None:
    with pytest.raises(WeightsError, match="cannot read a checkpoint of unknown origin safely"):
        refuse_unsafe_torch(version)


@pytest.mark.parametrize("version", ["2.6.0", "2.10.0+cpu", "3.0.0a0+git1"])
def test_a_torch_whose_reader_is_safe_is_used(version: str) -> None:
    refuse_unsafe_torch(version)
