"""Contact sheets of training clips, for `vistool visualize`."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from torch import Tensor

from vistool.config import PixelConfig, TrainConfig
from vistool.engine.draw.sheets import STYLE, Sheet, listed
from vistool.engine.train.setup import training_batches
from vistool.rendering.contact_sheet import SheetRow
from vistool.rendering.overlay import draw_tracks
from vistool.structures import ClipTarget, Track


def training_sheet(config: TrainConfig, count: int) -> Sheet:
    """A contact sheet of the first training clips, exactly as the model gets them.

    Raises: DataError for unusable annotations or pictures.
    """
    pixels = config.model_config().pixels
    batches = training_batches(config, pixels)
    names = list(config.classes)
    rows: list[SheetRow] = []
    for step in itertools.count():
        clips = range(min(config.batch, count - len(rows)))
        if not clips:
            break
        batch = batches.make(step, clips)
        pictures = _pictures(batch.pixels, pixels)
        for clip, target in enumerate(batch.targets):
            complete = [name for name, every in zip(names, target.exhaustive, strict=True) if every]
            rows.append(
                SheetRow(
                    f"step {step}, clip {clip}: {_relative(batch.origins[clip], config.data)}",
                    f"labels are complete for {listed(complete, names)}",
                    _drawn_clip(pictures[clip], target, names),
                )
            )
    heading = f"training clips of {config.clip_length} frames, seed {config.seed}"
    return Sheet(heading, tuple(rows))


def _drawn_clip(pictures: np.ndarray, target: ClipTarget, names: list[str]) -> list[np.ndarray]:
    """pictures: [T, H, W, 3] uint8."""
    labels = enumerate(target.labels.tolist(), start=1)
    tracks = [Track(n, label, names[label], 1.0) for n, label in labels]
    by_frame = target.masks.numpy().swapaxes(0, 1)
    return [
        draw_tracks(picture, tracks, masks, STYLE)
        for picture, masks in zip(pictures, by_frame, strict=True)
    ]


def _pictures(normal: Tensor, pixels: PixelConfig) -> np.ndarray:
    """Normalised pixels [B, T, 3, H, W] as pictures [B, T, H, W, 3] uint8 RGB."""
    values = normal.numpy().transpose(0, 1, 3, 4, 2) * pixels.std + pixels.mean
    ordered = values if pixels.channel_order == "RGB" else values[..., ::-1]
    return np.rint(ordered).clip(0, 255).astype(np.uint8)


def _relative(file: str, folder: str) -> str:
    path = Path(file)
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path.name)
