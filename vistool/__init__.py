"""Segment, classify and track every object instance in a video: VisTR and IFC.

Nothing heavy is imported before it is used: every public name is looked up on first access.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vistool.config import PredictConfig
    from vistool.engine.evaluate.evaluate import Evaluation, evaluate
    from vistool.engine.predict.video import predict, track
    from vistool.engine.read_video import load
    from vistool.engine.tracked_video import TrackedFrame, TrackedVideo
    from vistool.engine.train.fine_tune import train
    from vistool.errors import VistoolError
    from vistool.formats.masks.rle import decode_mask
    from vistool.models.checkpoints.files import LoadedModel, load_model
    from vistool.structures import Instance, Track

_HOMES = {
    "Evaluation": "vistool.engine.evaluate.evaluate",
    "Instance": "vistool.structures",
    "LoadedModel": "vistool.models.checkpoints.files",
    "PredictConfig": "vistool.config",
    "Track": "vistool.structures",
    "TrackedFrame": "vistool.engine.tracked_video",
    "TrackedVideo": "vistool.engine.tracked_video",
    "VistoolError": "vistool.errors",
    "decode_mask": "vistool.formats.masks.rle",
    "evaluate": "vistool.engine.evaluate.evaluate",
    "load": "vistool.engine.read_video",
    "load_model": "vistool.models.checkpoints.files",
    "predict": "vistool.engine.predict.video",
    "track": "vistool.engine.predict.video",
    "train": "vistool.engine.train.fine_tune",
}

__all__ = [
    "Evaluation",
    "Instance",
    "LoadedModel",
    "PredictConfig",
    "Track",
    "TrackedFrame",
    "TrackedVideo",
    "VistoolError",
    "__version__",
    "decode_mask",
    "evaluate",
    "load",
    "load_model",
    "predict",
    "track",
    "train",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("vistool")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vistool' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
