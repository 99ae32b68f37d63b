"""Which predictions can be evaluated where not every object is labelled."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vistool.annotations.dataset import AnnotatedTrack
from vistool.metrics.overlaps import track_share_inside
from vistool.structures import RLE, TrackSegmentation

LIES_ON = 0.5  # a prediction lies on an object if at least this share of it is inside


def scorable(
    predictions: Sequence[TrackSegmentation],
    truth: Sequence[AnnotatedTrack],
    *,
    exhaustive: Collection[int],
    ignored: Sequence[Sequence[RLE | None]] = (),
) -> list[TrackSegmentation]:
    """The predictions of one video that can be judged as right or wrong.

    These are the predictions that lie on a labelled object of their own category, and other
    predictions of exhaustively labelled categories. Of the latter, those that lie on an object
    without a category or on a group (`is_crowd`) of their own category are left out.

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
