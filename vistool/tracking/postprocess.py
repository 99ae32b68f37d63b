"""From model outputs to clip predictions, and from tracks to reported results."""

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
from vistool.tracking.components import remove_misassigned_components

ABSENT_BELOW = 0.001  # the most likely class's probability on a frame (VisTR)
# "mask-aware" scoring:
LIKELY = 0.1  # a query is an instance if its most likely class is more probable than this
SMALL, LARGE = 0.01, 0.1  # shares of the picture between which a mask's size affects its score
SIZE_EXPONENT = 0.2  # the smallest masks keep 0.63 of their score, so confident ones are shown


def clip_prediction(
    output: ClipOutput | FrameClipOutput,
    frame_ids: Sequence[int],
    clip: int = 0,
    scoring: Scoring = "published",
) -> ClipPrediction:
    """The instances in one clip of a batch; values are float32.

    With "published" scoring, instances are selected as in the paper's code; none is dropped because
    of its score, its overlap with others, or the number of instances.

    Args: frame_ids: of the clip's frames; frames that only pad a short clip (VisTR) have no id.
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
    """The queries with a mask and a class above LIKELY, even if "no object" is more likely.

    A track then continues through clips in which it is hard to see. Shapes as in `_by_query`.
    """
    probs = class_logits.float().softmax(-1)[:, :-1]
    masks = mask_logits.float()
    kept = (probs.amax(-1) > LIKELY) & (masks > 0).flatten(1).any(1)
    return ClipPrediction(tuple(frame_ids), class_probs=probs[kept], mask_logits=masks[kept])


def likely(heads: FrameHeads, num_frames: int) -> Tensor:
    """The queries of VisTR whose masks are computed with "mask-aware" scoring: [B, Q] bool.

    The rule is that of `_by_probability` for IFC; `_by_vote` leaves out queries without a mask.

    Args: num_frames: of the clip without its padding; later frames repeat it.
    """
    best = heads.class_logits[:, :, :num_frames].float().softmax(-1)[..., :-1].amax(-1)
    return best.mean(2) > LIKELY


def _mask_aware(clip: ClipPrediction) -> ClipPrediction:
    """Apply "mask-aware" scoring: cleaned masks, and scores that depend on the masks.

    Class probabilities are multiplied by the mean mask probability inside the mask, and by a factor
    that decreases with the mask's share of the frame: small instances are detected less reliably,
    and are less often the subject of a picture.
    """
    masks = clip.mask_logits
    if clip.present is not None:  # masks on frames without the instance must not connect components
        masks = masks.where(clip.present[..., None, None], -masks.abs())
    masks = remove_misassigned_components(masks, clip.class_probs.amax(-1) * _certainty(masks))
    weight = _certainty(masks) * _size_factor(masks)
    return replace(clip, class_probs=clip.class_probs * weight[:, None], mask_logits=masks)


def _certainty(mask_logits: Tensor) -> Tensor:
    """The mean probability inside masks [N, T, h, w]: [N], 0 for empty masks."""
    masks = mask_logits.flatten(1)
    inside = masks > 0
    return (masks.sigmoid() * inside).sum(1) / inside.sum(1).clamp(min=1)


def _size_factor(mask_logits: Tensor) -> Tensor:
    """The factor in (0, 1] by which the size of masks [N, T, h, w] reduces their scores: [N]."""
    shares = (mask_logits > 0).flatten(2).float().mean(-1)
    share = shares.sum(1) / (shares > 0).sum(1).clamp(min=1)
    return (share.clamp(SMALL, LARGE) / LARGE) ** SIZE_EXPONENT


def _by_vote(class_logits: Tensor, mask_logits: Tensor, frame_ids: Sequence[int]) -> ClipPrediction:
    """Every query with a non-empty mask, with the class that most frames vote for (VisTR).

    Its score is the mean over the frames of the highest class probability, whichever class that
    is. The instance is absent from frames where that probability is below ABSENT_BELOW.

    class_logits: [Q, T, K + 1]; mask_logits: [Q, T, h, w]; only the first len(frame_ids) frames
    count, the others are padding.
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
    """One result for every track: its most likely class.

    Args: class_probs: [P, K], rows as in `track_ids`; without these, row i is track i + 1.
    Returns: track id, label in [0, K), and score: the mean probability over the track's clips.
    """
    ids = range(1, len(class_probs) + 1) if track_ids is None else track_ids
    scores, labels = class_probs.max(-1)
    return list(zip(ids, labels.tolist(), scores.tolist(), strict=True))


def results_multi_class(
    class_probs: Tensor, threshold: float = 0.01
) -> list[tuple[int, int, float]]:
    """One result for every track and class above `threshold`, ordered by track, then class.

    This is the default of IFC's code.

    Args: class_probs: [P, K], row i is track i + 1.
    Returns: as `results_single_class`.
    """
    return [
        (row + 1, label, float(class_probs[row, label]))
        for row, label in (class_probs > threshold).nonzero().tolist()
    ]


def masks_at(tracks: FrameTracks, size: Size) -> Iterator[tuple[int, np.ndarray]]:
    """The tracks' ids and masks, [H, W] bool, at the size of the frame; empty masks are left out.

    Mean logits are resized bilinearly (corners not aligned), then thresholded at 0 (IFC).
    """
    logits = tracks.mask_logits.float().cpu().numpy()
    for track_id, cells in zip(tracks.track_ids, logits, strict=True):
        mask = _enlarged(cells, size)
        if mask.any():
            yield track_id, mask


def _enlarged(logits: np.ndarray, size: Size) -> np.ndarray:
    """[h, w] logits -> [H, W] bool.

    Only the rectangle that cells above 0 influence is computed, for most objects a small part of
    the frame. The mask is column-major, like run-length codes.
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
    """The weight of every cell in every pixel of a line: [pixels, cells]."""
    weights = F.interpolate(torch.eye(cells)[None], size=pixels, mode="linear")[0]
    return np.ascontiguousarray(weights.T.numpy())


def _reach(weights: np.ndarray, cells: np.ndarray) -> slice:
    """The pixels of a line that depend on the given cells, [cells] bool.

    Empty if the frame has fewer pixels than the model has cells and no pixel depends on these.
    """
    pixels = np.flatnonzero(weights[:, cells].any(1))
    return slice(int(pixels[0]), int(pixels[-1]) + 1) if len(pixels) else slice(0)
