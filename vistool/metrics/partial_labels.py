"""What to hold against a model where not every object is labelled."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vistool.annotations.dataset import AnnotatedTrack
from vistool.metrics.overlaps import track_share_inside
from vistool.structures import RLE, TrackSegmentation

LIES_ON = 0.5  # share of a prediction from which it lies on an object


def scorable(
    predictions: Sequence[TrackSegmentation],
    truth: Sequence[AnnotatedTrack],
    *,
    exhaustive: Collection[int],
    ignored: Sequence[Sequence[RLE | None]] = (),
) -> list[TrackSegmentation]:
    """The predictions of one video that can be called right or wrong.

    One that lies on a labelled object of its own category always is. Of the others, those of a
    category that is labelled completely, unless they lie on an object that has no category, or on
    a region where nobody took objects of their category apart (`is_crowd`).

    Args:
        exhaustive: the categories of which every object in the video is labelled.
        ignored: objects without a category, or with several; tracks as in `AnnotatedTrack`.
    """
    masks = [p["segmentations"] for p in predictions]
    on_truth = track_share_inside(masks, [t.segmentations for t in truth]) >= LIES_ON
    on_ignored = track_share_inside(masks, ignored) >= LIES_ON
    chosen = []
    for prediction, on, others in zip(predictions, on_truth, on_ignored, strict=True):
        category = prediction["category_id"]
        own = [t for lies, t in zip(on, truth, strict=True) if lies and t.category_id == category]
        unclear = bool(own) or others.any() or category not in exhaustive
        if not unclear or any(not t.is_crowd for t in own):
            chosen.append(prediction)
    return chosen
