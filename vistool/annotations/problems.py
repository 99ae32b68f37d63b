"""Problems in files, collected so that they can be reported together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from vistool.errors import DataError, first_few, visible

SHOWN = 20  # problems that are listed; the rest is only counted

Place = tuple[tuple[str, int | str], ...]  # from coarse to fine: (("result", 3), ("video", 7))


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem in a file."""

    severity: Literal["error", "warning"]
    kind: str  # a fixed word for programs, like "missing-file"
    file: str
    place: Place
    what: str
    hint: str = ""

    def __str__(self) -> str:
        where = ", ".join(f"{name} {value}" for name, value in self.place)
        text = ": ".join(part for part in (self.file, where, self.what) if part)
        return visible(text)


ProblemCallback = Callable[[Problem], None]


def refuse(problem: Problem) -> None:
    """Ignore warnings. Raises: DataError at the first error."""
    if problem.severity == "error":
        raise DataError(str(problem), hint=problem.hint)


def errors_of(problems: Sequence[Problem]) -> list[Problem]:
    """The problems of severity "error"."""
    return [problem for problem in problems if problem.severity == "error"]


def refuse_all(problems: Sequence[Problem]) -> None:
    """Raises: DataError that lists the errors among the problems, if there are errors."""
    errors = errors_of(problems)
    if errors:
        hint = next((error.hint for error in errors if error.hint), "")
        raise DataError("\n".join(first_few(errors, SHOWN)), hint=hint)
