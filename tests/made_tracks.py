"""Synthetic tracks of rectangles, and imperfect predictions of them, for tests of evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vistool.annotations.dataset import AnnotatedTrack
from vistool.formats.masks.rle import encode_masks
from vistool.metrics.ap import VideoAP, average_precision
from vistool.metrics.davis import DavisResult, davis_of_video
from vistool.metrics.hota import HotaCounts, hota_of_video
from vistool.metrics.identity import IdentityCounts, identity_of_video
from vistool.metrics.overlaps import VideoOverlaps, overlaps_of_video, overlaps_of_videos
from vistool.metrics.tracking_measures import TrackingResult
from vistool.structures import RLE, TrackSegmentation

HEIGHT, WIDTH = 24, 32


@dataclass(frozen=True, eq=False)
class MadeTrack:
    """One track as pixel masks; it is absent on frames with an empty mask."""

    masks: np.ndarray  # [F, H, W] bool
    category_id: int = 1
    score: float = 1.0  # for predictions
    is_crowd: bool = False  # for labelled tracks

    def codes(self) -> list[RLE | None]:
        codes = encode_masks(self.masks)
        return [code if mask.any() else None for code, mask in zip(codes, self.masks, strict=True)]


@dataclass(frozen=True, eq=False)
class MadeVideo:
    truth: Sequence[MadeTrack]
    predictions: Sequence[MadeTrack]

    def overlaps(self, video_id: int = 1) -> VideoOverlaps:
        truth = [AnnotatedTrack(video_id, t.category_id, t.codes(), t.is_crowd) for t in self.truth]
        return overlaps_of_video(video_id, truth, self.results(video_id))

    def results(self, video_id: int = 1) -> list[TrackSegmentation]:
        return [
            TrackSegmentation(
                video_id=video_id,
                category_id=p.category_id,
                score=p.score,
                segmentations=p.codes(),
            )
            for p in self.predictions
        ]


def hota_of(videos: Iterable[VideoOverlaps]) -> TrackingResult[HotaCounts]:
    return TrackingResult(tuple((video.video_id, hota_of_video(video)) for video in videos))


def identity_of(videos: Iterable[VideoOverlaps]) -> TrackingResult[IdentityCounts]:
    return TrackingResult(tuple((video.video_id, identity_of_video(video)) for video in videos))


def davis_of(videos: Iterable[VideoOverlaps]) -> DavisResult:
    return DavisResult(tuple(followed for video in videos for followed in davis_of_video(video)))


def ap_of(
    truth: Iterable[AnnotatedTrack],
    predictions: Iterable[TrackSegmentation],
    *,
    video_ids: Iterable[int],
    category_ids: Iterable[int],
) -> VideoAP:
    """AP of the tracks of these videos; tracks of other videos are left out."""
    videos: dict[int, tuple[list[AnnotatedTrack], list[TrackSegmentation]]]
    videos = {video_id: ([], []) for video_id in video_ids}
    for track in truth:
        if track.video_id in videos:
            videos[track.video_id][0].append(track)
    for prediction in predictions:
        videos[prediction["video_id"]][1].append(prediction)
    compared = overlaps_of_videos((video_id, *tracks) for video_id, tracks in videos.items())
    return average_precision(compared, category_ids=category_ids)


def rectangle(top: int, left: int, height: int, width: int) -> np.ndarray:
    """The mask of a rectangle, cut off at the picture's edges: [HEIGHT, WIDTH] bool."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)] = True
    return mask


def random_video(rng: np.random.Generator, categories: int = 3) -> MadeVideo:
    """Up to five objects; predictions miss frames, drift, swap identities or are false."""
    length = int(rng.integers(1, 13))
    truth = [_random_track(rng, length, categories) for _ in range(rng.integers(0, 6))]
    predictions = [_imperfect(rng, track, truth) for track in truth for _ in range(rng.integers(3))]
    predictions += [_random_track(rng, length, categories) for _ in range(rng.integers(0, 3))]
    return MadeVideo(truth, sorted(predictions, key=lambda p: -p.score))


def _random_track(rng: np.random.Generator, length: int, categories: int) -> MadeTrack:
    height, width = rng.integers(4, 14, 2)
    start, step = rng.integers([0, 0], [HEIGHT - 4, WIDTH - 4]), rng.integers(-2, 3, 2)
    places = start + step * np.arange(length)[:, None] + rng.integers(-1, 2, (length, 2))
    masks = np.stack([rectangle(top, left, height, width) for top, left in places])
    masks[rng.random(length) < 0.2] = False
    return MadeTrack(masks, int(rng.integers(1, categories + 1)), float(rng.random()))


def _imperfect(rng: np.random.Generator, track: MadeTrack, truth: Sequence[MadeTrack]) -> MadeTrack:
    length = len(track.masks)
    masks = np.stack([np.roll(mask, rng.integers(-2, 3, 2), (0, 1)) for mask in track.masks])
    if rng.random() < 0.4:  # continues on another object
        other = truth[int(rng.integers(len(truth)))]
        since = rng.integers(length)
        masks[since:] = other.masks[since:]
    masks[rng.random(length) < 0.2] = False
    return MadeTrack(masks, track.category_id, float(rng.random()))
