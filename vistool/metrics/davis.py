"""The measures of the DAVIS benchmark: J for regions, F for boundaries.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR
2016; protocol of Caelles et al., "The 2019 DAVIS Challenge: Unsupervised Multi-Object
Segmentation". Categories are ignored. In shapes: F frames, P predicted tracks, G labelled objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from vistool.formats.masks.rle import decode_mask, encode_mask
from vistool.metrics.boundary import Masks, boundary_bounds, boundary_measure
from vistool.metrics.overlaps import NOT_MEASURED, VideoOverlaps, overlaps_of_video, ratio
from vistool.metrics.tracking_measures import by_score
from vistool.structures import RLE, TrackSegmentation

RECALLED = 0.5  # recall is the share of frames above it
QUARTERS = 4
MOST_PROPOSALS = 20  # per video, the highest-scoring: the limit of the unsupervised protocol


@dataclass(frozen=True, slots=True)
class Statistics:
    """A measure over the frames of one object."""

    mean: float
    recall: float  # share of the frames above 0.5
    decay: float  # mean over the first quarter of the video minus mean over the last

    @classmethod
    def of(cls, values: np.ndarray) -> Statistics:
        """Args: values: [F], at least one."""
        # Neighbouring quarters share a frame. The official code stores these indices in eight bits,
        # which overflow from 257 frames on; here they do not.
        edges = np.round(np.linspace(1, len(values), QUARTERS + 1) + 1e-10).astype(int) - 1
        first, last = values[: edges[1] + 1], values[edges[-2] :]
        return cls(
            mean=float(values.mean()),
            recall=float((values > RECALLED).mean()),
            decay=float(first.mean() - last.mean()),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ObjectQuality:
    """J and F of one labelled object."""

    video_id: int
    truth: int  # its index among the video's labelled tracks
    prediction: int | None  # the index of the track matched with it; None: not matched
    region: np.ndarray  # [F] J
    boundary: np.ndarray  # [F] F


@dataclass(frozen=True, slots=True, eq=False)
class DavisResult:
    """J and F of a set of videos."""

    objects: tuple[ObjectQuality, ...]

    def summary(self) -> dict[str, float]:
        """Mean, recall and decay of J and F, each the mean over objects; -1 without objects."""
        summary = {}
        for name in ("J", "F"):
            values = [o.region if name == "J" else o.boundary for o in self.objects]
            statistics = [Statistics.of(v) for v in values]
            for which in ("mean", "recall", "decay"):
                measured = [getattr(s, which) for s in statistics]
                summary[f"{name}_{which}"] = float(np.mean(measured)) if measured else NOT_MEASURED
        return {"J&F_mean": (summary["J_mean"] + summary["F_mean"]) / 2, **summary}


# --- matching objects with predictions ------------------------------------------------------------


class Comparison:
    """J and F of pairs of tracks of one video; F is computed on demand, because it decodes masks.

    In all methods, `place` is the index of a prediction, or None for an empty track.
    """

    def __init__(self, video: VideoOverlaps) -> None:
        self.video = video
        self.objects = tuple(
            g for g, t in enumerate(video.truth) if not t.is_crowd and video.truth_areas[:, g].any()
        )
        self._boundaries: dict[tuple[int | None, int], np.ndarray] = {}

    def masks(self, place: int | None) -> Masks:
        """The masks of a prediction."""
        if place is None:
            return [None] * len(self.video.truth_areas)
        return self.video.predictions[place]["segmentations"]

    def regions(self, places: Sequence[int | None], objects: Sequence[int]) -> np.ndarray:
        """J of every frame and pair: [F, P, G]."""
        video = self.video
        tracks = [n for n, place in enumerate(places) if place is not None]
        there = [place for place in places if place is not None]
        areas = np.zeros((len(video.truth_areas), len(places)), np.int64)
        areas[:, tracks] = video.predicted_areas[:, there]
        both = np.zeros((*areas.shape, len(objects)), np.int64)
        both[:, tracks] = video.intersections[:, there][:, :, objects]
        return region_similarity(both, areas, video.truth_areas[:, objects])

    def boundary(self, place: int | None, truth: int) -> np.ndarray:
        """F of every frame of a pair: [F]."""
        if (place, truth) not in self._boundaries:
            masks = self.video.truth[truth].segmentations
            self._boundaries[place, truth] = boundary_measure(self.masks(place), masks)
        return self._boundaries[place, truth]


def best_partners(compared: Comparison) -> dict[int, int]:
    """Match objects with predictions one to one so that the sum of J and F is largest.

    This is the unsupervised protocol, with the 20 highest-scoring predictions of a video.

    Returns: index of an object's labelled track -> index of its prediction; objects without a
        prediction are left out.
    """
    objects = compared.objects
    places: list[int | None] = [*by_score(compared.video)[:MOST_PROPOSALS]]
    # As in the official code, empty tracks are added until there are as many as objects.
    places += [None] * (len(objects) - len(places))
    if not objects:
        return {}
    region = compared.regions(places, objects).mean(axis=0)  # [P, G]
    # F is computed only for pairs that may be part of the best matching. Until a pair is chosen,
    # an upper bound replaces its F.
    truth = [compared.video.truth[g].segmentations for g in objects]
    worth = region + boundary_bounds([compared.masks(p) for p in places], truth).mean(axis=0)
    known = np.zeros(worth.shape, bool)
    while True:
        pairs = np.transpose(linear_sum_assignment(worth, maximize=True))
        if all(known[p, g] for p, g in pairs):
            break
        for p, g in pairs:
            worth[p, g] = region[p, g] + compared.boundary(places[p], objects[g]).mean()
            known[p, g] = True
    chosen = {objects[g]: places[p] for p, g in pairs}
    return {g: place for g, place in chosen.items() if place is not None}


# --- the measures ---------------------------------------------------------------------------------


def davis_of_video(video: VideoOverlaps) -> list[ObjectQuality]:
    """J and F of every object that is visible on any frame, matched by `best_partners`.

    Objects without a prediction are compared with an empty track. Pixels of groups (`is_crowd`)
    are DAVIS's void and do not count.
    """
    compared = Comparison(_without_void(video))
    chosen = best_partners(compared)
    return [
        ObjectQuality(
            video_id=video.video_id,
            truth=g,
            prediction=chosen.get(g),
            region=compared.regions([chosen.get(g)], [g])[:, 0, 0],
            boundary=compared.boundary(chosen.get(g), g),
        )
        for g in compared.objects
    ]


def _without_void(video: VideoOverlaps) -> VideoOverlaps:
    """The overlaps of the video without the pixels of its groups, predicted or labelled."""
    groups = [t.segmentations for t in video.truth if t.is_crowd]
    void = [_union([mask for mask in masks if mask]) for masks in zip(*groups, strict=True)]
    if not any(void):
        return video
    return overlaps_of_video(
        video.video_id,
        [
            t if t.is_crowd else replace(t, segmentations=_outside(t.segmentations, void))
            for t in video.truth
        ],
        [
            TrackSegmentation(**{**p, "segmentations": _outside(p["segmentations"], void)})
            for p in video.predictions
        ],
    )


def _outside(track: Masks, void: Masks) -> list[RLE | None]:
    return [
        mask if mask is None or out is None else encode_mask(decode_mask(mask) & ~decode_mask(out))
        for mask, out in zip(track, void, strict=True)
    ]


def region_similarity(both: np.ndarray, areas: np.ndarray, truth_areas: np.ndarray) -> np.ndarray:
    """J from intersections and areas: [F, P, G], [F, P], [F, G] pixels -> [F, P, G] in [0, 1].

    J is 1 where both masks are empty.
    """
    either = areas[:, :, None] + truth_areas[:, None] - both
    return np.where(either > 0, ratio(both, either), 1.0)


def _union(masks: Sequence[RLE]) -> RLE | None:
    if not masks:
        return None
    return encode_mask(np.logical_or.reduce([decode_mask(mask) for mask in masks]))
