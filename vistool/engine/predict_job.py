"""What any number of videos are predicted with: a model on its device, and settings that fit it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import get_args

from vistool.config import Extra, PredictConfig
from vistool.engine.device import choose_device
from vistool.engine.segment import Segmenter
from vistool.errors import UsageError
from vistool.formats.video import VideoReader
from vistool.models.weights import LoadedModel, load_model
from vistool.structures import VideoFrame
from vistool.tracking.postprocess import TrackClass, results_multi_class, results_single_class


class PredictJob:
    """A model on its device and checked settings, for any number of videos.

    Args:
        multi_class: report every track as every likely class, as IFC's evaluation does, instead of
            as its most likely one only.
    """

    def __init__(
        self, model: LoadedModel | str, config: PredictConfig, *, multi_class: bool = False
    ) -> None:
        check_settings(config)
        device = choose_device(config.device)
        self.loaded = load_model(model) if isinstance(model, str) else model
        self.config = config
        self.names = self.loaded.header.config.class_names
        self.labels = wanted_labels(config.classes, self.names)
        self.results = results_multi_class if multi_class else results_single_class
        self._model = self.loaded.model.to(device).eval()
        self._device = device

    def segmenter(self) -> Segmenter:
        return Segmenter(self._model, self.config, self._device)

    def decoded(self, reader: VideoReader) -> Iterator[VideoFrame]:
        return reader.frames(start=self.config.start, end=self.config.end)

    def reported(self, results: Sequence[TrackClass]) -> list[TrackClass]:
        """Those of a wanted class and a sufficient score, the best first."""
        wanted = [r for r in results if r.label in self.labels and r.score >= self.config.conf]
        return sorted(wanted, key=lambda r: -r.score)


def check_settings(config: PredictConfig) -> None:
    """Raises: UsageError for numbers that make no sense."""
    if not 0 <= config.conf <= 1:
        raise UsageError(f"conf {config.conf:g}: a score lies between 0 and 1")
    for name in ("start", "end"):
        seconds = getattr(config, name)
        if seconds is not None and not math.isfinite(seconds):
            raise UsageError(f"{name} {seconds}: not a number of seconds")
    for name in ("frame_stride", "batch", "size", "clip_length", "clip_stride"):
        value = getattr(config, name)
        if isinstance(value, int) and value < 1:
            raise UsageError(f"{name.replace('_', ' ')} {value}: must be at least 1")
    for kind in config.save:
        if kind not in get_args(Extra):
            raise UsageError(
                f"--save {kind}: no such output", hint=f"there are {', '.join(get_args(Extra))}"
            )


def wanted_labels(classes: Sequence[str], names: Sequence[str]) -> frozenset[int]:
    """The labels of some classes; of all, if none is named. Raises: UsageError for an unknown."""
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise UsageError(
            f"unknown class {unknown[0]!r}", hint=f"the model knows: {', '.join(names)}"
        )
    return frozenset(i for i, name in enumerate(names) if not classes or name in classes)
