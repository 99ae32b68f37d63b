"""Track AP in plain loops over pycocotools, one pair of tracks and one frame at a time.

It is written from the rules alone, without the package's own evaluation, and it is slow. Tests and
the benchmark compare the package with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

Annotation = Mapping[str, Any]  # an entry of a YouTube-VIS file, its masks as run-length codes
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = [(0, 1e5**2), (0, 128**2), (128**2, 256**2), (256**2, 1e5**2)]
MOST = [1, 10, 100]


def pair_iou(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """IoU of two tracks in [0, 1]; a frame without a mask counts as an empty mask."""
    both = either = 0.0
    for d, g in zip(ours, theirs, strict=True):
        if d and g:
            both += float(coco.area(coco.merge([d, g], True)))
            either += float(coco.area(coco.merge([d, g], False)))
        elif d or g:
            either += float(coco.area(d or g))
    return both / either if either > 0 else 0.0


def mean_stated_area(areas: Sequence[float | None]) -> float:
    """The mean over the frames with an area, in pixels."""
    visible = [area for area in areas if area]
    return float(np.mean(visible)) if visible else 0.0


class PairwiseAP:
    """Precision [10, 101, K, 4, 3] and recall [10, K, 4, 3], -1 without labelled tracks."""

    def __init__(
        self,
        truth: Sequence[Annotation],
        predictions: Sequence[Annotation],
        video_ids: Sequence[int],
        category_ids: Sequence[int],
    ) -> None:
        """Args: truth: with `areas`, as the files have them."""
        self.videos, self.categories = sorted(video_ids), sorted(category_ids)
        shape = (len(self.categories), len(AREAS), len(MOST))
        self.precision = -np.ones((len(THRESHOLDS), len(RECALLS), *shape))
        self.recall = -np.ones((len(THRESHOLDS), *shape))
        self.iou: dict[tuple[int, int], np.ndarray] = {}
        self.truth: dict[tuple[int, int], list[Annotation]] = {}
        self.predictions: dict[tuple[int, int], list[Annotation]] = {}
        for g in truth:
            self.truth.setdefault((g["video_id"], g["category_id"]), []).append(g)
        for p in predictions:
            p = {**p, "areas": [m and float(coco.area(m)) for m in p["segmentations"]]}
            self.predictions.setdefault((p["video_id"], p["category_id"]), []).append(p)
        self._compare()
        for k, category in enumerate(self.categories):
            for a, area in enumerate(AREAS):
                matched = [self._match(video, category, area) for video in self.videos]
                for m, most in enumerate(MOST):
                    self._accumulate(
                        k,
                        a,
                        m,
                        [video[:most] for video, _ in matched],
                        sum(count for _, count in matched),
                    )

    def _compare(self) -> None:
        for place, predictions in self.predictions.items():
            order = np.argsort([-p["score"] for p in predictions], kind="mergesort")
            self.predictions[place] = best = [predictions[i] for i in order[: MOST[-1]]]
            truth = self.truth.get(place, [])
            if place[0] in self.videos and place[1] in self.categories:
                self.iou[place] = np.zeros((len(best), len(truth)))
                for p, g in np.ndindex(len(best), len(truth)):
                    self.iou[place][p, g] = pair_iou(
                        best[p]["segmentations"], truth[g]["segmentations"]
                    )

    def _match(
        self, video: int, category: int, area: tuple[float, float]
    ) -> tuple[list[tuple[float, list[bool], list[bool]]], int]:
        """Match the predictions of one video.

        Returns: the score of every prediction, and whether it matches and is ignored at each
            threshold; and the number of labelled tracks.
        """
        place = (video, category)
        truth, predictions = self.truth.get(place, []), self.predictions.get(place, [])
        optional = [
            bool(g.get("iscrowd")) or not area[0] <= mean_stated_area(g["areas"]) <= area[1]
            for g in truth
        ]
        # Ignored tracks last, otherwise in the order of the file.
        truth_order = sorted(range(len(truth)), key=lambda g: optional[g])
        found = [[False] * len(THRESHOLDS) for _ in predictions]
        ignored = [[False] * len(THRESHOLDS) for _ in predictions]
        for t, threshold in enumerate(THRESHOLDS):
            taken: set[int] = set()
            for p, prediction in enumerate(predictions):
                best, match = min(threshold, 1 - 1e-10), None
                for g in truth_order:
                    if g in taken and not truth[g].get("iscrowd"):
                        continue
                    if match is not None and not optional[match] and optional[g]:
                        break
                    if self.iou[place][p, g] < best:
                        continue
                    best, match = self.iou[place][p, g], g
                if match is not None:
                    taken.add(match)
                    found[p][t], ignored[p][t] = True, optional[match]
                else:
                    size = mean_stated_area(prediction["areas"])
                    ignored[p][t] = not area[0] <= size <= area[1]
        scores = [p["score"] for p in predictions]
        return list(zip(scores, found, ignored, strict=True)), optional.count(False)

    def _accumulate(
        self,
        k: int,
        a: int,
        m: int,
        videos: Sequence[Sequence[tuple[float, list[bool], list[bool]]]],
        num_truth: int,
    ) -> None:
        if num_truth == 0:
            return
        entries = [entry for video in videos for entry in video]
        entries.sort(key=lambda entry: -entry[0])
        for t in range(len(THRESHOLDS)):
            right = wrong = 0
            recalls, precisions = [], []
            for _, found, ignored in entries:
                if not ignored[t]:
                    right += found[t]
                    wrong += not found[t]
                recalls.append(right / num_truth)
                precisions.append(right / (right + wrong) if right + wrong else 0.0)
            self.recall[t, k, a, m] = recalls[-1] if recalls else 0.0
            for i in range(len(precisions) - 1, 0, -1):
                precisions[i - 1] = max(precisions[i - 1], precisions[i])
            places = np.searchsorted(recalls, RECALLS, side="left")
            self.precision[t, :, k, a, m] = [
                precisions[i] if i < len(precisions) else 0.0 for i in places
            ]
