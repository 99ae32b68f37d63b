"""Evaluate: score predictions against labelled tracks, with all measures in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vistool.annotations.dataset import DataSet
from vistool.config import EvalConfig
from vistool.engine.evaluate.predictions import (
    Predictions,
    check_submission,
    folder_of_run,
    new_folder,
    open_dataset,
    read_predictions,
    write_submission,
)
from vistool.engine.evaluate.report.content import Measured
from vistool.engine.evaluate.report.files import REPORT, write_evaluation
from vistool.engine.evaluate.scored_set import scored_set
from vistool.errors import DataError, UsageError
from vistool.formats.files import new_run_folder
from vistool.metrics.ap import APBuilder
from vistool.metrics.breakdown import BreakdownBuilder
from vistool.metrics.davis import DavisResult, davis_of_video
from vistool.metrics.errors.diagnosis import DiagnosisBuilder
from vistool.metrics.hota import hota_of_video
from vistool.metrics.identity import identity_of_video
from vistool.metrics.overlaps import overlaps_of_videos
from vistool.metrics.tracking_measures import TrackingResult
from vistool.progress import OnProgress, silent

if TYPE_CHECKING:
    from vistool.models.checkpoints.files import LoadedModel

RUNS = Path("runs/eval")  # model runs and scores are saved below it


class Evaluation(Measured):
    """The scores of an evaluation; a score is -1 if no labelled track enters it.

    `ytvis`, `hota`, `identity` and `davis` hold the overall scores, `by_category()` one row for
    every category, and `as_json()` everything that `vistool eval --json` prints. `failed` holds
    the videos on which the model could not be run, `warnings` what is odd about the predictions.

    >>> scores = vistool.evaluate("valid.json", predictions="results.json")
    >>> scores
    <Evaluation: 1 videos, 3 tracks, AP 1.000, HOTA 1.000>
    >>> scores.report("scores", exist_ok=True).name
    'report.html'
    """

    def report(self, folder: str | Path, *, exist_ok: bool = False) -> Path:
        """Write the files of the command: metrics.json, tables, figures and report.html.

        Args: exist_ok: write into a folder that exists and is not empty.
        Returns: the path of report.html.
        Raises: UsageError if the folder is not empty; DataError if it is a file.
        """
        folder = Path(folder)
        if folder.is_dir() and any(folder.iterdir()) and not exist_ok:
            raise UsageError(
                f"{folder}: exists already, and is not empty",
                hint="name another folder, or allow it with exist_ok=True",
            )
        write_evaluation(new_run_folder(folder.parent, folder.name, exist_ok=True), self)
        return folder / REPORT

    def __repr__(self) -> str:
        videos = f"{len(self.scored.videos)} videos, {self.scored.num_predictions} tracks"
        return f"<Evaluation: {videos}, AP {self.ytvis.AP:.3f}, HOTA {self.hota.HOTA:.3f}>"


def evaluate(
    dataset: str | Path,
    predictions: str | Path | None = None,
    *,
    model: str | Path | LoadedModel | None = None,
    frames: str | Path | None = None,
    conf: float = EvalConfig().conf,
    davis: bool | None = None,
    output: str | Path = RUNS,
    on_progress: OnProgress = silent,
) -> Evaluation:
    """Score saved predictions, or run a model and score its predictions, as `vistool eval` does.

    >>> scores = vistool.evaluate("valid.json", predictions="results.json")
    >>> scores.ytvis.AP, scores.hota.HOTA, scores.identity.switches
    (1.0, 1.0, 0)

    Args:
        dataset: a YouTube-VIS or COCO file, a folder with one, or a DAVIS or MOTS folder.
        predictions: a results file, a zip of one, a run's folder, or a folder of DAVIS or MOTS.
        model: the name of released weights, a weight file or a loaded model, to run first.
        frames: the folder that file names are relative to; None: it is searched for.
        conf: tracks with a lower score are left out.
        davis: compute DAVIS's J and F; None: on DAVIS, and on sets with few masks.
        output: the model's run is saved below it; the same call resumes an interrupted run.

    Raises: DataError that lists all faults of the predictions; UsageError unless either
        predictions or a model is given.
    """
    if (predictions is None) == (model is None):
        raise UsageError("evaluate needs either predictions or a model")
    job = EvalJob(
        dataset=Path(dataset),
        predictions=None if predictions is None else Path(predictions),
        model=str(model) if isinstance(model, Path) else model,
        frames=None if frames is None else Path(frames),
        config=EvalConfig(conf=conf),
        davis=davis,
        output=Path(output),
        write=False,
    )
    result = job.run(on_progress).evaluation
    if result is None:
        raise UsageError(
            "only the first process of torchrun has the scores", hint="use `vistool eval` there"
        )
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The results of a job."""

    evaluation: Evaluation | None = None  # None: no labels, or another process of torchrun has it
    folder: Path | None = None  # with the scores
    submission: Path | None = None
    failed: tuple[str, ...] = ()  # names of videos on which the model could not be run


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalJob:
    """The whole of `vistool eval`: what is scored, and what is written."""

    dataset: Path
    predictions: Path | None = None  # either predictions or a model
    model: str | LoadedModel | None = None
    frames: Path | None = None
    config: EvalConfig
    davis: bool | None = None  # None: on DAVIS, and on sets with few masks
    output: Path = RUNS
    write: bool = True  # write the scores into a folder below `output`
    report: bool = True  # write page, figures and tables of errors, too
    submission: Path | None = None  # a zip for a server; not written if a video failed
    # The scores of saved predictions may go into an existing folder; a submission may be replaced.
    exist_ok: bool = False

    def run(
        self,
        on_progress: OnProgress = silent,
        on_message: Callable[[str], None] = lambda text: None,
    ) -> Outcome:
        """Make or read predictions, score them and write the requested files.

        Args: on_message: called with warnings, and with errors of single videos.
        Raises: DataError, UsageError, WeightsError.
        """
        if self.submission:
            check_submission(self.submission, exist_ok=self.exist_ok)
        saved = [self.predictions] if self.predictions else []
        dataset, key = open_dataset(self.dataset, *saved, frames=self.frames)
        made = self._predictions(dataset, key, on_progress)
        if made is None:
            return Outcome()
        failed = tuple(video.name for video in dataset.videos if video.id in made.failed)
        for name, why in zip(failed, made.failed.values(), strict=True) if self.model else ():
            on_message(f"error: {name}: {why}")
        for warning in made.warnings:
            on_message(f"warning: {warning}")
        if self.submission:
            if failed:
                return Outcome(failed=failed)
            write_submission(self.submission, made)
            if not dataset.tracks:
                return Outcome(submission=self.submission)
        result = measure(dataset, made, self.config, davis=self.davis, on_progress=on_progress)
        folder = self._write(result) if self.write else None
        return Outcome(evaluation=result, folder=folder, submission=self.submission, failed=failed)

    def _predictions(
        self, dataset: DataSet, key: str, on_progress: OnProgress
    ) -> Predictions | None:
        conf = self.config.conf
        if self.predictions:
            saved = read_predictions(self.predictions, dataset, key, on_progress=on_progress)
            return saved.above(conf)
        from vistool.engine.evaluate.run_model import predict_dataset  # torch loads here

        assert self.model is not None
        made = predict_dataset(
            dataset,
            key,
            self.model,
            self.output,
            self.config.predict,
            workers=self.config.workers,
            on_progress=on_progress,
        )
        return made.above(conf) if made else None

    def _write(self, result: Evaluation) -> Path:
        if self.model:
            folder = folder_of_run(result.source)
        else:
            folder = new_folder(result.source, result.dataset, self.output, exist_ok=self.exist_ok)
        write_evaluation(folder, result, report=self.report)
        return folder


