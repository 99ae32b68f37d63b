"""Common parts of the papers' pipelines: frames and crops of clips, and their interface."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple, Protocol

import numpy as np

from vistool.data.clips import TrainingClip
from vistool.data.sampling import Frames
from vistool.structures import Size


def vistr_frames(last: int, length: int, clip_length: int) -> Frames:
    """The frames of a VisTR clip: those up to `last`; before frame 0 comes the end of the video.

    An epoch has one clip for every frame of every video.

    >>> vistr_frames(0, 3, 5)
    (2, 0, 1, 2, 0)
    """
    return tuple((last - back) % length for back in reversed(range(clip_length)))


def ifc_frames(
    length: int, clip_length: int, rng: np.random.Generator, max_distance: int = 20
) -> Frames:
    """The frames of an IFC clip: a random frame, and others around it with replacement; sorted.

    The random frame is not repeated, so a video of one frame cannot give longer clips; the
    published code fails there, too.

    Raises: ValueError for such a video.
    """
    if length == 1 and clip_length > 1:
        raise ValueError(f"a video of one frame cannot give a clip of {clip_length} frames")
    reference = int(rng.integers(length))
    low, high = max(0, reference - max_distance), min(length - 1, reference + max_distance)
    around = np.delete(np.arange(low, high + 1), reference - low)
    others = rng.choice(around, clip_length - 1) if clip_length > 1 else around[:0]
    return tuple(sorted([reference, *others.tolist()]))


class Region(NamedTuple):
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    size: Size


def draw_region(picture: Size, sides: tuple[int, int], rng: np.random.Generator) -> Region:
    """A random crop; height and width are drawn independently from `sides`, ends included.

    They are at most those of the picture.
    """
    low, high = sides
    height, width = (
        int(rng.integers(min(side, low), min(side, high), endpoint=True)) for side in picture
    )
    top = int(rng.integers(picture.height - height, endpoint=True))
    left = int(rng.integers(picture.width - width, endpoint=True))
    return Region(top, left, Size(height, width))


class Pipeline(Protocol):
    """Makes the clips of one of the papers; an epoch has `len(groups)` clips."""

    groups: np.ndarray  # [number of clips] int: clips of a batch are of the same group

    @abstractmethod
    def draw(self, number: int, rng: np.random.Generator) -> TrainingClip:
        """Clip `number` of an epoch; the same generator state gives the same clip."""
