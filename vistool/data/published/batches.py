"""Which of the papers' clips come together in a step, epoch after epoch."""

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
    """What a training with `config.pipeline` is fed. Raises: DataError for unusable annotations."""
    if len({source.weight for source in config.sources}) > 1:
        raise UsageError(
            "[[sources]] of different weights: an epoch of [pipeline] has all clips of all sources",
            hint="leave the weights out",
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
    """Which clips of an epoch come together, epoch after epoch, every time in a new order.

    Clips of a group are collected, in a random order of all clips, until there are `size` of them.
    What is left of a group at the end of an epoch waits for the next one. (IFC: pictures that are
    wider than high and the others; as detectron2 has it.)
    """

    def __init__(self, groups: np.ndarray, size: int, seed: int) -> None:
        self.groups = groups
        self.size = size
        self.seed = seed
        self._epochs = 0  # gone through so far
        self._batches: list[np.ndarray] = []
        self._waiting: dict[int, list[int]] = defaultdict(list)  # by group

    def __call__(self, step: int) -> np.ndarray:
        """[size]: the numbers of the clips that are collected at this step."""
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
    """A paper's clips, in the order of its epochs; a step takes `size` of them."""

    def __init__(self, pipeline: Pipeline, size: int, seed: int) -> None:
        self.pipeline = pipeline
        self.order = EpochOrder(pipeline.groups, size, seed)

    def draw(self, step: int, number: int, rng: np.random.Generator) -> TrainingClip:
        """See `ClipSource`."""
        return self.pipeline.draw(int(self.order(step)[number]), rng)
