"""Overlaps of predicted and labelled tracks on every frame; all measures compare masks here.

Masks are compared as run-length codes. In shapes: F frames, P predicted tracks, G labelled tracks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vistool.annotations.dataset import AnnotatedTrack
from vistool.errors import DataError
from vistool.formats.masks.rle import validate_rle
from vistool.formats.masks.runs import Runs, decode_runs
from vistool.formats.threads import in_threads
from vistool.structures import RLE, Size, TrackSegmentation

MASKS_AT_ONCE = 4096  # decoded at a time; about 10 MB of runs
NOT_MEASURED = -1.0  # the value of a measure if nothing is labelled


@dataclass(frozen=True, slots=True, eq=False)
class VideoOverlaps:
    """Overlaps of all pairs of predicted and labelled tracks of one video, on every frame."""

    video_id: int
    truth: tuple[AnnotatedTrack, ...]  # G, all categories
    predictions: tuple[TrackSegmentation, ...]  # P, all categories, in the order of the file
    intersections: np.ndarray  # [F, P, G] int64, pixels
    predicted_areas: np.ndarray  # [F, P] int64, pixels; 0: absent in that frame
    truth_areas: np.ndarray  # [F, G] int64, pixels

    def iou(self) -> np.ndarray:
        """IoU of every pair over space and time: [P, G] in [0, 1], 0 where both are empty."""
        both = self.intersections.sum(axis=0)
        areas, truth_areas = self.predicted_areas.sum(axis=0), self.truth_areas.sum(axis=0)
        return ratio(both, areas[:, None] + truth_areas[None] - both)


def overlaps_of_video(
    video_id: int, truth: Sequence[AnnotatedTrack], predictions: Sequence[TrackSegmentation]
) -> VideoOverlaps:
    """Compare all tracks of one video.

    Raises: DataError if numbers of frames or mask sizes differ, or a mask is malformed.
    """
    arrays = shared_pixels(
        [p["segmentations"] for p in predictions],
        [t.segmentations for t in truth],
        where=f"video {video_id}",
    )
    return VideoOverlaps(video_id, tuple(truth), tuple(predictions), *arrays)


def overlaps_of_videos(
    videos: Iterable[tuple[int, Sequence[AnnotatedTrack], Sequence[TrackSegmentation]]],
) -> Iterator[VideoOverlaps]:
    """`overlaps_of_video` for every (video id, truth, predictions), in the given order.

    Uses all cores, with threads: the compiled loops release the lock of the interpreter. A few
    videos per core are kept in memory.
    """
    return in_threads(lambda video: overlaps_of_video(*video), videos)


def shared_pixels(
    predicted: Sequence[Sequence[RLE | None]],
    labelled: Sequence[Sequence[RLE | None]],
    *,
    where: str = "a video",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels on every frame: intersections [F, P, G], predicted [F, P] and labelled [F, G] areas.

    Raises: DataError if numbers of frames or mask sizes differ, or a mask is malformed.
    """
    lengths = {len(track) for track in (*predicted, *labelled)}
    if len(lengths) > 1:
        raise DataError(
            f"{where}: tracks have {' and '.join(map(str, sorted(lengths)))} frames",
            hint="every track needs one entry per frame, null where it is not visible",
        )
    length = max(lengths, default=0)
    intersections = np.zeros((length, len(predicted), len(labelled)), np.int64)
    areas = np.zeros((length, len(predicted)), np.int64)
    labelled_areas = np.zeros((length, len(labelled)), np.int64)
    step = max(1, MASKS_AT_ONCE // max(1, len(predicted) + len(labelled)))
    for first in range(0, length, step):
        part = slice(first, first + step)
        runs, places = decode_tracks([*predicted, *labelled], where, part)
        ours, theirs = places[:, : len(predicted)], places[:, len(predicted) :]
        intersections[part] = runs.intersections(ours, theirs)
        areas[part] = np.append(runs.areas, 0)[ours]  # -1 (no mask) is the last entry
        labelled_areas[part] = np.append(runs.areas, 0)[theirs]
    return intersections, areas, labelled_areas


def decode_tracks(
    tracks: Sequence[Sequence[RLE | None]], where: str, part: slice = slice(None)
) -> tuple[Runs, np.ndarray]:
    """Decode the masks of N tracks on some frames.

    Returns: the runs of all masks, and the index of each mask in them, [F, N], or -1.
    Raises: DataError if sizes differ or a mask is malformed.
    """
    entries = [mask for track in tracks for mask in track[part]]
    masks = list(filter(None, entries))
    _check_sizes(masks, where)
    runs = decode_runs(masks)
    if not runs.sound.all():
        _refuse_malformed(tracks, where)
    visible = np.fromiter(map(bool, entries), bool, len(entries))
    numbers = np.where(visible, np.cumsum(visible) - 1, -1)
    return runs, np.ascontiguousarray(numbers.reshape(len(tracks), -1).T)


def _check_sizes(masks: Sequence[RLE], where: str) -> None:
    sizes = [mask["size"] for mask in masks]
    if sizes and sizes.count(sizes[0]) < len(sizes):
        (a, b), (c, d) = sorted({tuple(size) for size in sizes})[:2]
        raise DataError(
            f"{where}: masks of sizes {a}x{b} and {c}x{d}", hint="sizes are [height, width]"
        )


def _refuse_malformed(tracks: Sequence[Sequence[RLE | None]], where: str) -> None:
    for track in tracks:
        for frame, mask in enumerate(track):
            if mask is not None:
                validate_rle(mask, Size(*mask["size"]), f"{where}, frame {frame}")


def track_share_inside(
    predicted: Sequence[Sequence[RLE | None]], regions: Sequence[Sequence[RLE | None]]
) -> np.ndarray:
    """The share of every track inside every region, over space and time: [P, G] in [0, 1].

    It is 0 for a track that is empty on all frames.

    Raises: DataError if lengths or mask sizes differ.
    """
    both, areas, _ = (pixels.sum(axis=0) for pixels in shared_pixels(predicted, regions))
    return ratio(both, np.broadcast_to(areas[:, None], both.shape))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole as float64 of the same shape, 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
