"""The logs of a training: one line per step, and one line per start of the run."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch

from vistool.engine.device import versions
from vistool.errors import UsageError
from vistool.formats.files import NOT_TAKEN, atomic_path, encode_json
from vistool.models.checkpoints.files import PACKAGE

LOG = "log.jsonl"
STARTS = "starts.jsonl"
CURVES = "tensorboard"

Line = Mapping[str, float | int | str | None]


class RunLog:
    """Writes `log.jsonl`, one line per step and per validation, and curves for TensorBoard.

    Args:
        step: number of steps done; lines of later steps, left by a killed run, are removed.
        tensorboard: also write curves.
    Raises: UsageError if TensorBoard is requested, but not installed.
    """

    def __init__(self, run: Path, step: int, *, tensorboard: bool) -> None:
        self._curves: Any = None
        if tensorboard:
            self._curves = curve_writer()(str(run / CURVES), purge_step=step + 1)
        _keep_steps(run / LOG, step)
        self._path = run / LOG
        self._file = self._path.open("a", encoding="utf-8", buffering=1)

    def write(self, step: int, values: Line) -> None:
        """Add the line of a step. Raises: OSError with the file's name if the disk is full."""
        try:
            self._file.write(encode_json({"step": step, **values}).decode() + "\n")
        except OSError as error:
            error.filename = str(self._path)
            raise
        if self._curves is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._curves.add_scalar(name, value, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # already raised by `write`; nothing is left to write
            self._file.close()
        if self._curves is not None:
            self._curves.close()


def note_start(run: Path, step: int, **facts: str | int) -> None:
    """Add a line to `starts.jsonl`: time, step, code version, machine and other facts."""
    line = {
        "step": step,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": code_revision(PACKAGE),
        **versions(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        **facts,
    }
    with (run / STARTS).open("a", encoding="utf-8") as file:
        file.write(encode_json(line).decode() + "\n")


def code_revision(package: Path) -> str | None:
    """The commit of the code in a folder, with "-dirty" if it has changes; None without git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(  # a fixed command without a shell
                ["git", *arguments], cwd=package, capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may be inside a repository without belonging to it.
    if not git("ls-files", "__init__.py"):
        return None
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}-dirty" if git("status", "--porcelain", "--", ".") else commit


def _keep_steps(path: Path, last: int) -> None:
    """Remove the lines after step `last`, and an incomplete last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            step = msgspec.json.decode(line)["step"]
        except (*NOT_TAKEN, KeyError, TypeError):
            break
        if step > last or not line.endswith(b"\n"):
            break
        kept.append(line)
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(kept))


def curve_writer() -> Any:
    """TensorBoard's class for writing curves. Raises: UsageError if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            "tensorboard = true, but TensorBoard is not installed",
            hint="pip install 'vistool[tensorboard]', or leave it out: log.jsonl has all values",
        ) from None
    return SummaryWriter
