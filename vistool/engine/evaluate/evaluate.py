"""Evaluate: predictions held against what is labelled; all numbers at once."""

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

RUNS = Path("runs/eval")  # where runs of models and their numbers go


class Evaluation(Measured):
    """All that was measured; numbers are -1 where nothing is labelled to measure them by.

    `ytvis`, `hota`, `identity` and `davis` hold the overall numbers, `by_category()` one row for
    every category, `as_json()` all that `vistool eval --json` prints. `failed` are the videos that
    the model could not be run on, and `warnings` tells what is odd about the predictions.

    >>> scores = vistool.evaluate("valid.json", predictions="results.json")
    >>> scores
    <Evaluation: 1 videos, 3 tracks, AP 1.000, HOTA 1.000>
    >>> scores.report("scores", exist_ok=True).name
    'report.html'
    """

    def report(self, folder: str | Path, *, exist_ok: bool = False) -> Path:
        """Write what the command writes: metrics.json, tables, figures and report.html.

        Args: exist_ok: write into a folder that is there already.
        Returns: the path of report.html.
        Raises: UsageError if the folder is there already; DataError if it is a file.
        """
        folder = Path(folder)
        if folder.is_dir() and any(folder.iterdir()) and not exist_ok:
            raise UsageError(
                f"{folder}: is there already, and not empty",
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
    """Score saved predictions, or run a model and score what it predicts, as `vistool eval` does.

    >>> scores = vistool.evaluate("valid.json", predictions="results.json")
    >>> scores.ytvis.AP, scores.hota.HOTA, scores.identity.switches
    (1.0, 1.0, 0)

    Args:
        dataset: a YouTube-VIS or COCO file, or a folder: of one of these, of DAVIS or of MOTS.
        predictions: a results file, a zip of one, a run's folder, or a folder of DAVIS or MOTS.
        model: the name of released weights, a weight file or a loaded model, to run first.
        frames: the folder that file names are relative to; None: the one they are found in.
        conf: tracks that score less are left out.
        davis: measure DAVIS's J and F; None: on DAVIS, and where it does not take long.
        output: below it, a model's run is saved; the same call again goes on where it stopped.

    Raises: DataError that lists all that is wrong with the predictions; UsageError unless either
        predictions or a model are given.
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
            "only the first process of torchrun has the numbers", hint="use `vistool eval` there"
        )
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a job has left."""

    evaluation: Evaluation | None = None  # None: no labels, or another process of torchrun has it
    folder: Path | None = None  # with the numbers
    submission: Path | None = None
    failed: tuple[str, ...] = ()  # videos that could not be run


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalJob:
    """What to score, and what to write of it: `vistool eval` as a whole."""

    dataset: Path
    predictions: Path | None = None  # either these or a model
    model: str | LoadedModel | None = None
    frames: Path | None = None
    config: EvalConfig
    davis: bool | None = None  # None: where it does not take long
    output: Path = RUNS
    write: bool = True  # the numbers, into a folder below `output`
    report: bool = True  # with page, figures and tables of errors
    submission: Path | None = None  # a zip for a server; not written if a video failed
    # Write the numbers of saved predictions into a folder that is there, replace a submission.
    exist_ok: bool = False

    def run(
        self,
        on_progress: OnProgress = silent,
        on_message: Callable[[str], None] = lambda text: None,
    ) -> Outcome:
        """Make or read predictions, score them and write what is wanted.

        Args: on_message: told warnings, and what went wrong with single videos.
        Raises: DataError, UsageError, WeightsError.
        """
        if self.submission:
            check_submission(self.submission, exist_ok=self.exist_ok)
        saved = [self.predictions] if self.predictions else []
        dataset, key = open_dataset(self.dataset, *saved, frames=self.frames)
        found = self._predictions(dataset, key, on_progress)
        if found is None:
            return Outcome()
        failed = tuple(video.name for video in dataset.videos if video.id in found.failed)
        for name, why in zip(failed, found.failed.values(), strict=True) if self.model else ():
            on_message(f"error: {name}: {why}")
        for warning in found.warnings:
            on_message(f"warning: {warning}")
        if self.submission:
            if failed:
                return Outcome(failed=failed)
            write_submission(self.submission, found)
            if not dataset.tracks:
                return Outcome(submission=self.submission)
        result = measure(dataset, found, self.config, davis=self.davis, on_progress=on_progress)
        folder = self._write(result) if self.write else None
        return Outcome(evaluation=result, folder=folder, submission=self.submission, failed=failed)

    def _predictions(
        self, dataset: DataSet, key: str, on_progress: OnProgress
    ) -> Predictions | None:
        conf = self.config.conf
        if self.predictions:
            found = read_predictions(self.predictions, dataset, key, on_progress=on_progress)
            return found.above(conf)
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
    """Measure all there is to measure.

    Args: davis: J and F too, which takes longer than all the rest; None: where it does not.
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
    boundaries = _boundaries_wanted(dataset, config, davis)
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
        dataset=dataset,
        source=predictions,
        scored=scored,
        ap=result,
        outcomes=ap.outcomes(),
        hota_counts=TrackingResult(tuple(hota)),
        identity_counts=TrackingResult(tuple(identity)),
        objects=DavisResult(tuple(followed)) if boundaries else None,
        breakdown=breakdown,
        diagnosis=diagnosis,
        seconds=clock.total(),
    )


def _boundaries_wanted(dataset: DataSet, config: EvalConfig, asked: bool | None) -> bool:
    """Whether to measure J and F: as asked, else on DAVIS and where it does not take long."""
    if asked is not None or dataset.class_agnostic:
        return asked is not False
    masks = sum(mask is not None for track in dataset.tracks for mask in track.segmentations)
    return masks <= config.davis_masks


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
