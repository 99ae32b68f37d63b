"""Mutation testing: count the small faults in vistool/ that the tests detect, on a seeded sample.

    pip install coverage
    nice python -m benchmarks.mutants WORK --count 400 --seed 16

WORK gets a clone of the project, `lines/` (the tests that run each line, from one run of the
default suite) and `log.jsonl`, one line per mutant. An interrupted command continues when it is
started again. Undetected mutants that do not change behaviour are marked by hand in the log, with a
field `"equivalent": "why"`; they are then left out of the count.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PACKAGE = "vistool"
IMPORTED = ""  # the coverage context of lines that run when a module is imported
LONGEST = 150.0  # seconds of tests per mutant, from their durations in the first run
PATIENCE = 60.0  # seconds that a mutant's tests may take beyond ten times their first duration

SWAPS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
# Runs in programs that a test starts, which record their lines for that test.
CHILD = """
import atexit, os
if "MUTANTS_DATA" in os.environ:
    import coverage
    recording = coverage.Coverage(
        data_file=os.environ["MUTANTS_DATA"], data_suffix=True, source_pkgs=["vistool"],
        context=os.environ["MUTANTS_CONTEXT"], config_file=False,
    )
    recording._warn_no_data = False
    recording.start()
    atexit.register(lambda: (recording.stop(), recording.save()))
"""


@dataclass(frozen=True)
class Mutant:
    file: str  # from the project's root
    line: int
    kind: str
    start: int  # bytes of the file that are replaced
    end: int
    text: str  # the replacement


# --- making mutants -------------------------------------------------------------------------------


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All mutants of a file."""
    begins = [0]
    for line in source.encode().splitlines(keepends=True):
        begins.append(begins[-1] + len(line))
    made = []
    for node in _mutable(ast.parse(source)):
        for kind, text in _replacements(node):
            start = begins[node.lineno - 1] + node.col_offset
            end = begins[node.end_lineno - 1] + node.end_col_offset
            made.append(Mutant(file, node.lineno, kind, start, end, text))
    return made


def _mutable(node: ast.AST) -> Iterator[Any]:
    """All nodes except those of annotations, decorators and texts."""
    skipped = {"annotation", "returns", "decorator_list", "type_params"}
    if isinstance(node, ast.JoinedStr):
        return
    if isinstance(node, ast.expr | ast.stmt):
        yield node
    for name, value in ast.iter_fields(node):
        if name not in skipped:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _mutable(child)


def _replacements(node: Any) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Compare(ops=[op]):
            yield "comparison", _changed(node, ops=[SWAPS[type(op)]()])
        case ast.BoolOp(op=op):
            yield "and/or", _changed(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not()):
            yield "not", f"({ast.unparse(node.operand)})"
        case ast.BinOp(op=ast.Add() | ast.Sub() as op) if not _is_text(node):
            yield "+/-", _changed(node, op=ast.Sub() if isinstance(op, ast.Add) else ast.Add())
        case ast.Constant(value=bool()):
            yield "True/False", str(not node.value)
        case ast.Constant(value=int()):
            yield "off by one", f"{node.value + 1}"
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield "return None", "return None"
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.AugAssign() | ast.Continue():
            yield "statement", "pass"


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(part, ast.JoinedStr)
        or (isinstance(part, ast.Constant) and isinstance(part.value, str | bytes))
        for part in (node.left, node.right)
    )


def _changed(node: ast.AST, **fields: Any) -> str:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return f"({ast.unparse(other)})"


def sample(root: Path, count: int, seed: int) -> list[Mutant]:
    """A sample with equal numbers from every folder of the package, also in its first part."""
    chance = random.Random(seed)
    by_folder: dict[str, list[Mutant]] = defaultdict(list)
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).parts
        file = path.relative_to(root).as_posix()
        by_folder[parts[0] if len(parts) > 1 else ""] += mutants_of(file, path.read_text())
    shuffled = [chance.sample(made, len(made)) for _, made in sorted(by_folder.items()) if made]
    rounds = range(max(map(len, shuffled)))
    return [made[turn] for turn in rounds for made in shuffled if turn < len(made)][:count]


# --- which tests run a line -----------------------------------------------------------------------


class _Recorder:
    """A pytest plugin that gives coverage the name of the running test or shared fixture."""

    def __init__(self, recording: Any) -> None:
        self.recording = recording
        self.seconds: dict[str, float] = {}
        self.fixtures: dict[str, list[str]] = {}
        self._contexts: list[str] = []
        self._failed: set[str] = set()

    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        definitions = item._fixtureinfo.name2fixturedefs.values()
        self.fixtures[item.nodeid] = [_name(found[-1]) for found in definitions]
        begun = time.perf_counter()
        with self._in(item.nodeid):
            yield
        if item.nodeid not in self._failed:
            self.seconds[item.nodeid] = time.perf_counter() - begun

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:  # fails without a mutant, so it cannot detect one
            self._failed.add(report.nodeid)

    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        if fixturedef.scope == "function":
            yield
            return
        with self._in(_name(fixturedef)):
            yield

    @contextlib.contextmanager
    def _in(self, context: str) -> Iterator[None]:
        self._contexts.append(context)
        self._tell(context)
        yield
        self._contexts.pop()
        self._tell(self._contexts[-1] if self._contexts else IMPORTED)

    def _tell(self, context: str) -> None:
        os.environ["MUTANTS_CONTEXT"] = context
        self.recording.switch_context(context)


