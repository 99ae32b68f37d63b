"""Kinds of errors: every wrong prediction and every missed track has one kind.

The kinds are those of TIDE (Bolya et al., ECCV 2020), extended to tracks. At every IoU threshold t
of AP, the official matching decides which predictions are right. A prediction *follows* a track on
a frame if their IoU there is 0.5 or more. It *touches* a track if their IoU over space and time is
0.1 or more, or if it follows the track on at least half of its own frames. A wrong prediction has
the first kind that applies:

1. duplicate: its IoU with a track of its category is t or more, but a higher-scoring prediction
   matches that track;
2. class: its IoU with a track of another category is t or more;
3. background: it touches no track;
4. both: it touches only tracks of other categories;
5. otherwise its target is the track of its category that it overlaps most, among those it touches:
   - identity: its IoU with the target is t or more after identities are corrected. On frames where
     it follows another track, its mask is replaced by the target's. On frames where it does not
     overlap the target, it is replaced by predictions of the same category that follow the target
     mostly on other frames;
   - temporal extent or spatial extent: the one whose correction gives the higher IoU. Temporal:
     frames with only one of the two are corrected. Spatial: frames with both are corrected, except
     those where it follows another track.

A labelled track is missed if it is not matched and not the target of a prediction of kind 2 or 5.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from vistool.metrics.ap import IOU_THRESHOLDS, match_tracks
from vistool.metrics.overlaps import VideoOverlaps, ratio

TOUCHES = 0.1  # IoU over space and time
FOLLOWS = 0.5  # IoU on a frame; also the share of frames from which a fragment touches its track
HALF = 0  # index of IoU 0.5 among the thresholds


class ErrorKind(StrEnum):
    """The kind of error of a prediction or, for MISSED, of a labelled track."""

    CLASS = "class"  # right track, wrong category
    SPATIAL = "spatial extent"  # right track, wrong outlines
    TEMPORAL = "temporal extent"  # begins or ends at the wrong time, or has gaps
    IDENTITY = "identity"  # a track split into several, or several merged into one
    DUPLICATE = "duplicate"  # a second prediction of one track
    BOTH = "class and extent"  # partly on a track, wrong category
    BACKGROUND = "background"  # on no labelled track
    MISSED = "missed"


KINDS = tuple(ErrorKind)
RIGHT, IGNORED = -1, -2  # other values of `JudgedVideo.kinds`; IGNORED: neither right nor wrong
# Kinds with a target track, with which the prediction matches after correction.
MEANT = frozenset({ErrorKind.CLASS, ErrorKind.SPATIAL, ErrorKind.TEMPORAL, ErrorKind.IDENTITY})


@dataclass(frozen=True, slots=True, eq=False)
class JudgedVideo:
    """Kinds of all P predictions of a video at every threshold, and its G labelled tracks."""

    video_id: int
    categories: np.ndarray  # [P]
    scores: np.ndarray  # [P]
    truth_categories: np.ndarray  # [G]
    crowd: np.ndarray  # [G] bool
    iou: np.ndarray  # [P, G] over space and time
    kinds: np.ndarray  # [10, P] int8: index in KINDS, or RIGHT, or IGNORED
    targets: np.ndarray  # [10, P] the labelled track that it matches or is meant for, or -1

    def of_kind(self, kinds: Collection[ErrorKind]) -> np.ndarray:
        """[10, P] bool: predictions with one of these kinds."""
        return np.isin(self.kinds, [KINDS.index(kind) for kind in kinds])

    def found(self) -> np.ndarray:
        """[10, G] bool: labelled tracks that a prediction matches."""
        return self._aimed_at(self.kinds == RIGHT)

    def missed(self) -> np.ndarray:
        """[10, G] bool: labelled tracks that no prediction matches or is meant for."""
        return ~self.found() & ~self._aimed_at(self.of_kind(MEANT)) & ~self.crowd

    def counts(self) -> dict[ErrorKind, int]:
        """The number of errors of each kind at IoU 0.5."""
        counts = {kind: int(self.of_kind({kind})[HALF].sum()) for kind in KINDS}
        return {**counts, ErrorKind.MISSED: int(self.missed()[HALF].sum())}

    def _aimed_at(self, predictions: np.ndarray) -> np.ndarray:
        aimed = np.zeros((len(self.targets), len(self.crowd)), bool)
        thresholds, places = np.nonzero(predictions)
        aimed[thresholds, self.targets[thresholds, places]] = True
        return aimed


def judge(video: VideoOverlaps, category_ids: Collection[int]) -> JudgedVideo:
    """Determine the kind of every prediction of a video, by the rules above.

    As for AP, only the 100 highest-scoring predictions of a category count.

    Args: category_ids: predictions of other categories are ignored.
    """
    categories = np.array([p["category_id"] for p in video.predictions], np.int64)
    scores = np.array([p["score"] for p in video.predictions], float)
    truth_categories = np.array([t.category_id for t in video.truth], np.int64)
    crowd = np.array([t.is_crowd for t in video.truth], bool)
    iou = video.iou()
    kinds = np.full((len(IOU_THRESHOLDS), len(scores)), IGNORED, np.int8)
    targets = np.full(kinds.shape, -1, np.int64)
    judged = JudgedVideo(
        video.video_id, categories, scores, truth_categories, crowd, iou, kinds, targets
    )
    wrong = _judge_matches(judged, video, category_ids)
    if wrong.any():
        _judge_errors(judged, wrong, video)
    return judged


def _judge_matches(
    judged: JudgedVideo, video: VideoOverlaps, category_ids: Collection[int]
) -> np.ndarray:
    """Write the right predictions into `judged`. Returns: the wrong ones, [10, P] bool."""
    order, (matches,) = match_tracks(video, judged.crowd[None])
    scored = np.isin(judged.categories[order], list(category_ids))
    wrong = np.zeros(judged.kinds.shape, bool)
    wrong[:, order] = (matches < 0) & scored
    for t, place in np.argwhere((matches >= 0) & scored):
        target = matches[t, place]
        if not judged.crowd[target]:
            judged.kinds[t, order[place]] = RIGHT
            judged.targets[t, order[place]] = target
    return wrong


def _judge_errors(judged: JudgedVideo, wrong: np.ndarray, video: VideoOverlaps) -> None:
    places = np.flatnonzero(wrong.any(axis=0))
    real = np.flatnonzero(~judged.crowd)
    extents = _Extents(video, judged.categories, judged.scores)
    for p in places:
        errors = _errors_of(int(p), judged, real, extents)
        for t in np.flatnonzero(wrong[:, p]):
            kind, target = errors.at(IOU_THRESHOLDS[t])
            judged.kinds[t, p], judged.targets[t, p] = KINDS.index(kind), target


@dataclass(frozen=True, slots=True)
class _Errors:
    """The kind of a prediction, depending on the threshold at which it is wrong."""

    own: tuple[float, int]  # the largest IoU with a track of its category, and that track or -1
    other: tuple[float, int]  # the same for other categories
    kind: ErrorKind  # at thresholds above `own`, `other` and `identity`
    target: int  # of that kind, or -1
    identity: float  # IoU with the target after identities are corrected

    def at(self, threshold: float) -> tuple[ErrorKind, int]:
        """The kind and the target, or -1."""
        threshold = min(threshold, 1 - 1e-10)  # as the matching does
        if self.own[0] >= threshold:
            return ErrorKind.DUPLICATE, self.own[1]
        if self.other[0] >= threshold:
            return ErrorKind.CLASS, self.other[1]
        if self.identity >= threshold:
            return ErrorKind.IDENTITY, self.target
        return self.kind, self.target


def _errors_of(p: int, judged: JudgedVideo, real: np.ndarray, extents: _Extents) -> _Errors:
    same = judged.truth_categories[real] == judged.categories[p]
    own, other = _best(judged.iou[p], real[same]), _best(judged.iou[p], real[~same])
    touched = real[(judged.iou[p, real] >= TOUCHES) | extents.is_fragment(p, real)]
    candidates = touched[judged.truth_categories[touched] == judged.categories[p]]
    if len(candidates):
        # If IoUs are equal, the target is the track that it follows first.
        target = max(candidates, key=lambda g: (judged.iou[p, g], -extents.first_frame(p, g)))
        temporal, spatial, identity = extents.corrected(p, target)
        kind = ErrorKind.TEMPORAL if temporal >= spatial else ErrorKind.SPATIAL
        return _Errors(own, other, kind, int(target), identity)
    if len(touched):
        return _Errors(own, other, ErrorKind.BOTH, _best(judged.iou[p], touched)[1], 0.0)
    return _Errors(own, other, ErrorKind.BACKGROUND, -1, 0.0)


def _best(overlaps: np.ndarray, places: np.ndarray) -> tuple[float, int]:
    """The largest overlap with the tracks `places`, and that track; 0 and -1 without tracks."""
    if not len(places):
        return 0.0, -1
    best = places[np.argmax(overlaps[places])]
    return float(overlaps[best]), int(best)


class _Extents:
    """IoU of predictions and labelled tracks after an error of one kind is corrected."""

    def __init__(self, video: VideoOverlaps, categories: np.ndarray, scores: np.ndarray) -> None:
        self._both = video.intersections
        self._areas, self._truth_areas = video.predicted_areas, video.truth_areas
        self._either = self._areas[:, :, None] + self._truth_areas[:, None] - self._both
        frame_iou = ratio(self._both, self._either)
        self._follows = np.greater_equal(frame_iou, FOLLOWS)  # [F, P, G]
        crowd = np.array([track.is_crowd for track in video.truth], bool)
        self._follows_any = self._follows[:, :, ~crowd].any(axis=2)  # [F, P]
        self._categories, self._scores = categories, scores

    def is_fragment(self, p: int, tracks: np.ndarray) -> np.ndarray:
        """Whether p follows each of `tracks` on half of its frames or more: [len(tracks)] bool."""
        frames = int((self._areas[:, p] > 0).sum())
        return self._follows[:, p, tracks].sum(axis=0) >= max(FOLLOWS * frames, 1)

    def first_frame(self, p: int, g: int) -> int:
        """The first frame on which a prediction follows a track; 0 if it never does."""
        return int(np.argmax(self._follows[:, p, g]))

    def corrected(self, p: int, g: int) -> tuple[float, float, float]:
        """IoU of p and g with the temporal extent, spatial extent, or identity corrected."""
        both, either = self._both[:, p, g], self._either[:, p, g]
        truth = self._truth_areas[:, g]
        predicted, labelled = self._areas[:, p] > 0, truth > 0
        alone = predicted != labelled
        temporal = _iou(np.where(alone, truth, both), np.where(alone, truth, either))
        elsewhere = self._follows_any[:, p] & ~self._follows[:, p, g]
        together = predicted & labelled & ~elsewhere
        spatial = _iou(np.where(together, truth, both), np.where(together, truth, either))
        both, either = np.where(elsewhere, truth, both), np.where(elsewhere, truth, either)
        for q in self._continuations(p, g):
            gap = (both == 0) & self._follows[:, q, g]
            both = np.where(gap, self._both[:, q, g], both)
            either = np.where(gap, self._either[:, q, g], either)
        return temporal, spatial, _iou(both, either)

    def _continuations(self, p: int, g: int) -> np.ndarray:
        """Predictions of p's category that follow track g mostly on frames where p does not.

        They are ordered by the number of frames on which they follow g, then by score. The result
        is empty if p never follows g.
        """
        follows = self._follows[:, :, g]
        frames, shared = follows.sum(axis=0), (follows & follows[:, [p]]).sum(axis=0)
        limit = 0.5 * np.minimum(frames, frames[p])
        possible = (self._categories == self._categories[p]) & (frames > 0) & (shared <= limit)
        possible[p] = False
        if not frames[p]:
            return np.empty(0, int)
        places = np.flatnonzero(possible)
        return places[np.lexsort((-self._scores[places], -frames[places]))]


def _iou(both: np.ndarray, either: np.ndarray) -> float:
    whole = either.sum()
    return float(both.sum() / whole) if whole else 0.0
