"""How well one track covers one object, frame by frame: the J of the DAVIS benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vistool.evaluation.overlaps import track_iou
from vistool.formats.rle import area
from vistool.structures import RLE


def region_similarity(track: Sequence[RLE | None], truth: Sequence[RLE | None]) -> np.ndarray:
    """Intersection over union on every frame: [T] in [0, 1]; 1 where both are empty.

    Raises: DataError if mask sizes differ, ValueError if the numbers of frames do.
    """
    return np.array(
        [
            1.0 if _empty(ours) and _empty(theirs) else track_iou([[ours]], [[theirs]]).item()
            for ours, theirs in zip(track, truth, strict=True)
        ]
    )


def _empty(mask: RLE | None) -> bool:
    return mask is None or area(mask) == 0
