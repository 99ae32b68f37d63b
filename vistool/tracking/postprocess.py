"""What is kept of a model's output for a clip, and what is reported of the tracks in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vistool.structures import ClipOutput, ClipPrediction


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


def results_single_class(class_probs: Tensor) -> list[TrackClass]:
    """Every track once, as its most likely class. class_probs: [P, K], row i is track i + 1."""
    scores, labels = class_probs.max(-1)
    return [
        TrackClass(row + 1, label, score)
        for row, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True))
    ]


def results_multi_class(class_probs: Tensor, threshold: float = 0.01) -> list[TrackClass]:
    """Every track as every class above `threshold`, by track, then class (IFC's default mode).

    class_probs: [P, K], row i is track i + 1.
    """
    return [
        TrackClass(row + 1, label, float(class_probs[row, label]))
        for row, label in (class_probs > threshold).nonzero().tolist()
    ]
