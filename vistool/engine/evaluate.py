"""Evaluate: predictions, saved or made now, held against what is labelled; all numbers at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from vistool.config import EvalConfig
from vistool.engine.run_record import PredictedSet, Run, file_key, read_run
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
from vistool.formats.detect import read_dataset
from vistool.formats.predicted_masks import read_predicted_masks, with_predicted_lengths
from vistool.formats.problems import refuse_all
from vistool.formats.results import RESULTS, new_run_folder
from vistool.formats.results_check import check_results
from vistool.progress import OnProgress, silent
from vistool.structures import TrackSegmentation

IDENTITY_NUMBERS = (
    *("num_labelled", "num_predicted", "switches", "fragmentations"),
    *("num_tracks", "mostly_tracked", "mostly_lost"),
)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Checked predictions and where they come from."""

    path: Path
    results: Sequence[TrackSegmentation]
    run: Run | None = None  # what made them, where that is known
    warnings: tuple[str, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict)  # video id -> why it was not run
    conf: float = 0.0  # those that score less were left out

    def above(self, conf: float) -> Predictions:
        """Those that score at least `conf`."""
        if conf <= self.conf:
            return self
        return replace(self, results=[r for r in self.results if r["score"] >= conf], conf=conf)


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


def open_dataset(path: Path, *predictions: Path) -> tuple[DataSet, str]:
    """A data set with its labels, and a key that tells this state of it from another.

    Args: predictions: that will be scored; they tell how long a video is where nothing else does.
    Raises: DataError.
    """
    dataset = read_dataset(path)
    key = file_key(dataset.path)
    for file in predictions:
        dataset = with_predicted_lengths(dataset, file)
    return dataset, key


def read_predictions(
    path: Path, dataset: DataSet, data_key: str, *, on_progress: OnProgress = silent
) -> Predictions:
    """Read and check predictions: a results file, a zip of one, or a folder.

    A folder holds results.json, as of an earlier run, or masks in the form of DAVIS or MOTS. Where
    `vistool eval` made the predictions, what it knows of the model's classes comes along.

    Raises: DataError that lists all that is wrong.
    """
    if path.is_dir() and not (path / RESULTS).is_file():
        masks = read_predicted_masks(path, dataset, on_progress=on_progress)
        refuse_all(masks.problems)
        return Predictions(path, masks.results, None, tuple(map(str, masks.problems)))
    file = path / RESULTS if path.is_dir() else path
    checked = check_results(file, dataset, on_progress=on_progress)
    refuse_all(checked.problems)
    warnings = [str(problem) for problem in checked.problems]
    run = read_run(file.parent) if file.name == RESULTS else None
    if run is not None and run.data != data_key:
        warnings.append(f"{file}: made on another state of the data set; categories as they are")
        run = None
    return Predictions(file, checked.results, run, tuple(warnings))


def predictions_of_run(done: PredictedSet, dataset: DataSet) -> Predictions:
    """What a model has just left on disk, as `read_predictions` gives it."""
    checked = check_results(done.results, dataset)
    refuse_all(checked.problems)
    notes = tuple(_class_notes(done))
    return Predictions(done.results, checked.results, done.run, notes, done.failed)


def _class_notes(done: PredictedSet) -> Iterator[str]:
    without = [match.name for match in done.run.classes if not match.category_ids]
    if without:
        yield (
            f"the data set has no category for the model's {', '.join(without)}: "
            f"{done.left_out} predictions left out"
        )


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


def inputs_of(dataset: DataSet, data_key: str, predictions: Predictions) -> dict[str, Any]:
    """What was scored, with checksums, so that numbers can be traced."""
    inputs: dict[str, Any] = {
        "dataset": {"path": str(dataset.path), "sha256": data_key},
        "predictions": {
            "path": str(predictions.path),
            "sha256": file_key(predictions.path),
            "conf": predictions.conf,
        },
    }
    if predictions.run:
        run = predictions.run
        inputs["model"] = {
            "name": run.model,
            "sha256": run.sha256,
            "settings": run.settings,
            "multi_class": run.multi_class,
        }
    if predictions.failed:
        inputs["failed_videos"] = {str(id_): why for id_, why in predictions.failed.items()}
    return inputs


def folder_for(
    predictions: Predictions, dataset: DataSet, parent: Path, *, exist_ok: bool = False
) -> Path:
    """Where the numbers go: to the run that the predictions are of, or into a new folder."""
    if predictions.run is not None:
        return predictions.path.parent
    stem = predictions.path.stem
    if stem == Path(RESULTS).stem:  # all of them are called so
        stem = predictions.path.resolve().parent.name
    return new_run_folder(parent, f"{dataset.path.stem}-{stem}", exist_ok=exist_ok)


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
