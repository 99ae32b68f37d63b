"""Read checkpoints of other programs without executing code in them.

A pickle is a program. Here, it may only build plain containers and numeric arrays. Any other name
in it is refused before it is imported.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from torch import Tensor

from vistool.errors import WeightsError
from vistool.models.checkpoints.files import STAND_IN_BYTES, refuse_stand_in

SAFE_TORCH = (2, 6)

ZIP_FILE = b"PK\x03\x04"  # torch.save
LEGACY_TORCH_FILE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6

LARGEST = 100_000_000  # values; files with more must have at least one byte per value
# Those that torch has, too.
NUMBER_TYPE = r"[<>=|]?(b1|i[1248]|u[1248]|f[248])"

# Exceptions that readers raise for bytes that are not a pickle.
DAMAGED = (
    pickle.UnpicklingError,
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    RecursionError,
    struct.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """The weights in a file, and its notes on them."""

    tensors: dict[str, Tensor]  # by their names in the file
    settings: dict[str, Any]  # the training's command line, if the file has it
    author: str  # origin of the format, noted by detectron2; else empty


def read_checkpoint(path: Path) -> PublishedCheckpoint:
    """Read a torch checkpoint (new or legacy format) or a pickle of NumPy arrays.

    Raises: WeightsError if the file is damaged, contains no weights, or names anything but numbers
        and plain containers.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python and torch warn about oddities of damaged files
            start = file.read(STAND_IN_BYTES)
            file.seek(0)
            if not start:
                raise WeightsError(f"{path}: the file is empty")
            refuse_stand_in(path, start)
            if start.startswith((ZIP_FILE, LEGACY_TORCH_FILE)):
                content = _torch_content(file)
            else:
                content = _pickled(file.read())
        checkpoint = _checkpoint(content, path)
    except _RefusedError as refused:
        _refuse(path, str(refused))
    except DAMAGED as error:
        if isinstance(error, OSError) and error.filename:
            raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
        if name := re.search(r"GLOBAL ([\w.]+)", str(error)):
            _refuse(path, name[1])
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"{path}: neither a torch checkpoint nor a pickle of arrays: {reason[-1]}",
            hint="a damaged download? The published files end in .pth or .pkl",
        ) from None
    numbers = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    if numbers > max(path.stat().st_size, LARGEST):  # a view of one value can state any size
        raise WeightsError(f"{path}: claims {numbers} numbers, more than the file can hold")
    return checkpoint


def _refuse(path: Path, name: str) -> NoReturn:
    raise WeightsError(
        f"{path}: refused because of {name}, which is neither a number nor a container",
        hint="weights do not need it: download the file again from a source you trust",
    )


def _torch_content(file: BinaryIO) -> object:
    """Read with torch's restricted reader; VisTR's files contain an argparse.Namespace, too."""
    refuse_unsafe_torch(torch.__version__)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > file.seek(0, os.SEEK_END):
            raise pickle.UnpicklingError("its parts are compressed, which torch never does")
    file.seek(0)
    names: list[Any] = [(value, name) for name, value in ALLOWED.items()]
    with torch.serialization.safe_globals(names):
        return torch.load(file, map_location="cpu", weights_only=True)


def _pickled(data: bytes) -> object:
    """Load a pickle after a check of all its instructions.

    The unpickler itself would allocate memory for any stated index.
    """
    for done, (instruction, argument, _) in enumerate(pickletools.genops(data)):
        if instruction.name.endswith("PUT") and (argument or 0) > done:
            raise pickle.UnpicklingError(f"place {argument} in a memory of {done} values")
    return _Unpickler(io.BytesIO(data), encoding="latin1").load()


def refuse_unsafe_torch(version: str) -> None:
    """Raise WeightsError for torch before 2.6, whose restricted reader is unsafe (CVE-2025-32434).

    Args: version: of torch.
    """
    if tuple(int(part) for part in version.split(".")[:2]) < SAFE_TORCH:
        raise WeightsError(
            f"torch {version} cannot read a checkpoint of unknown origin safely",
            hint="import with torch 2.6 or newer; older versions can read the written file",
        )


class _RefusedError(Exception):
    """A pickle contains a name that is not allowed."""


class _Unpickler(pickle.Unpickler):
    """Builds numeric arrays in plain containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in ALLOWED:
            raise _RefusedError(full)
        return ALLOWED[full]


class _Settings:
    """Stands in for argparse.Namespace."""


class _NumberType:
    """Stands in for numpy.dtype; accepts numeric types only."""

    def __init__(self, name: str, align: object = False, copy: object = True) -> None:
        if not isinstance(name, str) or not re.fullmatch(NUMBER_TYPE, name):
            raise _RefusedError(f"numpy.dtype({name!r})")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for numpy.ndarray, whose __setstate__ does not check its arguments."""

    def __new__(cls, *_: object) -> _Array:  # some pickles call only this
        array = super().__new__(cls)
        array.array = np.empty(0)
        return array

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_column, data = state
        # Arrays from Python 2 hold their bytes as text.
        content = data.encode("latin1") if isinstance(data, str) else data
        flat = np.frombuffer(content, kind.dtype)
        self.array = flat.reshape(shape, order="F" if by_column else "C")


def _new_array(*_: object) -> _Array:
    """A new array; its shape, type and values are set afterwards."""
    return _Array()


def _array_from_buffer(data: object, kind: _NumberType, shape: object, order: str) -> _Array:
    """An array as written by pickle protocol 5."""
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", data))
    return array


def _scalar(kind: _NumberType, data: object) -> _Array:
    return _array_from_buffer(data, kind, (), "C")


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes as written by pickle protocol 2; other encodings would load a module."""
    if encoding != "latin1":
        raise _RefusedError(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


# Every name that a pickle may contain, and its replacement.
ALLOWED: dict[str, Any] = {
    "argparse.Namespace": _Settings,
    "collections.OrderedDict": OrderedDict,
    "numpy.core.multiarray._reconstruct": _new_array,
    "numpy._core.multiarray._reconstruct": _new_array,
    "numpy.core.numeric._frombuffer": _array_from_buffer,
    "numpy._core.numeric._frombuffer": _array_from_buffer,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.ndarray": _Array,
    "numpy.dtype": _NumberType,
    "_codecs.encode": _latin1,
}


def _checkpoint(content: object, path: Path) -> PublishedCheckpoint:
    """Find the weights, at the top level or under a training program's key."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: contains a {type(content).__name__}, not named weights")
    weights: Any = content
    for name in ("model", "state_dict", "blobs"):
        if isinstance(content.get(name), Mapping):
            weights = content[name]
            break
    tensors = {key: _tensor(value) for key, value in weights.items() if _is_weight(key, value)}
    if not tensors:
        some = ", ".join(key for key in list(weights)[:3] if isinstance(key, str)) or "nothing"
        raise WeightsError(f"{path}: contains no weights, only: {some}")
    settings, author = content.get("args"), content.get("__author__")
    return PublishedCheckpoint(
        tensors,
        vars(settings) if isinstance(settings, _Settings) else {},
        author if isinstance(author, str) else "",
    )


def _is_weight(key: object, value: object) -> bool:
    if isinstance(value, Tensor):  # only dense tensors on the CPU
        plain = value.layout is torch.strided and value.device.type == "cpu"
        return isinstance(key, str) and plain and not value.is_quantized
    return isinstance(key, str) and isinstance(value, _Array)


def _tensor(value: Tensor | _Array) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.from_numpy(value.array.astype(value.array.dtype.newbyteorder("=")))
