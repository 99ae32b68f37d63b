"""The tests' synthetic videos in the formats of the TrackEval package: arrays and files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.made_tracks import HEIGHT, WIDTH, MadeVideo


def trackeval_metric(name: str) -> Any:
    """A metric of TrackEval; the test is skipped if the package is not installed."""
    metrics = pytest.importorskip("trackeval.metrics", reason="the trackeval package is missing")
    return getattr(metrics, name)(*[] if name == "HOTA" else [{"PRINT_CONFIG": False}])


def trackeval_problem(video: MadeVideo, category_id: int) -> dict[str, Any]:
    """One category of one video, with ids without gaps, in the format of TrackEval's readers."""
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


def trackeval_on_files(folder: Path, videos: Sequence[MadeVideo], categories: int) -> Any:
    """The results of TrackEval's YouTube-VIS benchmark on the videos, read from JSON files."""
    trackeval = pytest.importorskip("trackeval", reason="the trackeval package is missing")
    truth_folder = folder / "truth" / "youtube_vis_val"
    results_folder = folder / "results" / "youtube_vis_val" / "ours" / "data"
    truth_folder.mkdir(parents=True)
    results_folder.mkdir(parents=True)
    content: dict[str, list[Any]] = {
        "videos": [],
        "annotations": [],
        "categories": [{"id": i, "name": f"c{i}"} for i in range(1, categories + 1)],
    }
    results = []
    for number, video in enumerate(videos):
        length = len([*video.truth, *video.predictions][0].masks)
        names = [f"v{number}/{frame}.jpg" for frame in range(length)]
        content["videos"].append({"id": number, "file_names": names})
        results += video.results(number)
        for track in video.truth:
            annotation = {
                "id": len(content["annotations"]) + 1,
                "video_id": number,
                "category_id": track.category_id,
                "iscrowd": 0,
                "height": HEIGHT,
                "width": WIDTH,
                "areas": [int(mask.sum()) or None for mask in track.masks],
                "segmentations": [_run_lengths(mask) for mask in track.masks],
            }
            content["annotations"].append(annotation)
    (truth_folder / "truth.json").write_text(json.dumps(content))
    (results_folder / "results.json").write_text(json.dumps(results))
    dataset = trackeval.datasets.YouTubeVIS(
        {
            "GT_FOLDER": f"{folder / 'truth'}/",
            "TRACKERS_FOLDER": f"{folder / 'results'}/",
            "SPLIT_TO_EVAL": "val",
            "PRINT_CONFIG": False,
        }
    )
    silent = ("PRINT_RESULTS", "PRINT_CONFIG", "TIME_PROGRESS", "OUTPUT_SUMMARY")
    settings = dict.fromkeys((*silent, "OUTPUT_DETAILED", "PLOT_CURVES"), False)
    evaluator = trackeval.Evaluator({**settings, "LOG_ON_ERROR": None})
    metrics = [trackeval_metric("HOTA"), trackeval_metric("Identity")]
    return evaluator.evaluate([dataset], metrics)[0]["YouTubeVIS"]["ours"]["COMBINED_SEQ"]


def _run_lengths(mask: np.ndarray) -> dict[str, Any] | None:
    """Uncompressed run lengths, as in the benchmark's files."""
    if not mask.any():
        return None
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[False], pixels])))
    counts = np.diff(np.concatenate([[0], changes, [pixels.size]]))
    return {"size": [HEIGHT, WIDTH], "counts": counts.tolist()}
