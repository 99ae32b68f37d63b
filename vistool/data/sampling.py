"""Which video and which of its frames make the next clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vistool.data.labelled import LabelledVideo
from vistool.errors import DataError

Frames = tuple[int, ...]


def refuse_unlabelled(videos: Sequence[LabelledVideo], source: str) -> None:
    """Raises: DataError if there is nothing to learn from, or to score by, in any frame."""
    if not videos:
        raise DataError(f"{source}: no videos and no pictures")
    if not any(mask for video in videos for track in video.tracks for mask in track.segmentations):
        raise DataError(
            f"{source}: {len(videos)} videos and pictures, and no mask of any class in them",
            hint="boxes alone are no masks; `vistool data check` tells what a set holds",
        )


class ClipSampler:
    """Draws videos of several sources by weight, rare classes more often.

    Within a source a video's chance grows with the rarity of its rarest class, as 1 / sqrt(count):
    between one chance a video and one chance a class.

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
        """One video; of those that show a class, if one is named, each as likely as the others."""
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
    """Sorted frames around a uniformly drawn one, the others within `max_distance` of it.

    Frames are drawn with replacement, as IFC does; a picture gives itself `clip_length` times.
    """
    reference = int(rng.integers(length))
    low, high = max(0, reference - max_distance), min(length - 1, reference + max_distance)
    others = rng.integers(low, high + 1, clip_length - 1)
    return tuple(sorted([reference, *others.tolist()]))
