"""JSON from outside: strict and fast, or with the NaN that Python writes; JSON of any names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from vistool.errors import DataError

T = TypeVar("T")
# What msgspec raises for text that it does not take. ValueError: bytes that are no UTF-8.
NOT_TAKEN = (msgspec.DecodeError, ValueError, RecursionError)


def decode_json(data: bytes, kind: Any, where: str) -> Any:
    """JSON text as `kind`, whose inner `msgspec.Raw` stay undecoded: `plain` gives their values.

    Text with NaN, Infinity or a name that is no UTF-8 in it comes back whole, as plain values. Its
    type may be another than `kind`, so look at it. Raises: DataError that begins with `where`.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{where}: {error}") from None
    except NOT_TAKEN as error:
        reason = str(error)
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        pass
    raise DataError(f"{where}: not a readable JSON file: {reason}")


def read_json(path: Path, kind: type[T]) -> T:
    """A small JSON file as `kind`. Raises: DataError if it is missing, damaged or another kind."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: {error}") from None
    except NOT_TAKEN as error:
        reason = str(error)
    try:  # perhaps for a name that is no UTF-8
        return msgspec.convert(json.loads(data, parse_constant=_refuse_constant), kind)
    except (ValueError, RecursionError, msgspec.ValidationError):
        raise DataError(f"{path}: not a readable JSON file: {reason}") from None


def plain(value: Any) -> Any:
    """The Python value of what may still be JSON text. Raises: DataError."""
    if not isinstance(value, msgspec.Raw):
        return value
    try:
        return msgspec.json.decode(value)
    except NOT_TAKEN as error:
        reason = str(error)
    try:
        return json.loads(bytes(value))
    except (ValueError, RecursionError):
        raise DataError(f"not readable JSON: {reason}") from None


def encode_json(value: Any, *, indented: bool = False) -> bytes:
    """JSON text of a value. Bytes of a name that are no UTF-8 become \\udcXX, as in Python."""
    try:
        text = msgspec.json.encode(value)
    except UnicodeEncodeError:
        simple = msgspec.to_builtins(value, builtin_types=(msgspec.Raw,))
        text = json.dumps(simple, default=plain).encode("ascii")
    return msgspec.json.format(text) if indented else text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
