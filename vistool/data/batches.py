"""Training batches: every clip depends only on the seed, the step and its number."""

from __future__ import annotations

import signal
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vistool.config import PixelConfig
from vistool.data.clips import ClipMaker, TrainingClip, masks_on_canvas
from vistool.errors import VistoolError
from vistool.ops.pixels import normalise
from vistool.signals import STOP_SIGNALS
from vistool.structures import ClipTarget, Size


class Batch(NamedTuple):
    """B clips of T frames on one canvas."""

    pixels: Tensor  # [B, T, 3, H, W], normalised
    targets: list[ClipTarget]
    padded: Tensor | None = None  # [B, T, H, W] bool, True on padding; None: without padding
    origins: tuple[str, ...] = ()  # the file of every clip's first frame, for messages


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a step that one of several processes loads; a step is `accumulate` batches."""

    rank: int = 0
    processes: int = 1
    accumulate: int = 1

    def clips(self, part: int, batch: int) -> range:
        """The numbers of this process's clips in batch `part` of a step.

        Args: batch: number of clips in a batch, over all processes.

        >>> [Share(rank, processes=2, accumulate=2).clips(1, batch=4) for rank in (0, 1)]
        [range(4, 6), range(6, 8)]
        """
        each = batch // self.processes
        first = part * batch + self.rank * each
        return range(first, first + each)


class ClipSource(Protocol):
    """A source of training clips."""

    @abstractmethod
    def draw(self, step: int, number: int, rng: np.random.Generator) -> TrainingClip:
        """Draw clip `number` of a step; the same generator state gives the same clip."""


@dataclass(frozen=True, slots=True)
class CanvasClips:
    """Random clips, augmented as videos; all clips of a step have the same canvas size."""

    maker: ClipMaker
    canvases: tuple[Size, ...]
    seed: int

    def draw(self, step: int, number: int, rng: np.random.Generator) -> TrainingClip:
        """See `ClipSource`."""
        of_step = np.random.default_rng((self.seed, step))
        return self.maker.draw(self.canvases[int(of_step.integers(len(self.canvases)))], rng)


class TrainingBatches(Dataset[Batch | VistoolError]):
    """The batches of a training run, in order; a step takes `share.accumulate` of them.

    Clip n of a step depends only on seed, step and n. So a resumed run, with any number of workers,
    gets the same clips as an uninterrupted one, and several processes together get the same clips
    as a single one.

    Args: batch: number of clips over all processes, a multiple of the number of processes.
    """

    def __init__(
        self,
        source: ClipSource,
        pixels: PixelConfig,
        *,
        batch: int,
        steps: int,
        seed: int,
        share: Share | None = None,
    ) -> None:
        self.source = source
        self.pixels = pixels
        self.batch = batch
        self.steps = steps
        self.seed = seed
        self.share = share or Share()

    def make(self, step: int, clips: range) -> Batch:
        """The batch of the clips with these numbers in a step."""
        drawn = [self.source.draw(step, n, self.generator(step, n)) for n in clips]
        return padded_batch(drawn, self.pixels)

    def generator(self, step: int, clip: int) -> np.random.Generator:
        """The random generator of a clip."""
        return np.random.default_rng((self.seed, step, 1 + clip))  # a trailing 0 has no effect

    def __len__(self) -> int:
        return self.steps * self.share.accumulate

    def __getitem__(self, index: int) -> Batch | VistoolError:
        step, part = divmod(index, self.share.accumulate)
        try:
            return self.make(step, self.share.clips(part, self.batch))
        except VistoolError as error:  # if a worker raised it, only its traceback would arrive
            return error


def padded_batch(clips: Sequence[TrainingClip], pixels: PixelConfig) -> Batch:
    """A batch of clips of different sizes, padded below and to the right.

    Padding is zero after normalisation.
    """
    frames = [frame for clip in clips for frame in clip.frames]
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    # Channels last in memory, as `normalise` leaves them.
    canvas = torch.zeros(len(frames), height, width, 3).permute(0, 3, 1, 2)
    padded = torch.ones(len(frames), height, width, dtype=torch.bool)
    for n, frame in enumerate(frames):
        h, w = frame.shape[:2]
        canvas[n, :, :h, :w] = normalise(torch.from_numpy(frame)[None], pixels)[0]
        padded[n, :h, :w] = False
    return Batch(
        pixels=canvas.unflatten(0, (len(clips), -1)),
        targets=[_on_canvas(clip.target, Size(height, width)) for clip in clips],
        padded=padded.unflatten(0, (len(clips), -1)) if padded.any() else None,
        origins=tuple(clip.origin for clip in clips),
    )


def _on_canvas(target: ClipTarget, canvas: Size) -> ClipTarget:
    """The target with masks of the canvas size; boxes stay fractions of their own frame."""
    regions = None if target.regions is None else masks_on_canvas(target.regions, canvas)
    return replace(target, masks=masks_on_canvas(target.masks, canvas), regions=regions)


def loader(
    batches: TrainingBatches, first: int, workers: int, *, pin_memory: bool = False
) -> Iterator[Batch]:
    """The batches from step `first` on, made by `workers` processes (0: by this one).

    Args: pin_memory: for faster copies to a GPU.
    Raises: VistoolError if a batch cannot be made.
    """
    source = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first * batches.share.accumulate, len(batches)),
        num_workers=workers,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
        # The loader would otherwise advance torch's generator, and so change dropout.
        generator=torch.Generator(),
    )
    try:
        for batch in source:
            if isinstance(batch, VistoolError):
                raise batch
            yield batch
    except (OSError, EOFError):
        time.sleep(1)  # if a worker has died, torch reports it meanwhile
        raise


def _start_worker(worker: int) -> None:
    """Use one thread per worker, so that the model keeps the cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # The training process stops its workers. Without it, they end within seconds.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
