"""How model outputs become clip predictions, and how tracks get their classes and scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vistool.config import Scoring
from vistool.structures import (
    ClipOutput,
    ClipPrediction,
    FrameClipOutput,
    FrameHeads,
    FrameTracks,
    Size,
)
from vistool.tracking.pieces import without_foreign_pieces

ABSENT_BELOW = 0.001  # the most likely class's probability on a frame (VisTR)
# "mask-aware" scoring:
LIKELY = 0.1  # the most likely class's probability that makes a query an instance
SMALL, LARGE = 0.01, 0.1  # shares of the picture between which a mask's size affects its score
SIZE_EXPONENT = 0.2  # the smallest keep 0.63 of it: sure ones are shown by default


def clip_prediction(
    output: ClipOutput | FrameClipOutput,
    frame_ids: Sequence[int],
    clip: int = 0,
    scoring: Scoring = "published",
) -> ClipPrediction:
    """The instances in one clip of a batch; values are float32.

    "published" picks them as the code of the model's paper does, and no query is dropped for its
    score, for overlap or for number.

    Args: frame_ids: of the clip's frames; those with which VisTR filled up a short clip have none.
    """
    class_logits, mask_logits = output.class_logits[clip], output.mask_logits[clip]
    match output:
        case ClipOutput() if scoring == "mask-aware":
            prediction = _by_probability(class_logits, mask_logits, frame_ids)
        case ClipOutput():
            prediction = _by_query(class_logits, mask_logits, frame_ids)
        case FrameClipOutput():
            prediction = _by_vote(class_logits, mask_logits, frame_ids)
    return prediction if scoring == "published" else _mask_aware(prediction)


def _by_query(
    class_logits: Tensor, mask_logits: Tensor, frame_ids: Sequence[int]
) -> ClipPrediction:
    """The queries that are more likely some object than "no object" (IFC).

    class_logits: [Q, K + 1]; mask_logits: [Q, T, h, w].
    """
    probs = class_logits.float().softmax(-1)
    kept = probs.argmax(-1) < probs.shape[-1] - 1
    return ClipPrediction(
        frame_ids=tuple(frame_ids),
        class_probs=probs[kept, :-1],
        mask_logits=mask_logits[kept].float(),
    )


def _by_probability(
    class_logits: Tensor, mask_logits: Tensor, frame_ids: Sequence[int]
) -> ClipPrediction:
    """The queries with a mask that are somewhat likely an object, though "no object" be likelier.

    A track then lives on through clips in which it is hard to see. Shapes as in `_by_query`.
    """
    probs = class_logits.float().softmax(-1)[:, :-1]
    masks = mask_logits.float()
    kept = (probs.amax(-1) > LIKELY) & (masks > 0).flatten(1).any(1)
    return ClipPrediction(tuple(frame_ids), class_probs=probs[kept], mask_logits=masks[kept])


def likely(heads: FrameHeads, num_frames: int) -> Tensor:
    """The queries of VisTR that are drawn where masks have a say in scores: [B, Q] bool.

    As `_by_probability` has it for IFC; `_by_vote` then leaves out what is not drawn.

    Args: num_frames: of the clip itself; frames after these repeat it.
    """
    best = heads.class_logits[:, :, :num_frames].float().softmax(-1)[..., :-1].amax(-1)
    return best.mean(2) > LIKELY


def _mask_aware(clip: ClipPrediction) -> ClipPrediction:
    """Every instance with the mask that is its own, and a score in which the mask has a say.

    Class probabilities are multiplied by the mean probability inside the mask over the clip's
    frames, and by a factor that falls with its share of the frames it is on: what is small is found
    less reliably, and is less often what a picture is about.
    """
    masks = clip.mask_logits
    if clip.present is not None:  # what is drawn where an instance is not connects nothing
        masks = masks.where(clip.present[..., None, None], -masks.abs())
    masks = without_foreign_pieces(masks, clip.class_probs.amax(-1) * _certainty(masks))
    weight = _certainty(masks) * _size_factor(masks)
    return replace(clip, class_probs=clip.class_probs * weight[:, None], mask_logits=masks)


def _certainty(mask_logits: Tensor) -> Tensor:
    """The mean probability inside masks [N, T, h, w]: [N], 0 for empty ones."""
    masks = mask_logits.flatten(1)
    inside = masks > 0
    return (masks.sigmoid() * inside).sum(1) / inside.sum(1).clamp(min=1)


def _size_factor(mask_logits: Tensor) -> Tensor:
    """What the size of masks [N, T, h, w] leaves of their scores: [N]."""
    shares = (mask_logits > 0).flatten(2).float().mean(-1)
    share = shares.sum(1) / (shares > 0).sum(1).clamp(min=1)
    return (share.clamp(SMALL, LARGE) / LARGE) ** SIZE_EXPONENT


def _by_vote(class_logits: Tensor, mask_logits: Tensor, frame_ids: Sequence[int]) -> ClipPrediction:
    """Every query that draws anything, with the class that most frames vote for (VisTR).

    Its score is the mean over the frames of the best class's probability, whichever that is; on a
    frame where that is next to nothing the instance is absent.

    class_logits: [Q, T, K + 1]; mask_logits: [Q, T, h, w]; the first frames have ids, and the
    others, a repetition, do not count.
    """
    length = len(frame_ids)
    best, label = class_logits[:, :length].float().softmax(-1)[..., :-1].max(-1)
    votes = F.one_hot(label, class_logits.shape[-1] - 1).sum(1)
    class_probs = torch.zeros_like(votes, dtype=best.dtype)
    # Of classes with as many votes, argmax takes the first, as published.
    class_probs.scatter_(1, votes.argmax(1, keepdim=True), best.mean(1, keepdim=True))
    masks = mask_logits[:, :length].float()
    drawn = (masks > 0).flatten(1).any(1)
    return ClipPrediction(
        frame_ids=tuple(frame_ids),
        class_probs=class_probs[drawn],
        mask_logits=masks[drawn],
        present=best[drawn] >= ABSENT_BELOW,
    )


def results_single_class(
    class_probs: Tensor, track_ids: Sequence[int] | None = None
) -> list[tuple[int, int, float]]:
    """Every track once, as its most likely class.

    Args: class_probs: [P, K], of the tracks `track_ids`, or row i of track i + 1.
    Returns: track id, label in [0, K), and score: the mean probability over the track's clips.
    """
    ids = range(1, len(class_probs) + 1) if track_ids is None else track_ids
    scores, labels = class_probs.max(-1)
    return list(zip(ids, labels.tolist(), scores.tolist(), strict=True))


def results_multi_class(
    class_probs: Tensor, threshold: float = 0.01
) -> list[tuple[int, int, float]]:
    """Every track as every class above `threshold`, by track, then class (IFC's default mode).

    Args: class_probs: [P, K], row i is track i + 1.
    Returns: as `results_single_class`.
    """
    return [
        (row + 1, label, float(class_probs[row, label]))
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
