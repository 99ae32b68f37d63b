"""JSON from outside: strict and fast, or with the NaN that Python writes."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from vistool.errors import DataError


def decode_json(data: bytes, kind: Any, where: str) -> Any:
    """JSON text as `kind`, whose inner `msgspec.Raw` stay undecoded: `plain` gives their values.

    Text with NaN or Infinity in it comes back whole, as plain values. Its type may be another than
    `kind`, so look at it. Raises: DataError that begins with `where`.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{where}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error)
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        pass
    raise DataError(f"{where}: not a readable JSON file: {reason}")


def plain(value: Any) -> Any:
    """The Python value of what may still be JSON text."""
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
