"""Endless training batches, each a function of the seed and its number alone."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vistool.config import PixelConfig
from vistool.data.clips import ClipMaker, TrainingClip
from vistool.ops.pixels import normalise
from vistool.structures import ClipTarget, Size

Batch = tuple[Tensor, list[ClipTarget]]


class TrainingBatches(Dataset[Batch]):
    """Batch number i: pixels [B, T, 3, H, W] and B targets; all clips of a batch have one canvas.

    Since a batch depends on nothing but seed and number, a resumed run sees what an uninterrupted
    one would have seen, with any number of workers.
    """

    def __init__(
        self,
        maker: ClipMaker,
        pixels: PixelConfig,
        *,
        canvases: tuple[Size, ...],
        batch: int,
        steps: int,
        seed: int,
    ) -> None:
        self.maker = maker
        self.pixels = pixels
        self.canvases = canvases
        self.batch = batch
        self.steps = steps
        self.seed = seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        canvas = self.canvases[int(rng.integers(len(self.canvases)))]
        return collate([self.maker.draw(canvas, rng) for _ in range(self.batch)], self.pixels)


def collate(clips: list[TrainingClip], pixels: PixelConfig) -> Batch:
    """Stack clips of one size."""
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    batch, num_frames = frames.shape[:2]
    normal = normalise(frames.flatten(0, 1), pixels)
    targets = [
        ClipTarget(
            labels=torch.from_numpy(clip.labels),
            masks=torch.from_numpy(clip.masks),
            exhaustive=torch.from_numpy(clip.exhaustive),
        )
        for clip in clips
    ]
    return normal.unflatten(0, (batch, num_frames)), targets


def loader(batches: TrainingBatches, first: int, workers: int) -> Iterator[Batch]:
    """Batches `first`, `first + 1`..., made by `workers` processes (0: by this one)."""
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=range(first, len(batches)),
            num_workers=workers,
            worker_init_fn=_use_one_thread,
            prefetch_factor=4 if workers else None,
            # Its own, or starting to load would move torch's, and dropout with it.
            generator=torch.Generator(),
        )
    )


def _use_one_thread(worker: int) -> None:
    """The cores belong to the model; a worker that spawned threads would fight it for them."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
