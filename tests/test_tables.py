"""CSV tables: nothing in them is a formula, and everything comes back as it was."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistool.errors import DataError
from vistool.formats.tables import read_table, safe_cells, write_table

HOSTILE = [
    "=1+1",
    "+1+1",
    "-1+1|cmd",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "=cmd|' /C calc'!A0",
    "'=1",
    "''-x",
]
HARMLESS = ["cat", "a=b", "'tis", "", "1-2", "x@y", "-3", "-0.5", "+1e-05", "\u00e9"]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(text: str) -> None:
    assert safe_cells([text]) == [f"'{text}"]


@pytest.mark.parametrize("text", HARMLESS)
def test_other_text_and_numbers_stay(text: str) -> None:
    assert safe_cells([text, -3, -0.5, None]) == [text, -3, -0.5, None]


@given(st.lists(st.text(st.characters(codec="utf-8")) | st.sampled_from(HOSTILE), max_size=4))
def test_a_table_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    rows = [{"=name": text, "b": f"{n}"} for n, text in enumerate(texts)]
    write_table(path, rows)
    assert read_table(path) == rows
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            assert not any(cell.startswith(("=", "@", "\t", "\r")) for cell in row)


def test_a_name_that_is_no_unicode_is_written(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.csv", [{"a": "\udcff"}, {"b": 1}])
    assert read_table(path) == [{"a": "\\udcff", "b": ""}, {"a": "", "b": "1"}]


@pytest.mark.parametrize("data", [b"a,b\n1\n", b"\xff\xfe", b"a\n" + b'"' + b"x" * 200_000 + b'"'])
def test_a_table_that_cannot_be_read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"table\.csv"):
        read_table(path)
