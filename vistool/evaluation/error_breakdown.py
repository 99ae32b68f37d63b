"""Why AP is not 1: every wrong prediction and every miss has one kind, and each kind its price."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ErrorKind(StrEnum):
    """What is wrong with a prediction; MISSED is for labelled tracks that nothing tried to find."""

    CLASS = "class"  # follows a track well, but calls it something else
    SPATIAL = "spatial extent"  # on the right track, with wrong outlines
    TEMPORAL = "temporal extent"  # begins or ends at the wrong time, or has gaps
    IDENTITY = "identity"  # a track split into several, or several merged into one
    DUPLICATE = "duplicate"  # a second find of one track
    BOTH = "class and extent"  # partly on a track, and calls it something else
    BACKGROUND = "background"  # on nothing that is labelled
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class MendedKind:
    """What AP would be if all errors of one kind were mended."""

    kind: ErrorKind
    count: int  # at IoU 0.5
    ap: float
    ap50: float
    ap_gain: float  # over the AP as it is
    ap50_gain: float


@dataclass(frozen=True, slots=True)
class ErrorBreakdown:
    """AP as it is, and with every kind of error mended; -1 where nothing is labelled."""

    ap: float
    ap50: float
    num_truth: int  # crowds left out
    num_right: int  # predictions that are right at IoU 0.5
    kinds: tuple[MendedKind, ...]  # one for every ErrorKind
