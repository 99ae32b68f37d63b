"""Sampling of the video and the frames of a clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vistool.data.labelled import LabelledVideo
from vistool.errors import DataError

Frames = tuple[int, ...]


def refuse_unlabelled(videos: Sequence[LabelledVideo], source: str) -> None:
    """Raises: DataError if no frame has a labelled mask, so that training is impossible."""
    if not videos:
        raise DataError(f"{source}: no videos and no pictures")
    if not any(mask for video in videos for track in video.tracks for mask in track.segmentations):
        raise DataError(
            f"{source}: {len(videos)} videos and pictures, and no mask of any class in them",
            hint="boxes are not enough; `vistool data check` reports the contents of a set",
        )


class ClipSampler:
    """Draws videos of several sources by weight, videos with rare classes more often.

    Within a source, the probability of a video is proportional to 1 / sqrt(count), where count is
    the number of videos with its rarest class. This is between uniform sampling of videos and
    uniform sampling of classes.

    Args: sources: videos and the weight of each source.
    """

    def __init__(
        self, sources: Sequence[tuple[Sequence[LabelledVideo], float]], num_classes: int
    ) -> None:
        self.videos = [video for videos, _ in sources for video in videos]
        counts = np.zeros(num_classes)
        for video in self.videos:
            counts[[track.label for track in video.tracks]] += 1  # videos with the class
        self.videos_of_class = [
            [video for video in self.videos if any(track.label == label for track in video.tracks)]
            for label in range(num_classes)
        ]
        chances = []
        for videos, weight in sources:
            rarity = np.array([_rarity(video, counts) for video in videos])
            chances.append(weight * rarity / rarity.sum())
        self.cumulative = np.cumsum(np.concatenate(chances))
        self.cumulative /= self.cumulative[-1]

    def draw(self, rng: np.random.Generator, label: int | None = None) -> LabelledVideo:
        """Draw a video; with `label`, uniformly from the videos with this class."""
        if label is None:
            return self.videos[int(np.searchsorted(self.cumulative, rng.random(), side="right"))]
        videos = self.videos_of_class[label]
        return videos[int(rng.integers(len(videos)))]


def _rarity(video: LabelledVideo, counts: np.ndarray) -> float:
    labels = {track.label for track in video.tracks}
    rarest = min((counts[label] for label in labels), default=counts.max())
    return float(max(rarest, 1.0) ** -0.5)


def draw_frames(
    length: int, clip_length: int, max_distance: int, rng: np.random.Generator
) -> Frames:
    """Draw a uniformly random frame, and others within `max_distance` of it; sorted.

    The others are drawn with replacement, as in IFC. A picture is repeated `clip_length` times.
    """
    reference = int(rng.integers(length))
    low, high = max(0, reference - max_distance), min(length - 1, reference + max_distance)
    others = rng.integers(low, high + 1, clip_length - 1)
    return tuple(sorted([reference, *others.tolist()]))
