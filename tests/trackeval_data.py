"""The tests' made videos as the TrackEval package reads them, from decoded masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.made_tracks import MadeVideo


def trackeval_metric(name: str) -> Any:
    """A metric of TrackEval; the test is skipped where the package is not installed."""
    metrics = pytest.importorskip("trackeval.metrics", reason="the trackeval package is missing")
    return getattr(metrics, name)(*[] if name == "HOTA" else [{"PRINT_CONFIG": False}])


def trackeval_problem(video: MadeVideo, category_id: int) -> dict[str, Any]:
    """One category of one video; ids without gaps, as its own readers hand them over."""
    truth = [t.masks for t in video.truth if t.category_id == category_id and t.masks.any()]
    found = [p.masks for p in video.predictions if p.category_id == category_id and p.masks.any()]
    length = len([*truth, *found][0]) if truth or found else 0
    gt_ids, tracker_ids, similarities = [], [], []
    for frame in range(length):
        here = [g for g, masks in enumerate(truth) if masks[frame].any()]
        seen = [p for p, masks in enumerate(found) if masks[frame].any()]
        iou = np.zeros((len(here), len(seen)))
        for row, g in enumerate(here):
            for column, p in enumerate(seen):
                a, b = truth[g][frame], found[p][frame]
                iou[row, column] = (a & b).sum() / (a | b).sum()
        gt_ids.append(np.array(here, int))
        tracker_ids.append(np.array(seen, int))
        similarities.append(iou)
    return {
        "num_timesteps": length,
        "num_gt_ids": len(truth),
        "num_tracker_ids": len(found),
        "num_gt_dets": sum(map(len, gt_ids)),
        "num_tracker_dets": sum(map(len, tracker_ids)),
        "gt_ids": gt_ids,
        "tracker_ids": tracker_ids,
        "similarity_scores": similarities,
    }
