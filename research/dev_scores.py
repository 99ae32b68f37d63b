"""Scores of a model's predictions on the development data, for `measure` and `dev_sheets`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from dev_data import Case

from vistool.annotations.dataset import AnnotatedTrack
from vistool.metrics.errors.kinds import HALF, KINDS, RIGHT, ErrorKind, JudgedVideo, judge
from vistool.metrics.overlaps import (
    VideoOverlaps,
    overlaps_of_videos,
)
from vistool.metrics.partial_labels import scorable
from vistool.structures import TrackSegmentation

CONFIDENCES = tuple(round(0.1 * n, 1) for n in range(1, 10))


def compared(cases: Sequence[Case]) -> list[VideoOverlaps]:
    """The overlaps of every case, with only those predictions that can be judged."""
    videos = []
    for number, case in enumerate(cases):
        truth = [AnnotatedTrack(number, t.label, t.segmentations) for t in case.video.tracks]
        truth += [
            AnnotatedTrack(number, region.label, region.segmentations, is_crowd=True)
            for region in case.video.regions
        ]
        complete = [label for label, known in enumerate(case.video.exhaustive) if known]
        counted = scorable(case.found, truth, exhaustive=complete, ignored=case.ignored)
        found = [TrackSegmentation(**{**track, "video_id": number}) for track in counted]
        videos.append((number, truth, found))
    return list(overlaps_of_videos(videos))


# --- one confidence -------------------------------------------------------------------------------


def confidence_sweep(videos: Sequence[VideoOverlaps], num_classes: int) -> list[dict[str, float]]:
    """Precision, recall and F1 at IoU 0.5, for the tracks above each score in CONFIDENCES."""
    judged = [judge(video, range(num_classes)) for video in videos]
    labelled = sum(len(video.truth) for video in videos)
    rows = []
    for conf in CONFIDENCES:
        right = sum(_count(video.kinds[HALF] == RIGHT, video, conf) for video in judged)
        wrong = sum(_count(video.kinds[HALF] >= 0, video, conf) for video in judged)
        values = {
            "precision": right / max(1, right + wrong),
            "recall": right / max(1, labelled),
            "F1": 2 * right / max(1, right + wrong + labelled),
        }
        rows.append(
            {
                "conf": conf,
                "predicted": right + wrong,
                **{k: round(v, 4) for k, v in values.items()},
            }
        )
    return rows


def _count(chosen: np.ndarray, video: JudgedVideo, conf: float) -> int:
    return int((chosen & (video.scores >= conf)).sum())


def errors(videos: Sequence[VideoOverlaps], num_classes: int, conf: float) -> dict[str, int]:
    """The numbers of correct predictions and of each kind of error, at IoU 0.5.

    Only predictions that score at least `conf` count. "missed" are labelled tracks to which no such
    prediction belongs.
    """
    judged = [judge(_at_least(video, conf), range(num_classes)) for video in videos]
    kinds = np.concatenate([np.zeros(0, int), *(video.kinds[HALF] for video in judged)])
    counts = {str(kind): int((kinds == place).sum()) for place, kind in enumerate(KINDS)}
    counts[str(ErrorKind.MISSED)] = sum(int(video.missed()[HALF].sum()) for video in judged)
    return {
        "labelled": sum(len(video.truth) for video in videos),
        "predicted": int((kinds >= RIGHT).sum()),
        "right": int((kinds == RIGHT).sum()),
        **counts,
    }


def _at_least(video: VideoOverlaps, conf: float) -> VideoOverlaps:
    kept = [i for i, track in enumerate(video.predictions) if track["score"] >= conf]
    return replace(
        video,
        predictions=tuple(video.predictions[i] for i in kept),
        intersections=video.intersections[:, kept],
        predicted_areas=video.predicted_areas[:, kept],
    )
