"""Read and write CSV tables; names in them cannot be executed as formulas by a spreadsheet."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vistool.errors import DataError
from vistool.formats.files import atomic_path

FORMULA = tuple("=+-@\t\r\n")  # characters with which a formula begins in a spreadsheet
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")


def safe_cells(row: Iterable[object]) -> list[object]:
    """The cells of a row, with an apostrophe before text that a spreadsheet would execute.

    >>> safe_cells(["=1+1", "-3", -3, "a=b"])
    ["'=1+1", '-3', -3, 'a=b']
    """
    return [f"'{cell}" if isinstance(cell, str) and _is_formula(cell) else cell for cell in row]


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write a table atomically. Args: rows: cells by the names of their columns."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(safe_cells(names))
        writer.writerows(safe_cells(row.get(name, "") for name in names) for row in rows)
    return path


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table that `write_table` wrote; cells are texts by column name.

    Raises: DataError if it cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *rows = [[_plain(cell) for cell in row] for row in csv.reader(file)] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table: {error}") from None
    if any(len(row) != len(head) for row in rows):
        raise DataError(f"{path}: rows of another length than the first")
    return [dict(zip(head, row, strict=True)) for row in rows]


def _is_formula(text: str) -> bool:
    """True also for text that begins with apostrophes, so that `read_table` returns it exactly."""
    return text.lstrip("'").startswith(FORMULA) and not NUMBER.fullmatch(text)


def _plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell
