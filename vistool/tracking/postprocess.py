"""What is kept of a model's output for a clip, and what is reported of the tracks in the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vistool.ops.masks import resize_masks
from vistool.structures import ClipOutput, ClipPrediction, FrameTracks, Size

PIXELS_AT_ONCE = 2**23  # of all masks that are brought to full size together: 32 MiB of floats


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

    The mean logits are enlarged bilinearly, without antialiasing, and cut at 0 (IFC).
    """
    # What is enlarged lies between the values it is made of, so without a positive one it is empty.
    inside = (tracks.mask_logits > 0).flatten(1).any(1).nonzero().flatten().tolist()
    together = max(1, PIXELS_AT_ONCE // (size.height * size.width))
    for first in range(0, len(inside), together):
        places = inside[first : first + together]
        masks = (resize_masks(tracks.mask_logits[places], size) > 0).cpu().numpy()
        for place, mask in zip(places, masks, strict=True):
            if mask.any():
                yield tracks.track_ids[place], mask
