"""The order of the papers' clips: epochs, and the clips of every step."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from vistool.config import IFCPipeline, TrainConfig, VisTRPipeline
from vistool.data.clips import TrainingClip
from vistool.data.labelled import read_annotations
from vistool.data.published.clips import Pipeline
from vistool.data.published.ifc import IFCClips
from vistool.data.published.vistr import VisTRClips
from vistool.data.sampling import refuse_unlabelled
from vistool.errors import UsageError


def published_clips(config: TrainConfig) -> EpochClips:
    """The clips of a training run with `config.pipeline`.

    Raises: DataError for unusable annotations; UsageError if sources have different weights.
    """
    if len({source.weight for source in config.sources}) > 1:
        raise UsageError(
            "[[sources]] have different weights, but an epoch of [pipeline] has all their clips",
            hint="remove the weights",
        )
    videos = [
        video
        for source in config.sources
        for video in read_annotations(
            Path(config.data) / source.annotations,
            config.classes,
            frames=source.frames_folder(config.data),
            stated=True,
        )
    ]
    refuse_unlabelled(videos, config.named_sources())
    match config.pipeline:
        case VisTRPipeline():
            pipeline: Pipeline = VisTRClips(videos, config.clip_length, config.pipeline)
        case IFCPipeline():
            pipeline = IFCClips(videos, config.clip_length, config.pipeline)
        case None:
            raise ValueError("no pipeline in the configuration")
    return EpochClips(pipeline, config.batch * config.accumulate, config.seed)


class EpochOrder:
    """The clips of every step; every epoch has a new random order.

    The clips of an epoch are collected in their random order by group. A group with `size` clips
    becomes a step; the clips that remain at the end of an epoch wait for the next one. As in
    detectron2, IFC has two groups: pictures that are wider than high, and the others.
    """

    def __init__(self, groups: np.ndarray, size: int, seed: int) -> None:
        self.groups = groups
        self.size = size
        self.seed = seed
        self._epochs = 0  # completed so far
        self._batches: list[np.ndarray] = []
        self._waiting: dict[int, list[int]] = defaultdict(list)  # by group

    def __call__(self, step: int) -> np.ndarray:
        """The numbers of the clips of a step: [size]."""
        while len(self._batches) <= step:
            order = np.random.default_rng((self.seed, 0, self._epochs)).permutation(
                len(self.groups)
            )
            self._epochs += 1
            for clip, group in zip(order.tolist(), self.groups[order].tolist(), strict=True):
                self._waiting[group].append(clip)
                if len(self._waiting[group]) == self.size:
                    self._batches.append(np.array(self._waiting.pop(group)))
        return self._batches[step]


class EpochClips:
    """A paper's clips in the order of its epochs; a step has `size` of them."""

    def __init__(self, pipeline: Pipeline, size: int, seed: int) -> None:
        self.pipeline = pipeline
        self.order = EpochOrder(pipeline.groups, size, seed)

    def draw(self, step: int, number: int, rng: np.random.Generator) -> TrainingClip:
        """See `ClipSource`."""
        return self.pipeline.draw(int(self.order(step)[number]), rng)
