"""A model on its device and settings that fit it, to predict any number of videos with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vistool.config import PredictConfig
from vistool.engine.device import choose_device
from vistool.engine.predict.segment import Segmenter
from vistool.engine.writers import check_kinds
from vistool.errors import UsageError
from vistool.formats.video.reader import VideoReader, open_video
from vistool.models.checkpoints.files import LoadedModel, load_model
from vistool.structures import Track, VideoFrame
from vistool.tracking.nms import TrackOverlaps
from vistool.tracking.postprocess import results_multi_class, results_single_class

MAX_OVERLAP = 0.5  # of two tracks, unless told otherwise or scoring is as published


class PredictJob:
    """A model on its device and checked settings, for any number of videos.

    Args:
        multi_class: report every track as every likely class, as IFC's evaluation does, instead of
            as its most likely one only.
    """

    def __init__(
        self, model: LoadedModel | str | Path, config: PredictConfig, *, multi_class: bool = False
    ) -> None:
        check_settings(config)
        device = choose_device(config.device)
        self.loaded = model if isinstance(model, LoadedModel) else load_model(model)
        self.config = config
        self.names = self.loaded.header.config.class_names
        self.labels = wanted_labels(config.classes, self.names)
        usual = 1.0 if self.loaded.header.config.scoring == "published" else MAX_OVERLAP
        self.max_overlap = usual if config.max_overlap is None else config.max_overlap
        self.results = results_multi_class if multi_class else results_single_class
        self._model = self.loaded.model.to(device).eval()
        self._device = device

    def segmenter(self, *, keep_pictures: bool = False) -> Segmenter:
        return Segmenter(self._model, self.config, self._device, keep_pictures=keep_pictures)

    def open(self, source: Path) -> VideoReader:
        """Raises: DataError, UsageError."""
        config = self.config
        return open_video(source, fps=config.fps, stream=config.stream, value_range=config.range)

    def decoded(self, reader: VideoReader) -> Iterator[VideoFrame]:
        return reader.frames(start=self.config.start, end=self.config.end)

    def overlaps(self) -> TrackOverlaps | None:
        """A counter of overlaps between a video's tracks; None if it is not needed."""
        return TrackOverlaps() if self.max_overlap < 1 else None

    def reported(
        self, found: Iterable[tuple[int, int, float]], overlaps: TrackOverlaps | None
    ) -> list[Track]:
        """Those of a wanted class and a sufficient score, the best first, each instance once.

        Args: found: track ids with label and score.
        """
        wanted = [r for r in found if r[1] in self.labels and r[2] >= self.config.conf]
        wanted.sort(key=lambda result: -result[2])
        left_out: set[int] = set()
        if overlaps is not None:
            labels: dict[int, int] = {}
            for track_id, label, _ in wanted:  # a track's likeliest class comes first
                labels.setdefault(track_id, label)
            left_out = overlaps.duplicates(labels, self.max_overlap)
        ids = self.loaded.header.config.ids_of_classes()
        return [
            Track(track_id, ids[label], self.names[label], score)
            for track_id, label, score in wanted
            if track_id not in left_out
        ]


def check_settings(config: PredictConfig) -> None:
    """Raises: UsageError for numbers that make no sense."""
    if not 0 <= config.conf <= 1:
        raise UsageError(f"conf {config.conf:g}: a score lies between 0 and 1")
    if not 0 <= (config.max_overlap or 0) <= 1:
        raise UsageError(f"max overlap {config.max_overlap:g}: an IoU lies between 0 and 1")
    for name in ("start", "end"):
        seconds = getattr(config, name)
        if seconds is not None and not math.isfinite(seconds):
            raise UsageError(f"{name} {seconds}: not a number of seconds")
    for name in ("frame_stride", "batch", "size", "clip_length", "clip_stride"):
        value = getattr(config, name)
        if isinstance(value, int) and value < 1:
            raise UsageError(f"{name.replace('_', ' ')} {value}: must be at least 1")
    check_kinds(config.save)


def wanted_labels(classes: Sequence[str], names: Sequence[str]) -> frozenset[int]:
    """The labels of some classes; of all, if none is named. Raises: UsageError for an unknown."""
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise UsageError(
            f"unknown class {unknown[0]!r}", hint=f"the model knows: {', '.join(names)}"
        )
    return frozenset(i for i, name in enumerate(names) if not classes or name in classes)
