"""The measures of the DAVIS benchmark: J for the region of an object, F for its boundary.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR
2016; protocol of Caelles et al., "The 2019 DAVIS Challenge: Unsupervised Multi-Object
Segmentation". Categories play no part. F frames, P predicted tracks and G labelled objects.
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

RECALLED = 0.5  # a frame above it counts for the recall
QUARTERS = 4
MOST_PROPOSALS = 20  # of a video, by score: what the unsupervised protocol allows


@dataclass(frozen=True, slots=True)
class Statistics:
    """A measure over the frames of one object."""

    mean: float
    recall: float  # share of the frames above one half
    decay: float  # how much the mean falls from the first quarter of the video to the last

    @classmethod
    def of(cls, values: np.ndarray) -> Statistics:
        """Args: values: [F], at least one."""
        # The quarters share the frames they meet in. The official code keeps these places in
        # eight bits, which goes wrong from 257 frames on; here they stay right.
        edges = np.round(np.linspace(1, len(values), QUARTERS + 1) + 1e-10).astype(int) - 1
        first, last = values[: edges[1] + 1], values[edges[-2] :]
        return cls(
            mean=float(values.mean()),
            recall=float((values > RECALLED).mean()),
            decay=float(first.mean() - last.mean()),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ObjectQuality:
    """How well one labelled object was followed."""

    video_id: int
    truth: int  # its place among the video's labelled tracks
    prediction: int | None  # the place of the track it was given; None: none
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


# --- which prediction an object is compared with --------------------------------------------------


class Comparison:
    """J and F of the pairs of one video; F, which decodes masks, is computed when asked for."""

    def __init__(self, video: VideoOverlaps) -> None:
        self.video = video
        self.objects = tuple(
            g for g, t in enumerate(video.truth) if not t.is_crowd and video.truth_areas[:, g].any()
        )
        self._boundaries: dict[tuple[int | None, int], np.ndarray] = {}

    def masks(self, place: int | None) -> Masks:
        """Of a prediction; None stands for an empty track, here and below."""
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
    """The unsupervised protocol: no two objects share a track, and the sum of J and F is largest.

    Of a video, the 20 predictions of the highest score take part.
    """
    objects = compared.objects
    places: list[int | None] = [*by_score(compared.video)[:MOST_PROPOSALS]]
    # As in the official code, there are at least as many tracks as objects; some may be empty.
    places += [None] * (len(objects) - len(places))
    if not objects:
        return {}
    region = compared.regions(places, objects).mean(axis=0)  # [P, G]
    # F is computed of those pairs alone that may be among the best: a pair stands in with the most
    # that it can reach until it is chosen.
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
    """J and F of every object that is visible at all; one without a partner has an empty track.

    Partners are found by the unsupervised protocol, see `best_partners`.
    What is labelled as a group (`is_crowd`) is DAVIS's void: its pixels count for nothing.
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
    """The video less the pixels of its groups, as if nobody had predicted or labelled them."""
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
    """[F, P, G], [F, P], [F, G] pixels -> [F, P, G]."""
    either = areas[:, :, None] + truth_areas[:, None] - both
    return np.where(either > 0, ratio(both, either), 1.0)


def _union(masks: Sequence[RLE]) -> RLE | None:
    if not masks:
        return None
    return encode_mask(np.logical_or.reduce([decode_mask(mask) for mask in masks]))