def measure(
    dataset: DataSet,
    predictions: Predictions,
    config: EvalConfig,
    *,
    davis: bool | None = None,
    on_progress: OnProgress = silent,
) -> Evaluation:
    """Compute all measures.

    Args: davis: J and F as well, which take longest; None: on DAVIS, and on sets with few masks.
    Raises: DataError if nothing is labelled.
    """
    if not dataset.tracks:
        raise DataError(
            f"{dataset.path}: has no labels, so nothing can be scored",
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
    with_davis = _with_davis(dataset, config, davis)
    ap, groups = APBuilder(scored.categories), BreakdownBuilder(scored.categories)
    errors = DiagnosisBuilder(scored.categories)
    hota, identity, objects = [], [], []
    overlaps = iter(overlaps_of_videos(scored.in_order()))
    object_overlaps = iter(overlaps_of_videos(scored.objects_in_order()))
    for done in range(len(scored.videos)):
        with clock.stage("overlaps"):
            video = next(overlaps)
        with clock.stage("ytvis"):
            ap.add(video)
        with clock.stage("hota"):
            hota.append((video.video_id, hota_of_video(video)))
        with clock.stage("identity"):
            identity.append((video.video_id, identity_of_video(video)))
        with clock.stage("breakdown"):
            groups.add(video)
        with clock.stage("diagnosis"):
            errors.add(video)
        if with_davis:
            with clock.stage("davis"):
                objects += davis_of_video(next(object_overlaps))
        on_progress("scoring", done + 1, len(scored.videos))
    with clock.stage("ytvis"):
        result = ap.result()
    with clock.stage("breakdown"):
        breakdown = groups.result()
    with clock.stage("diagnosis"):
        diagnosis = errors.diagnosis()
    return Evaluation(
        dataset=dataset,
        source=predictions,
        scored=scored,
        ap=result,
        outcomes=ap.outcomes(),
        hota_counts=TrackingResult(tuple(hota)),
        identity_counts=TrackingResult(tuple(identity)),
        objects=DavisResult(tuple(objects)) if with_davis else None,
        breakdown=breakdown,
        diagnosis=diagnosis,
        seconds=clock.total(),
    )


def _with_davis(dataset: DataSet, config: EvalConfig, asked: bool | None) -> bool:
    """Whether to compute J and F: as requested, else on DAVIS and on sets with few masks."""
    if asked is not None or dataset.class_agnostic:
        return asked is not False
    masks = sum(mask is not None for track in dataset.tracks for mask in track.segmentations)
    return masks <= config.davis_masks


class _Clock:
    """Seconds that every stage took."""

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
