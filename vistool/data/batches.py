"""Training batches: every clip a function of the seed, its step and its number alone."""

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
    padded: Tensor | None = None  # [B, T, H, W] bool, True on pixels added; None: nowhere
    origins: tuple[str, ...] = ()  # where every clip comes from, for messages


@dataclass(frozen=True, slots=True)
class Share:
    """What one of several processes makes of a step, which consists of `accumulate` batches."""

    rank: int = 0
    processes: int = 1
    accumulate: int = 1

    def clips(self, part: int, batch: int) -> range:
        """The numbers of this process's clips in batch number `part` of a step.

        >>> [Share(rank, processes=2, accumulate=2).clips(1, batch=4) for rank in (0, 1)]
        [range(4, 6), range(6, 8)]
        """
        each = batch // self.processes
        first = part * batch + self.rank * each
        return range(first, first + each)


class ClipSource(Protocol):
    """Where the clips of a training come from."""

    @abstractmethod
    def draw(self, step: int, number: int, rng: np.random.Generator) -> TrainingClip:
        """Clip `number` of a step; the same generator state gives the same clip."""


@dataclass(frozen=True, slots=True)
class CanvasClips:
    """Clips drawn at random, augmented as video; all clips of a step have one canvas."""

    maker: ClipMaker
    canvases: tuple[Size, ...]
    seed: int

    def draw(self, step: int, number: int, rng: np.random.Generator) -> TrainingClip:
        """See `ClipSource`."""
        of_step = np.random.default_rng((self.seed, step))
        return self.maker.draw(self.canvases[int(of_step.integers(len(self.canvases)))], rng)


class TrainingBatches(Dataset[Batch | VistoolError]):
    """The batches of a training, in order; a step takes `share.accumulate` of them.

    Since clip number n of a step depends on nothing but seed, step and n, a resumed run sees what
    an uninterrupted one would have seen, with any number of workers, and several processes see
    together what a single one would.

    Args: batch: clips, of all processes together, a multiple of their number.
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
        """The clips of these numbers."""
        drawn = [self.source.draw(step, n, self.generator(step, n)) for n in clips]
        return padded_batch(drawn, self.pixels)

    def generator(self, step: int, clip: int) -> np.random.Generator:
        """Where the randomness of a clip comes from."""
        return np.random.default_rng((self.seed, step, 1 + clip))  # a 0 would be as if left out

    def __len__(self) -> int:
        return self.steps * self.share.accumulate

    def __getitem__(self, index: int) -> Batch | VistoolError:
        step, part = divmod(index, self.share.accumulate)
        try:
            return self.make(step, self.share.clips(part, self.batch))
        except VistoolError as error:  # a worker could only hand on its traceback as a text
            return error


def padded_batch(clips: Sequence[TrainingClip], pixels: PixelConfig) -> Batch:
    """Clips of different sizes on one canvas: zeros below and to the right, after normalising."""
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
    """The same with masks of the canvas' size; boxes stay fractions of their own frame."""
    regions = None if target.regions is None else masks_on_canvas(target.regions, canvas)
    return replace(target, masks=masks_on_canvas(target.masks, canvas), regions=regions)


def loader(
    batches: TrainingBatches, first: int, workers: int, *, pin_memory: bool = False
) -> Iterator[Batch]:
    """The batches from step `first` on, made by `workers` processes (0: by this one).

    Args: pin_memory: for quicker copies to a GPU.
    Raises: VistoolError where a batch could not be made.
    """
    source = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first * batches.share.accumulate, len(batches)),
        num_workers=workers,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
        # Its own, or starting to load would move torch's, and dropout with it.
        generator=torch.Generator(),
    )
    try:
        for batch in source:
            if isinstance(batch, VistoolError):
                raise batch
            yield batch
    except (OSError, EOFError):
        time.sleep(1)  # if a worker's end has cut the connection, torch says so in here
        raise


def _start_worker(worker: int) -> None:
    """The cores belong to the model; a worker that spawned threads would fight it for them."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # The training decides what becomes of its workers; left alone, they end within seconds.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
