"""`benchmarks.mutants`: the small faults it puts into the code, and how it counts them."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.mutants import interval, mutants_of, sample

SOURCE = '''
def pick(values: list[int], *, most: int = 3) -> int | None:
    """Take 1."""
    if not values and most <= len(values):
        raise ValueError(f"é {most + 1}")
    values.append(True)
    return values[0] - most
'''


def test_each_mutant_differs_from_the_source_in_one_place() -> None:
    changed = set()
    for mutant in mutants_of("pick.py", SOURCE):
        text = SOURCE.encode()
        text = text[: mutant.start] + mutant.text.encode() + text[mutant.end :]
        before, after = ast.parse(SOURCE), ast.parse(text)
        lines = zip(ast.unparse(before).splitlines(), ast.unparse(after).splitlines(), strict=True)
        (line,) = (new.strip() for old, new in lines if old != new)
        changed.add((mutant.kind, mutant.line, line))
    head = "def pick(values: list[int], *, most: int={})->int | None:"
    assert {(kind, line, text.replace(" -> ", "->")) for kind, line, text in changed} == {
        ("off by one", 2, head.format(4)),
        ("and/or", 4, "if not values or most <= len(values):"),
        ("not", 4, "if values and most <= len(values):"),
        ("comparison", 4, "if not values and most < len(values):"),
        ("statement", 5, "pass"),
        ("statement", 6, "pass"),
        ("True/False", 6, "values.append(False)"),
        ("return None", 7, "return None"),
        ("+/-", 7, "return values[0] + most"),
        ("off by one", 7, "return values[1] - most"),
    }


def test_a_sample_has_equal_shares_of_the_folders_and_is_the_same_for_a_seed() -> None:
    root = Path(__file__).parent.parent
    drawn = sample(root, 65, seed=1)
    folders = Counter(Path(mutant.file).parent.parts[1:2] for mutant in drawn)
    assert set(folders.values()) == {5}
    assert drawn == sample(root, 65, seed=1) != sample(root, 65, seed=2)
    assert drawn[:13] == sample(root, 13, seed=1)


def test_the_interval_is_wilsons() -> None:
    """Both ends are where the share lies 1.96 standard deviations of its own from what was seen."""
    for killed, count in ((90, 100), (7, 13), (1, 40)):
        for end in interval(killed, count):
            spread = (end * (1 - end) / count) ** 0.5
            assert abs(killed / count - end) == pytest.approx(1.96 * spread)
    assert interval(0, 10)[0] == pytest.approx(0)
    assert interval(10, 10)[1] == pytest.approx(1)
