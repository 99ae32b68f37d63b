"""The errors that lower AP, by kind, video and track, found in one pass over the videos."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vistool.config import PredictConfig
from vistool.metrics.errors.calibration import Calibration, calibration
from vistool.metrics.errors.confusion import MIN_IOU, ConfusionMatrix, confusions
from vistool.metrics.errors.kinds import (
    HALF,
    IGNORED,
    KINDS,
    MEANT,
    RIGHT,
    ErrorKind,
    JudgedVideo,
    judge,
)
from vistool.metrics.errors.oracle import ErrorBreakdown, OracleEvaluator, break_down
from vistool.metrics.overlaps import VideoOverlaps

MIN_SCORE = PredictConfig().conf  # by default, `predict` reports tracks from this score on
MOST_FALSE_POSITIVES = 1000  # listed one by one


@dataclass(frozen=True, slots=True)
class VideoErrors:
    """The errors in one video, and the AP of the set that is lost through them."""

    video_id: int
    num_truth: int  # crowds left out
    num_found: int  # labelled tracks matched at IoU 0.5
    num_false: int  # wrong predictions that score at least `Diagnosis.min_score`
    ap_lost: float  # AP of the set with all errors in this video corrected, minus AP
    ap50_lost: float
    kinds: dict[str, int]  # errors at IoU 0.5, by ErrorKind


@dataclass(frozen=True, slots=True)
class TruthVerdict:
    """A labelled track, and the prediction that overlaps it most.

    The prediction is of the track's category, or of any category if none of those overlaps it.
    """

    video_id: int
    truth: int  # position in VideoOverlaps.truth
    category_id: int
    num_frames: int  # on which it is visible
    kind: ErrorKind | None  # why it is not matched at IoU 0.5; None: it is matched
    prediction: int | None  # position in VideoOverlaps.predictions; None: nothing overlaps it
    iou: float  # with that prediction
    score: float  # of that prediction; 0 if there is none


@dataclass(frozen=True, slots=True)
class FalsePositive:
    """A prediction that is wrong at IoU 0.5."""

    video_id: int
    prediction: int  # position in VideoOverlaps.predictions
    category_id: int
    score: float
    kind: ErrorKind
    truth: int | None  # position in VideoOverlaps.truth of its target track; None: without target
    iou: float  # with that track


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The errors that lower AP; the worst come first in every list."""

    min_score: float  # the lowest score of predictions in the confusion matrix and `num_false`
    breakdown: ErrorBreakdown
    confusion: ConfusionMatrix
    calibration: Calibration  # of all predictions that are right or wrong at IoU 0.5
    videos: tuple[VideoErrors, ...]  # all videos, by AP lost
    tracks: tuple[TruthVerdict, ...]  # all labelled tracks, by rising IoU, then falling length
    false_positives: tuple[FalsePositive, ...]  # by score, at most MOST_FALSE_POSITIVES


class DiagnosisBuilder:
    """Computes a diagnosis from videos that are added one by one; their masks are not kept.

    Args:
        category_ids: all categories of the set.
        min_score: the lowest score of predictions in the confusion matrix and `num_false`.
    """

    def __init__(self, category_ids: Iterable[int], *, min_score: float = MIN_SCORE) -> None:
        self._category_ids = tuple(sorted(set(category_ids)))
        self._min_score = min_score
        self._videos: list[JudgedVideo] = []
        self._tracks: list[TruthVerdict] = []
        self._confusion = np.zeros((len(self._category_ids) + 1,) * 2, np.int64)

    def add(self, video: VideoOverlaps) -> None:
        """Judge one video."""
        judged = judge(video, self._category_ids)
        self._videos.append(judged)
        self._tracks += _verdicts(judged, video)
        self._confusion += confusions(video, self._category_ids, min_score=self._min_score)

    def diagnosis(self) -> Diagnosis:
        """The diagnosis of all videos so far."""
        scores = [v.scores[v.kinds[HALF] != IGNORED] for v in self._videos]
        right = [(v.kinds[HALF] == RIGHT)[v.kinds[HALF] != IGNORED] for v in self._videos]
        evaluator = OracleEvaluator(self._videos, self._category_ids)
        errors = [self._errors(place, evaluator) for place in range(len(self._videos))]
        false = [wrong for video in self._videos for wrong in _false_positives(video)]
        return Diagnosis(
            min_score=self._min_score,
            breakdown=break_down(evaluator, self._videos),
            confusion=ConfusionMatrix(
                self._category_ids,
                tuple(tuple(row) for row in self._confusion.tolist()),
                self._min_score,
                MIN_IOU,
            ),
            calibration=calibration(np.concatenate([[], *scores]), np.concatenate([[], *right])),
            videos=tuple(sorted(errors, key=lambda video: -video.ap_lost)),
            tracks=tuple(sorted(self._tracks, key=lambda t: (t.iou, -t.num_frames))),
            false_positives=tuple(sorted(false, key=lambda f: -f.score)[:MOST_FALSE_POSITIVES]),
        )

    def _errors(self, place: int, evaluator: OracleEvaluator) -> VideoErrors:
        video = self._videos[place]
        ap_lost, ap50_lost = evaluator.lost_in(place)
        wrong = video.kinds[HALF] >= 0
        return VideoErrors(
            video_id=video.video_id,
            num_truth=int((~video.crowd).sum()),
            num_found=int(video.found()[HALF].sum()),
            num_false=int((wrong & (video.scores >= self._min_score)).sum()),
            ap_lost=ap_lost,
            ap50_lost=ap50_lost,
            kinds={str(kind): count for kind, count in video.counts().items()},
        )


def _verdicts(judged: JudgedVideo, video: VideoOverlaps) -> Iterable[TruthVerdict]:
    found = judged.found()[HALF]
    for g in np.flatnonzero(~judged.crowd):
        overlaps = judged.iou[:, g]
        own = np.where(judged.categories == judged.truth_categories[g], overlaps, 0)
        chosen = own if own.any() else overlaps
        best = int(np.argmax(chosen)) if chosen.any() else None
        yield TruthVerdict(
            video_id=judged.video_id,
            truth=int(g),
            category_id=int(judged.truth_categories[g]),
            num_frames=int((video.truth_areas[:, g] > 0).sum()),
            kind=None if found[g] else _why_not_found(judged, int(g)),
            prediction=best,
            iou=float(overlaps[best]) if best is not None else 0.0,
            score=float(judged.scores[best]) if best is not None else 0.0,
        )


def _why_not_found(judged: JudgedVideo, track: int) -> ErrorKind:
    """The kind of the highest-scoring prediction whose target is the track, at IoU 0.5."""
    meant = judged.of_kind(MEANT)[HALF] & (judged.targets[HALF] == track)
    if not meant.any():
        return ErrorKind.MISSED
    return KINDS[judged.kinds[HALF, np.argmax(np.where(meant, judged.scores, -np.inf))]]


def _false_positives(video: JudgedVideo) -> Iterable[FalsePositive]:
    for p in np.flatnonzero(video.kinds[HALF] >= 0):
        target = int(video.targets[HALF, p])
        yield FalsePositive(
            video_id=video.video_id,
            prediction=int(p),
            category_id=int(video.categories[p]),
            score=float(video.scores[p]),
            kind=KINDS[video.kinds[HALF, p]],
            truth=target if target >= 0 else None,
            iou=float(video.iou[p, target]) if target >= 0 else 0.0,
        )
