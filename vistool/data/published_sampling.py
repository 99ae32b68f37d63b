"""Which frames of a video the papers' trainings put into a clip."""

from __future__ import annotations

import numpy as np

Frames = tuple[int, ...]


def vistr_frames(last: int, length: int, clip_length: int) -> Frames:
    """VisTR's: the frames up to `last`, once around the video as often as it takes.

    An epoch has one clip for every frame of every video.

    >>> vistr_frames(0, 3, 5)
    (2, 0, 1, 2, 0)
    """
    return tuple((last - back) % length for back in reversed(range(clip_length)))


def ifc_frames(
    length: int, clip_length: int, rng: np.random.Generator, max_distance: int = 20
) -> Frames:
    """IFC's: one frame of the video, and others around it, drawn with replacement; sorted.

    The first is drawn once, so a video of one frame makes no longer clip; the published code fails
    there.

    Raises: ValueError for such a video.
    """
    if length == 1 and clip_length > 1:
        raise ValueError(f"a video of one frame makes no clip of {clip_length}")
    reference = int(rng.integers(length))
    low, high = max(0, reference - max_distance), min(length - 1, reference + max_distance)
    around = np.delete(np.arange(low, high + 1), reference - low)
    others = rng.choice(around, clip_length - 1) if clip_length > 1 else around[:0]
    return tuple(sorted([reference, *others.tolist()]))
