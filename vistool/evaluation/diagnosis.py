"""The reasons behind AP, in one pass over the videos: what went wrong, where, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from vistool.evaluation.calibration import Calibration
from vistool.evaluation.confusion import ConfusionMatrix
from vistool.evaluation.error_breakdown import ErrorBreakdown, ErrorKind


@dataclass(frozen=True, slots=True)
class VideoErrors:
    """One video: how much of the set's AP was lost in it, and on what."""

    video_id: int
    num_truth: int  # crowds left out
    num_found: int  # labelled tracks found at IoU 0.5
    num_false: int  # wrong predictions that score at least `min_score`
    ap_lost: float  # so much higher were AP if all errors in this video were mended
    ap50_lost: float
    kinds: dict[str, int]  # errors at IoU 0.5, by ErrorKind


@dataclass(frozen=True, slots=True)
class TruthVerdict:
    """A labelled track, and how well the best prediction of its category followed it."""

    video_id: int
    truth: int  # position in VideoOverlaps.truth
    category_id: int
    num_frames: int  # where it is visible
    kind: ErrorKind | None  # why it was not found at IoU 0.5; None: it was
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
    truth: int | None  # position in VideoOverlaps.truth of what it should have been, if anything
    iou: float  # with that track


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The reasons behind AP; the worst comes first in every list."""

    breakdown: ErrorBreakdown
    confusion: ConfusionMatrix
    calibration: Calibration
    videos: tuple[VideoErrors, ...]  # all of them, by AP lost
    worst_tracks: tuple[TruthVerdict, ...]  # by overlap, the long ones first
    worst_predictions: tuple[FalsePositive, ...]  # by score
