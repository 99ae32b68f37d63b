"""Everything a training needs to go on as if it had never stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from vistool.errors import WeightsError
from vistool.formats.atomic import atomic_path
from vistool.models.ifc import IFC
from vistool.models.vistr import VisTR


@dataclass(slots=True)
class Checkpoint:
    """The parts of a training that change from step to step."""

    model: IFC | VisTR
    averaged: AveragedModel
    optimizer: AdamW
    step: int  # steps done


def save_checkpoint(path: Path, state: Checkpoint) -> None:
    """Write a checkpoint, complete or not at all."""
    with atomic_path(path) as temporary:
        torch.save(
            {
                "model": state.model.state_dict(),
                "averaged": state.averaged.state_dict(),
                "optimizer": state.optimizer.state_dict(),
                "step": state.step,
                "random": torch.get_rng_state(),
            },
            temporary,
        )


def load_checkpoint(path: Path, state: Checkpoint) -> int:
    """Fill the parts of `state` and torch's random state; returns the steps done.

    Raises: WeightsError if the file is damaged or belongs to another model.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        state.model.load_state_dict(saved["model"])
        state.averaged.load_state_dict(saved["averaged"])
        state.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
        return int(saved["step"])
    except (RuntimeError, UnpicklingError, KeyError, ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path}: not a usable checkpoint of this run: {reason}",
            hint="start a new run, with init set to the run's weights.safetensors",
        ) from None
