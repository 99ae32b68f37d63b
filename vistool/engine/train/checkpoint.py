"""Save and load the complete state of a training; the last two checkpoints are kept."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from vistool.errors import VistoolError, WeightsError
from vistool.formats.files import atomic_path
from vistool.models.ifc import IFC
from vistool.models.vistr import VisTR

CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint-previous.pt"


@dataclass(slots=True)
class TrainingState:
    """The parts of a training that change from step to step.

    Positions in the data and random states are not included, because both follow from the step.
    """

    model: IFC | VisTR
    averaged: AveragedModel
    optimizer: AdamW
    scaler: GradScaler
    step: int = 0  # number of steps done
    skipped_in_a_row: int = 0  # number of last steps without finite gradients
    best_score: float | None = None  # of the validations so far
    validated: int = 0  # steps done at the last validation

    def as_dict(self) -> dict[str, Any]:
        """The state as nested mappings of tensors, numbers and texts."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        return {**parts, **{name: getattr(self, name) for name in _NUMBERS}}

    def fill(self, saved: Mapping[str, Any]) -> None:
        """Load a state from `as_dict`."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(saved[name])
        for name in _NUMBERS:
            setattr(self, name, saved[name])


_PARTS = ("model", "averaged", "optimizer", "scaler")
_NUMBERS = ("step", "skipped_in_a_row", "best_score", "validated")


def save_checkpoint(run: Path, state: TrainingState) -> None:
    """Write a checkpoint atomically, and keep the one before it.

    Raises: VistoolError if the disk is full.
    """
    content = state.as_dict()
    with atomic_path(run / CHECKPOINT) as temporary:
        try:
            torch.save({**content, "digest": _digest(content)}, temporary)
        except RuntimeError as error:  # torch raises it for every failure to write
            free = shutil.disk_usage(run).free / 1e6
            raise VistoolError(
                f"{run / CHECKPOINT}: could not be written; its disk has {free:.0f} MB left",
                hint=f"make room, then resume from the last one: vistool train --resume {run}",
            ) from error
        if (run / CHECKPOINT).exists():
            # A run that is killed between this and the next renaming has one complete checkpoint.
            (run / CHECKPOINT).replace(run / PREVIOUS)


def has_checkpoint(run: Path) -> bool:
    """Whether a run folder has a checkpoint to resume from."""
    return any((run / name).exists() for name in (CHECKPOINT, PREVIOUS))


def load_checkpoint(run: Path, state: TrainingState) -> list[str]:
    """Fill `state` from the newest usable checkpoint of a run, if it has checkpoints.

    Returns: the problems with newer ones, one line per checkpoint.
    Raises: WeightsError if there are checkpoints, but none is usable.
    """
    damaged: list[str] = []
    for path in (run / CHECKPOINT, run / PREVIOUS):
        if not path.exists():
            continue
        problem = _fill(state, path)
        if problem is None:
            return damaged
        damaged.append(f"{path}: not a usable checkpoint of this run: {problem}")
    if damaged:
        raise WeightsError(
            damaged[-1], hint="start a new run, with init set to the run's weights.safetensors"
        )
    return []


def _fill(state: TrainingState, path: Path) -> str | None:
    """Load a checkpoint. Returns: the problem with it; None if it was loaded."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if "digest" not in content:
            return "another version of vistool wrote it"
        if content.pop("digest") != _digest(content):
            return "its content differs from what was written"
        state.fill(content)
    except (RuntimeError, UnpicklingError, KeyError, ValueError, EOFError, OSError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of nested tensors, numbers and texts; torch itself does not notice changed bits."""
    sha = hashlib.sha256()
    for part in _leaves(content):
        sha.update(part)
    return sha.hexdigest()


def _leaves(value: Any) -> Iterator[bytes | memoryview]:
    match value:
        case Tensor():
            yield repr((value.dtype, tuple(value.shape))).encode()
            yield value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        case Mapping():
            for key, inner in value.items():
                yield repr(key).encode()
                yield from _leaves(inner)
        case list() | tuple():
            for inner in value:
                yield from _leaves(inner)
        case _:
            yield repr(value).encode()