def _name(fixture: Any) -> str:
    return f"fixture {fixture.baseid}::{fixture.argname}"


def record(root: Path, work: Path) -> dict[str, Any]:
    """Run the default suite once, one test file at a time; recorded files are not run again."""
    (work / "lines").mkdir(exist_ok=True)
    (work / "children").mkdir(exist_ok=True)
    (work / "children" / "sitecustomize.py").write_text(CHILD)
    parts = [path.relative_to(root) for path in sorted((root / "tests").glob("test_*.py"))]
    every: dict[str, Any] = {"lines": {}, "seconds": {}, "fixtures": {}}
    for part in [*parts, Path(PACKAGE)]:
        place = work / "lines" / f"{part.stem}.json"
        if not place.exists():
            print(f"recording {part}", flush=True)
            child = os.fork()  # this process must not load vistool
            if child == 0:
                _record_part(root, work, part, place)
                os._exit(0)
            os.waitpid(child, 0)
        found = json.loads(place.read_text())
        every["seconds"] |= found["seconds"]
        every["fixtures"] |= found["fixtures"]
        for file, lines in found["lines"].items():
            known = every["lines"].setdefault(file, {})
            for line, contexts in lines.items():
                known[line] = known.get(line, []) + contexts
    return every


def _record_part(root: Path, work: Path, part: Path, place: Path) -> None:
    import coverage
    import pytest

    for hook in (_Recorder.pytest_runtest_protocol, _Recorder.pytest_fixture_setup):
        pytest.hookimpl(hookwrapper=True)(hook)
    data = work / f"coverage-{part.stem}"
    os.environ["PYTHONPATH"] = f"{work / 'children'}:{root}"
    os.environ |= {"MUTANTS_DATA": str(data), "MUTANTS_CONTEXT": IMPORTED}
    recording = coverage.Coverage(data_file=str(data), source_pkgs=[PACKAGE], config_file=False)
    recorder = _Recorder(recording)
    recording.start()
    pytest.main(["-q", "-p", "no:cacheprovider", str(part)], plugins=[recorder])
    recording.stop()
    recording.save()
    recording.combine([str(path) for path in work.glob(f"{data.name}.*")])
    measured = recording.get_data()
    lines = {
        Path(file).relative_to(root).as_posix(): measured.contexts_by_lineno(file)
        for file in measured.measured_files()
    }
    found = {"lines": lines, "seconds": recorder.seconds, "fixtures": recorder.fixtures}
    place.write_text(json.dumps(found))


class Tests:
    """The tests of each line, the fastest first."""

    def __init__(self, root: Path, found: dict[str, Any]) -> None:
        self.root, self.seconds = root, found["seconds"]
        self._lines: dict[str, dict[str, list[str]]] = found["lines"]
        self._of_fixture: dict[str, set[str]] = defaultdict(set)
        for test, fixtures in found["fixtures"].items():
            for fixture in fixtures:
                self._of_fixture[fixture].add(test)

    def of(self, mutant: Mutant) -> list[str]:
        """The tests that run a mutant's line, or use the names of a line that runs at import."""
        here = self._lines.get(mutant.file, {})
        contexts = set(here.get(str(mutant.line), []))
        tree = ast.parse((self.root / mutant.file).read_text())
        if IMPORTED in contexts:
            contexts |= self._users(_defined_at(tree, mutant.line))
        elif compiled := _compiled(tree, mutant.line):  # where Python sees no lines
            contexts |= self._users(compiled)
        tests = self._tests(contexts)
        if IMPORTED in contexts and not tests:
            tests = self._tests({name for names in here.values() for name in names})
        return sorted(tests, key=self.seconds.__getitem__)

    def _tests(self, contexts: set[str]) -> set[str]:
        tests = {name for name in contexts if name in self.seconds}
        return tests.union(*(self._of_fixture[name] for name in contexts))

    def _users(self, names: list[str]) -> set[str]:
        """The contexts of lines that use a name defined by a statement of a module or class."""
        if not names:
            return set()
        word = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
        return {
            context
            for file, lines in self._lines.items()
            for number, text in enumerate((self.root / file).read_text().splitlines(), start=1)
            if word.search(text)
            for context in lines.get(str(number), [])
        }


