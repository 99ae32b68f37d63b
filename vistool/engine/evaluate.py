"""Evaluate: predictions held against what is labelled; all numbers at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from vistool.config import EvalConfig
from vistool.engine.predictions import Predictions, inputs_of, open_dataset, read_predictions
from vistool.engine.scored_set import ScoredSet, scored_set
from vistool.errors import DataError
from vistool.evaluation.breakdown import Breakdown, BreakdownBuilder
from vistool.evaluation.davis import DavisResult, davis_of_video
from vistool.evaluation.diagnosis import Diagnosis, DiagnosisBuilder
from vistool.evaluation.hota import HotaCounts, hota_of_video, hota_summary
from vistool.evaluation.identity import IdentityCounts, identity_of_video
from vistool.evaluation.overlaps import overlaps_of_videos
from vistool.evaluation.tracking_measures import TrackingResult
from vistool.evaluation.video_ap import APBuilder, VideoAP, VideoOutcome
from vistool.formats.dataset import DataSet
from vistool.progress import OnProgress, silent

IDENTITY_NUMBERS = (
    *("num_labelled", "num_predicted", "switches", "fragmentations"),
    *("num_tracks", "mostly_tracked", "mostly_lost"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All that was measured."""

    scored: ScoredSet
    ap: VideoAP
    outcomes: Sequence[VideoOutcome]  # behind AP, by rising video id
    hota: TrackingResult[HotaCounts]
    identity: TrackingResult[IdentityCounts]
    davis: DavisResult | None  # None: not asked for
    breakdown: Breakdown
    diagnosis: Diagnosis
    seconds: Mapping[str, float]  # by stage

    def as_json(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What `--json` prints; -1 where there is nothing labelled to measure by."""
        return {
            "ytvis": self.ap.summary(),
            "hota": hota_summary(self.hota),
            **({"davis": self.davis.summary()} if self.davis else {}),
            "identity": self._identity(),
            "categories": self.by_category(),
            "breakdown": self.by_group(),
            "errors": msgspec.to_builtins(self.diagnosis.breakdown),
            "counts": self._counts(),
            "labels": self._labels(),
            "inputs": dict(inputs),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "versions": {"vistool": version("vistool")},
        }

    def by_category(self) -> list[dict[str, Any]]:
        """One row a scored category."""
        ap = self.ap.by_category()
        hota = self.hota.by_category()
        rows = []
        for number, name in sorted(self.scored.categories.items()):
            row: dict[str, Any] = {
                "id": number,
                "name": name,
                "truth": _count(self.scored.truth, number),
                "predictions": _count(self.scored.predictions, number),
                **ap[number],
            }
            if number in hota and hota[number].num_labelled:
                row |= {k: hota[number].summary()[k] for k in ("HOTA", "DetA", "AssA", "LocA")}
            rows.append(row)
        return rows

    def by_group(self) -> dict[str, dict[str, dict[str, float]]]:
        """AP by occlusion (where it is labelled), length and speed of the labelled tracks."""
        kinds = {
            "occlusion": self.breakdown.occlusion,
            "length": self.breakdown.length,
            "speed": self.breakdown.speed,
        }
        return {
            kind: {group.name: {"truth": group.num_truth, **group.numbers} for group in groups}
            for kind, groups in kinds.items()
            if groups
        }

    def _identity(self) -> dict[str, float]:
        total = self.identity.total()
        numbers = {k: getattr(total, k) for k in IDENTITY_NUMBERS} if total else {}
        return {**self.identity.class_averaged(), **numbers}

    def _counts(self) -> dict[str, int]:
        scored = self.scored
        return {
            "videos": len(scored.videos),
            "frames": sum(video.length for video in scored.videos),
            "categories": len(scored.categories),
            "truth_tracks": scored.num_truth,
            "crowds": sum(t.is_crowd for tracks in scored.truth.values() for t in tracks),
            "predicted_tracks": scored.num_predictions,
        }

    def _labels(self) -> dict[str, Any]:
        """What was merged or left out, and so is not in the numbers."""
        scored = self.scored
        return {
            "merged_categories": scored.merged,
            "unscored_categories": scored.unscored,
            "partly_labelled_videos": scored.partly_labelled,
            "unnamed_objects_ignored": sum(map(len, scored.unnamed.values())),
            "predictions_not_judged": scored.unjudged,
        }


def _count(tracks: Mapping[int, Sequence[Any]], category: int) -> int:
    ids = (
        t["category_id"] if isinstance(t, dict) else t.category_id
        for video in tracks.values()
        for t in video
    )
    return sum(id_ == category for id_ in ids)


def boundaries_wanted(dataset: DataSet, config: EvalConfig, asked: bool | None) -> bool:
    """Whether to measure J and F: as asked, else where it does not take long."""
    if asked is not None or dataset.class_agnostic:
        return asked is not False
    masks = sum(mask is not None for track in dataset.tracks for mask in track.segmentations)
    return masks <= config.davis_masks


def evaluate(
    dataset: DataSet,
    predictions: Predictions,
    *,
    boundaries: bool = True,
    on_progress: OnProgress = silent,
) -> Evaluation:
    """Measure all there is to measure.

    Args: boundaries: DAVIS's J and F too; F decodes masks, which takes longer than all the rest.
    Raises: DataError if nothing is labelled.
    """
    if not dataset.tracks:
        raise DataError(
            f"{dataset.path}: nothing is labelled in it, so nothing can be scored",
            hint="--submission OUT.zip writes the predictions for a server that has the labels",
        )
    clock = _Clock()
    with clock.stage("prepare"):
        scored = scored_set(
            dataset,
            predictions.results,
            classes=predictions.run.classes if predictions.run else (),
            without=frozenset(predictions.failed),
        )
    ap, groups = APBuilder(scored.categories), BreakdownBuilder(scored.categories)
    reasons = DiagnosisBuilder(scored.categories)
    hota, identity, followed = [], [], []
    compared = iter(overlaps_of_videos(scored.in_order()))
    objects = iter(overlaps_of_videos(scored.objects_in_order()))
    for done in range(len(scored.videos)):
        with clock.stage("overlaps"):
            video = next(compared)
        with clock.stage("ytvis"):
            ap.add(video)
        with clock.stage("hota"):
            hota.append((video.video_id, hota_of_video(video)))
        with clock.stage("identity"):
            identity.append((video.video_id, identity_of_video(video)))
        with clock.stage("breakdown"):
            groups.add(video)
        with clock.stage("diagnosis"):
            reasons.add(video)
        if boundaries:
            with clock.stage("davis"):
                followed += davis_of_video(next(objects))
        on_progress("scoring", done + 1, len(scored.videos))
    with clock.stage("ytvis"):
        result = ap.result()
    with clock.stage("breakdown"):
        breakdown = groups.result()
    with clock.stage("diagnosis"):
        diagnosis = reasons.diagnosis()
    return Evaluation(
        scored=scored,
        ap=result,
        outcomes=[outcome for _, outcome in ap.outcomes()],
        hota=TrackingResult(tuple(hota)),
        identity=TrackingResult(tuple(identity)),
        davis=DavisResult(tuple(followed)) if boundaries else None,
        breakdown=breakdown,
        diagnosis=diagnosis,
        seconds=clock.total(),
    )


def evaluate_results(
    dataset: Path | str, predictions: Path | str, *, conf: float = 0.0
) -> dict[str, Any]:
    """What `vistool eval DATASET --predictions PREDICTIONS --json` prints.

    Args: conf: tracks with a lower score are left out.
    Raises: DataError that lists all that is wrong.
    """
    labelled, key = open_dataset(Path(dataset), Path(predictions))
    found = read_predictions(Path(predictions), labelled, key).above(conf)
    boundaries = boundaries_wanted(labelled, EvalConfig(), None)
    return evaluate(labelled, found, boundaries=boundaries).as_json(inputs_of(labelled, key, found))


class _Clock:
    """How long every stage took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def total(self) -> dict[str, float]:
        return {**self.seconds, "total": time.perf_counter() - self._began}
