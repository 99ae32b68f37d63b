"""Scores of what a model found in the development data: for `dev_quality` and `dev_sheets`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from dev_data import Case, Followed

from vistool.annotations.dataset import AnnotatedTrack
from vistool.metrics.ap import average_precision
from vistool.metrics.davis import RECALLED, Comparison
from vistool.metrics.errors.kinds import HALF, KINDS, RIGHT, ErrorKind, JudgedVideo, judge
from vistool.metrics.hota import hota_of_video, hota_summary
from vistool.metrics.identity import identity_of_video
from vistool.metrics.overlaps import VideoOverlaps, overlaps_of_video, overlaps_of_videos
from vistool.metrics.partial_labels import scorable
from vistool.metrics.tracking_measures import TrackingResult
from vistool.structures import TrackSegmentation

CONFIDENCES = tuple(round(0.1 * n, 1) for n in range(1, 10))


def compared(cases: Sequence[Case]) -> list[VideoOverlaps]:
    """Every case with those of its predictions that can be called right or wrong."""
    videos = []
    for number, case in enumerate(cases):
        truth = [AnnotatedTrack(number, t.label, t.segmentations) for t in case.video.tracks]
        truth += [
            AnnotatedTrack(number, region.label, region.segmentations, is_crowd=True)
            for region in case.video.regions
        ]
        complete = [label for label, known in enumerate(case.video.exhaustive) if known]
        counted = scorable(case.found, truth, exhaustive=complete, ignored=case.ignored)
        found = [TrackSegmentation(**{**track, "video_id": number}) for track in counted]
        videos.append((number, truth, found))
    return list(overlaps_of_videos(videos))


# --- AP -------------------------------------------------------------------------------------------


def precision(videos: Sequence[VideoOverlaps], names: Sequence[str]) -> dict[str, Any]:
    """AP over the classes that are there, and of each of them."""
    ap = average_precision(videos, category_ids=range(len(names)))
    labels = [t.category_id for video in videos for t in video.truth]
    classes = {
        names[label]: {"instances": labels.count(label), **_chosen(row, ("AP", "AP50"))}
        for label, row in ap.by_category().items()
        if label in labels
    }
    return {
        "videos": len(videos),
        "instances": len(labels),
        **_chosen(ap.summary(), ("AP", "AP50", "AR10")),
        "classes": classes,
    }


def _chosen(row: dict[str, float], names: Sequence[str]) -> dict[str, float]:
    return {name: round(row[name], 4) for name in names}


# --- tracks ---------------------------------------------------------------------------------------


def tracking(
    videos: Sequence[VideoOverlaps], shown: Sequence[VideoOverlaps], min_score: float
) -> dict[str, Any]:
    """HOTA, the mean over classes and with one class for all; switches of identity.

    Args: videos: with tracks as every likely class; shown: with each as its likeliest.
    """
    videos = [_at_least(video, min_score) for video in videos]
    same = [_one_class(_at_least(video, min_score)) for video in shown]
    identity = TrackingResult(tuple((v.video_id, identity_of_video(v)) for v in videos))
    total = identity.total()
    return {
        "min_score": min_score,
        **_hota(videos),
        "one_class": _hota(same),
        "IDF1": round(identity.class_averaged().get("IDF1", -1.0), 4),
        "switches": total.switches if total else 0,
        "fragmentations": total.fragmentations if total else 0,
    }


def _hota(videos: Sequence[VideoOverlaps]) -> dict[str, float]:
    counts = TrackingResult(tuple((v.video_id, hota_of_video(v)) for v in videos))
    return _rounded(hota_summary(counts))


def _rounded(row: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in row.items()}


def _one_class(video: VideoOverlaps) -> VideoOverlaps:
    return replace(
        video,
        truth=tuple(replace(track, category_id=0) for track in video.truth),
        predictions=tuple(
            TrackSegmentation(**{**track, "category_id": 0}) for track in video.predictions
        ),
    )


# --- DAVIS ----------------------------------------------------------------------------------------


def davis(sequences: Sequence[Followed], names: Sequence[str]) -> dict[str, Any]:
    """How well one track follows the one object of each sequence."""
    rows = {sequence.case.name: _follow(sequence, names) for sequence in sequences}
    return {
        "single": _mean_row([row for row in rows.values() if not row["merged"]]),
        "merged": _mean_row([row for row in rows.values() if row["merged"]]),
        "sequences": rows,
    }


def _follow(sequence: Followed, names: Sequence[str]) -> dict[str, Any]:
    """J and F of the top-scored track and of the one that fits best (by J)."""
    tracks = sequence.case.found
    if not tracks:
        nothing = {"J": 0.0, "F": 0.0, "score": 0.0, "class": None, "right": False}
        row = {"tracks": 0, "best": nothing, "top": nothing, "followed": 0.0}
        return {**row, "merged": sequence.merged, "known": sequence.label is not None}
    compared = Comparison(overlaps_of_video(0, [AnnotatedTrack(0, 0, sequence.masks)], tracks))
    overlaps = compared.regions(range(len(tracks)), [0])[..., 0].T  # [P, F]
    best = max(range(len(tracks)), key=lambda i: float(overlaps[i].mean()))

    def facts(i: int) -> dict[str, Any]:
        contour = compared.boundary(i, 0)
        return {
            "J": round(float(overlaps[i].mean()), 4),
            "F": round(float(contour.mean()), 4),
            "score": round(tracks[i]["score"], 3),
            "class": names[tracks[i]["category_id"]],
            "right": tracks[i]["category_id"] == sequence.label,
        }

    return {
        "tracks": len(tracks),
        "best": facts(best),
        "top": facts(0),
        "followed": round(float((overlaps[best] > RECALLED).mean()), 3),
        "merged": sequence.merged,
        "known": sequence.label is not None,
    }


def _mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    known = [row for row in rows if row["known"]]
    means = {
        f"{which}_{measure}": round(float(np.mean([row[which][measure] for row in rows])), 4)
        for which in ("best", "top")
        for measure in "JF"
    }
    return {
        **means,
        "followed": round(float(np.mean([row["followed"] for row in rows])), 4),
        "best_right": f"{sum(row['best']['right'] for row in known)}/{len(known)}",
        "top_right": f"{sum(row['top']['right'] for row in known)}/{len(known)}",
    }


# --- one confidence -------------------------------------------------------------------------------


def confidence_sweep(videos: Sequence[VideoOverlaps], num_classes: int) -> list[dict[str, float]]:
    """Precision, recall and F1 of the tracks, at IoU 0.5, that score at least so much."""
    judged = [judge(video, range(num_classes)) for video in videos]
    labelled = sum(len(video.truth) for video in videos)
    rows = []
    for conf in CONFIDENCES:
        right = sum(_count(video.kinds[HALF] == RIGHT, video, conf) for video in judged)
        wrong = sum(_count(video.kinds[HALF] >= 0, video, conf) for video in judged)
        values = {
            "precision": right / max(1, right + wrong),
            "recall": right / max(1, labelled),
            "F1": 2 * right / max(1, right + wrong + labelled),
        }
        rows.append({"conf": conf, "predicted": right + wrong, **_rounded(values)})
    return rows


def _count(chosen: np.ndarray, video: JudgedVideo, conf: float) -> int:
    return int((chosen & (video.scores >= conf)).sum())


def errors(videos: Sequence[VideoOverlaps], num_classes: int, conf: float) -> dict[str, int]:
    """What the predictions of a sufficient score are at IoU 0.5: right, or of which kind of error.

    "missed" are labelled tracks that no such prediction finds or is meant for.
    """
    judged = [judge(_at_least(video, conf), range(num_classes)) for video in videos]
    kinds = np.concatenate([np.zeros(0, int), *(video.kinds[HALF] for video in judged)])
    counts = {str(kind): int((kinds == place).sum()) for place, kind in enumerate(KINDS)}
    counts[str(ErrorKind.MISSED)] = sum(int(video.missed()[HALF].sum()) for video in judged)
    return {
        "labelled": sum(len(video.truth) for video in videos),
        "predicted": int((kinds >= RIGHT).sum()),
        "right": int((kinds == RIGHT).sum()),
        **counts,
    }


def _at_least(video: VideoOverlaps, conf: float) -> VideoOverlaps:
    kept = [i for i, track in enumerate(video.predictions) if track["score"] >= conf]
    return replace(
        video,
        predictions=tuple(video.predictions[i] for i in kept),
        intersections=video.intersections[:, kept],
        predicted_areas=video.predicted_areas[:, kept],
    )
