"""What is kept of a model's output for a clip, and what is reported of the tracks in the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vistool.structures import ClipOutput, ClipPrediction, FrameTracks, Size


@dataclass(frozen=True, slots=True)
class TrackClass:
    """One result: a track, one class, and how likely the track is of that class."""

    track_id: int
    label: int  # in [0, K)
    score: float  # mean class probability over the track's clips


def clip_prediction(output: ClipOutput, frame_ids: Sequence[int]) -> ClipPrediction:
    """The queries of one clip (B = 1) that are more likely some object than "no object" (IFC).

    No query is dropped for its score, for overlap or for number. Values are float32.
    """
    if len(output.class_logits) != 1:
        raise ValueError(f"one clip wanted, not a batch of {len(output.class_logits)}")
    probs = output.class_logits[0].float().softmax(-1)
    kept = probs.argmax(-1) < probs.shape[-1] - 1
    return ClipPrediction(
        frame_ids=tuple(frame_ids),
        class_probs=probs[kept, :-1],
        mask_logits=output.mask_logits[0, kept].float(),
    )


def results_single_class(
    class_probs: Tensor, track_ids: Sequence[int] | None = None
) -> list[TrackClass]:
    """Every track once, as its most likely class.

    Args: class_probs: [P, K], of the tracks `track_ids`, or row i of track i + 1.
    """
    ids = range(1, len(class_probs) + 1) if track_ids is None else track_ids
    scores, labels = class_probs.max(-1)
    return [TrackClass(*r) for r in zip(ids, labels.tolist(), scores.tolist(), strict=True)]


def results_multi_class(class_probs: Tensor, threshold: float = 0.01) -> list[TrackClass]:
    """Every track as every class above `threshold`, by track, then class (IFC's default mode).

    class_probs: [P, K], row i is track i + 1.
    """
    return [
        TrackClass(row + 1, label, float(class_probs[row, label]))
        for row, label in (class_probs > threshold).nonzero().tolist()
    ]


def masks_at(tracks: FrameTracks, size: Size) -> Iterator[tuple[int, np.ndarray]]:
    """The tracks' masks at a size, [H, W] bool, with their ids; empty ones are left out.

    The mean logits are enlarged bilinearly, corners not aligned, and cut at 0 (IFC).
    """
    logits = tracks.mask_logits.float().cpu().numpy()
    for track_id, cells in zip(tracks.track_ids, logits, strict=True):
        mask = _enlarged(cells, size)
        if mask.any():
            yield track_id, mask


def _enlarged(logits: np.ndarray, size: Size) -> np.ndarray:
    """[h, w] logits -> [H, W] bool.

    Only the rectangle that cells above 0 reach is computed, which for most objects is a small part
    of the frame. It is column-major, as run-length codes are.
    """
    mask = np.zeros(size, dtype=bool, order="F")
    inside = logits > 0
    if inside.any():
        by_row = _interpolation(logits.shape[0], size.height)
        by_column = _interpolation(logits.shape[1], size.width)
        rows = _reach(by_row, np.any(inside, axis=1))
        columns = _reach(by_column, np.any(inside, axis=0))
        enlarged = (by_column[columns] @ logits.T) @ by_row[rows].T
        mask[rows, columns] = (enlarged > 0).T
    return mask


@lru_cache(maxsize=8)
def _interpolation(cells: int, pixels: int) -> np.ndarray:
    """What every pixel of a line takes of every cell: [pixels, cells]."""
    weights = F.interpolate(torch.eye(cells)[None], size=pixels, mode="linear")[0]
    return np.ascontiguousarray(weights.T.numpy())


def _reach(weights: np.ndarray, cells: np.ndarray) -> slice:
    """The pixels of a line that take something of the given cells, [cells] bool.

    None, if the frame has fewer pixels than the model has cells and these fall between them.
    """
    pixels = np.flatnonzero(weights[:, cells].any(1))
    return slice(int(pixels[0]), int(pixels[-1]) + 1) if len(pixels) else slice(0)