def _defined_at(tree: ast.AST, line: int) -> list[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Assign() | ast.AnnAssign() if node.lineno <= line <= (node.end_lineno or 0):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                return [
                    name.id for t in targets for name in ast.walk(t) if isinstance(name, ast.Name)
                ]
            case ast.FunctionDef() if node.lineno <= line < node.body[0].lineno:
                return [node.name]  # a default of an argument
    return []


def _compiled(tree: ast.Module, line: int) -> list[str]:
    """All functions of a module if numba compiles the one that contains the line; else none."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    for node in functions:
        marks = " ".join(map(ast.unparse, node.decorator_list))
        if node.lineno <= line <= (node.end_lineno or 0) and "compiled" in marks:
            return [function.name for function in functions]
    return []


# --- running mutants ------------------------------------------------------------------------------


def try_out(root: Path, mutant: Mutant, tests: Tests, work: Path) -> dict[str, Any]:
    """Run a mutant's tests in a fork of this process, which has the libraries loaded."""
    chosen, expected = [], 0.0
    covering = tests.of(mutant)
    for test in covering:
        expected += tests.seconds[test]
        if expected <= LONGEST or not chosen:
            chosen.append(test)
    outcome = {"tests": len(chosen), "left_out": len(covering) - len(chosen)}
    if not chosen:
        return {"outcome": "survived", **outcome}
    path = root / mutant.file
    original, stat = path.read_bytes(), path.stat()
    path.write_bytes(original[: mutant.start] + mutant.text.encode() + original[mutant.end :])
    # a new file time, so that Python and numba do not use their old compiled code
    os.utime(path, (stat.st_mtime, random.randrange(10**8, 10**9)))
    begun = time.monotonic()
    try:
        code = _pytest(chosen, work / "pytest.txt", PATIENCE + 10 * min(expected, LONGEST))
    finally:
        path.write_bytes(original)
        os.utime(path, (stat.st_mtime, stat.st_mtime))
    outcome["seconds"] = round(time.monotonic() - begun)
    if code is None:
        return {"outcome": "killed", "by": "time", **outcome}
    report = (work / "pytest.txt").read_text(errors="replace")
    by = re.search(r"^(?:FAILED|ERROR) (\S+)", report, re.MULTILINE)
    return {
        "outcome": "survived" if code == 0 else "killed",
        "by": by.group(1) if by else f"exit {code}" if code else "",
        **outcome,
    }


def _pytest(tests: list[str], report: Path, seconds: float) -> int | None:
    """The exit status of pytest in a fork; None if it takes too long."""
    child = os.fork()
    if child == 0:
        os.setsid()
        with report.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        import pytest

        code = 70
        try:
            arguments = ["-x", "-q", "-rfE", "--tb=line", "-p", "no:cacheprovider"]
            code = int(pytest.main([*arguments, *tests]))
        finally:
            sys.stdout.flush()
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _end_group(child)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    _end_group(child)
    os.waitpid(child, 0)
    return None


def _end_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _copy(work: Path) -> Path:
    """Clone the committed state into a folder."""
    root = work / "copy"
    if not root.exists():
        subprocess.run(["git", "clone", "-q", ".", str(root)], check=True)
    return root.resolve()


def interval(killed: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a share."""
    z = 1.96
    middle, spread = killed + z**2 / 2, z * math.sqrt(killed * (count - killed) / count + z**2 / 4)
    return (middle - spread) / (count + z**2), (middle + spread) / (count + z**2)


def report(log: list[dict[str, Any]]) -> str:
    counted = [entry for entry in log if "equivalent" not in entry]
    outcomes = Counter(entry["outcome"] for entry in counted)
    lines = [
        f"{entry['file']}:{entry['line']} {entry['kind']}: {entry['was']} -> {entry['text']} "
        f"({entry['tests']} tests, {entry['left_out']} left out)"
        for entry in counted
        if entry["outcome"] == "survived"
    ]
    low, high = interval(outcomes["killed"], max(1, len(counted)))
    share = outcomes["killed"] / max(1, len(counted))
    lines.append(
        f"{len(log)} mutants: {outcomes['killed']} killed, {outcomes['survived']} survived, "
        f"{len(log) - len(counted)} equivalent; {share:.0%} killed ({low:.0%} to {high:.0%})"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--report", action="store_true", help="only count what is in the log")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    work = options.work.resolve()
    log_path = work / "log.jsonl"
    log = (
        [json.loads(line) for line in log_path.read_text().splitlines()]
        if (log_path.exists())
        else []
    )
    if options.report:
        print(report(log))
        return
    root = _copy(work)
    os.chdir(root)
    sys.path.insert(0, str(root))
    os.environ["PYTHONPATH"] = str(root)
    for library in ("cv2", "numba", "pytest", "torch"):  # once for all forks
        importlib.import_module(library)
    tests = Tests(root, record(root, work))
    known = {(entry["file"], entry["start"], entry["kind"]) for entry in log}
    for mutant in sample(root, options.count, options.seed):
        if (mutant.file, mutant.start, mutant.kind) in known:
            continue
        was = (root / mutant.file).read_bytes()[mutant.start : mutant.end].decode()
        entry = {**asdict(mutant), "was": was, **try_out(root, mutant, tests, work)}
        with log_path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        log.append(entry)
        print(len(log), entry["outcome"], mutant.file, mutant.line, mutant.kind, flush=True)
    print(report(log))


if __name__ == "__main__":
    main()
