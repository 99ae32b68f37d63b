"""Report: the results of an evaluation as a table, files for machines, figures, and one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vistool.evaluation.curves import PrecisionRecallCurves
from vistool.evaluation.diagnosis import Diagnosis
from vistool.evaluation.video_ap import TruthTrack
from vistool.formats.results import Category
from vistool.structures import TrackSegmentation

# A table of numbers: row -> column -> value; -1 where there is nothing to measure.
Scores = Mapping[str, Mapping[str, float]]

# The tracks of a video, in the order in which the overlaps were computed.
TracksOfVideo = Callable[[int], tuple[Sequence[TruthTrack], Sequence[TrackSegmentation]]]
# Video and frame -> [H, W, 3] uint8 RGB of the video's size, or None where there is no picture.
PictureOf = Callable[[int, int], np.ndarray | None]


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What the report says of a video besides its errors."""

    name: str
    files: tuple[str, ...] = ()  # its pictures, as the data set names them; empty: not known
    scores: Mapping[str, float] = field(default_factory=dict)  # HOTA of this video, for example


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """All results of one evaluation, as plain values; nothing in it is computed again."""

    title: str
    facts: Mapping[str, str]  # what was scored: data set, model, numbers of videos and tracks...
    scores: Scores  # "ytvis", "hota", "davis" with their numbers, as `eval --json` prints them
    tables: Mapping[str, Scores]  # title -> table: by category, by occlusion, by length...
    categories: tuple[Category, ...]
    videos: Mapping[int, VideoFacts]  # by video id
    curves: PrecisionRecallCurves
    diagnosis: Diagnosis


def write_report(
    path: Path,
    report: EvaluationReport,
    *,
    tracks: TracksOfVideo,
    picture: PictureOf | None = None,
) -> Path:
    """Write one self-contained HTML page; film strips of the worst tracks included.

    Args:
        tracks: masks for the film strips, read for the worst videos alone.
        picture: frames to draw them on; without, masks alone are shown.
    """
    raise NotImplementedError
