"""Segment, classify and track every object instance in a video: VisTR and IFC.

Nothing heavy is imported before it is used: every public name is looked up on first access.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vistool.config import PredictConfig
    from vistool.engine.evaluate import evaluate
    from vistool.engine.predict import (
        PredictedVideo,
        iterate_video,
        predict_video,
    )
    from vistool.engine.render import render_video
    from vistool.errors import VistoolError
    from vistool.formats.results import read_meta, read_results
    from vistool.formats.rle import decode_mask
    from vistool.models.weights import LoadedModel, load_model
    from vistool.structures import FrameInstance, FrameResult

_HOMES = {
    "FrameInstance": "vistool.structures",
    "FrameResult": "vistool.structures",
    "LoadedModel": "vistool.models.weights",
    "PredictConfig": "vistool.config",
    "PredictedVideo": "vistool.engine.predict",
    "VistoolError": "vistool.errors",
    "decode_mask": "vistool.formats.rle",
    "evaluate": "vistool.engine.evaluate",
    "iterate_video": "vistool.engine.predict",
    "load_model": "vistool.models.weights",
    "predict_video": "vistool.engine.predict",
    "read_meta": "vistool.formats.results",
    "read_results": "vistool.formats.results",
    "render_video": "vistool.engine.render",
}

__all__ = [
    "FrameInstance",
    "FrameResult",
    "LoadedModel",
    "PredictConfig",
    "PredictedVideo",
    "VistoolError",
    "__version__",
    "decode_mask",
    "evaluate",
    "iterate_video",
    "load_model",
    "predict_video",
    "read_meta",
    "read_results",
    "render_video",
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
