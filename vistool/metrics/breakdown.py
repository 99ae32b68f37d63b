"""AP by occlusion, by length and by speed of motion of the tracks.

The rules are those of the official AP by area; see `Grouping`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vistool.errors import DataError
from vistool.formats.masks.runs import decode_runs
from vistool.metrics.ap import APBuilder, Grouping
from vistool.metrics.overlaps import VideoOverlaps, ratio
from vistool.structures import RLE

# OVIS labels the occlusion of an instance on every frame. A track's occlusion is the mean over its
# labelled frames, from 0 to 0.75.
OCCLUSION_LEVELS = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}
OCCLUSIONS = {"light": (0.0, 0.25), "medium": (0.25, 0.5), "heavy": (0.5, 0.75)}

LENGTHS = {"short": (1.0, 10.0), "medium": (11.0, 20.0), "long": (21.0, np.inf)}  # visible frames

# The mean IoU of a track's boxes on neighbouring frames where it is visible on both; the limits
# are the usual ones for ImageNet VID. It is lower for objects that move far relative to their size
# or change their shape.
SPEEDS = {"slow": (0.9, 1.0), "medium": (0.7, 0.9), "fast": (0.0, 0.7)}


# Property of tracks ("occlusion", "length", "speed") -> group -> its numbers, as in
# `VideoAP.by_group`. Occlusion is left out if it is not labelled.
Breakdown = Mapping[str, Mapping[str, Mapping[str, float]]]


class BreakdownBuilder:
    """Computes a breakdown from videos that are added one by one."""

    def __init__(self, category_ids: Iterable[int]) -> None:
        """Args: category_ids: all categories of the set; tracks of others are left out."""
        categories = tuple(category_ids)
        self._builders = {kind: APBuilder(categories, by) for kind, by in _GROUPINGS.items()}

    def add(self, video: VideoOverlaps) -> None:
        """Match the tracks of one video; its masks are decoded again.

        Raises: DataError if its occlusion labels are not those of OVIS.
        """
        for builder in self._builders.values():
            builder.add(video)

    def result(self) -> Breakdown:
        """AP by group over all videos so far."""
        tables = {kind: builder.result().by_group() for kind, builder in self._builders.items()}
        if not any(row["truth"] for row in tables["occlusion"].values()):
            del tables["occlusion"]
        return tables


def occlusion_of(levels: Sequence[str | None] | None) -> float:
    """The mean occlusion over the labelled frames, in [0, 0.75]; NaN without labels.

    Raises: DataError if a level is not one of OVIS.
    """
    stated = [level for level in levels or () if level is not None]
    unknown = sorted(set(stated) - OCCLUSION_LEVELS.keys())
    if unknown:
        raise DataError(
            f"unknown occlusion {unknown[0]!r}",
            hint=f"one of {', '.join(OCCLUSION_LEVELS)}, or null",
        )
    return float(np.mean([OCCLUSION_LEVELS[level] for level in stated])) if stated else np.nan


def box_overlap(tracks: Sequence[Sequence[RLE | None]]) -> np.ndarray:
    """The mean IoU of each track's boxes on neighbouring frames where it is visible: [N].

    NaN for a track that is never visible on two frames in a row.
    """
    masks = [mask for track in tracks for mask in track if mask is not None]
    if not masks:
        return np.full(len(tracks), np.nan)
    boxes = np.zeros((len(tracks), len(tracks[0]), 4))
    boxes[[[mask is not None for mask in track] for track in tracks]] = decode_runs(masks).boxes(
        height=masks[0]["size"][0]
    )
    areas = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)  # [N, F]
    begin = np.maximum(boxes[:, :-1, :2], boxes[:, 1:, :2])
    end = np.minimum(boxes[:, :-1, 2:], boxes[:, 1:, 2:])
    both = np.prod(np.maximum(end - begin, 0), axis=-1)
    overlap = ratio(both, areas[:, :-1] + areas[:, 1:] - both)
    visible = (areas[:, :-1] > 0) & (areas[:, 1:] > 0)
    steps = visible.sum(axis=1)
    means = (overlap * visible).sum(axis=1) / np.maximum(steps, 1)
    return np.where(steps > 0, means, np.nan)


def _occlusions(video: VideoOverlaps) -> tuple[np.ndarray, None]:
    try:
        return np.array([occlusion_of(track.occlusion) for track in video.truth], float), None
    except DataError as error:
        raise DataError(f"video {video.video_id}: {error}", hint=error.hint) from None


def _lengths(video: VideoOverlaps) -> tuple[np.ndarray, np.ndarray]:
    return (video.truth_areas > 0).sum(axis=0), (video.predicted_areas > 0).sum(axis=0)


def _box_overlaps(video: VideoOverlaps) -> tuple[np.ndarray, np.ndarray]:
    return (
        box_overlap([track.segmentations for track in video.truth]),
        box_overlap([track["segmentations"] for track in video.predictions]),
    )


_GROUPINGS = {
    "occlusion": Grouping(OCCLUSIONS, _occlusions),
    "length": Grouping(LENGTHS, _lengths),
    "speed": Grouping(SPEEDS, _box_overlaps),
}
