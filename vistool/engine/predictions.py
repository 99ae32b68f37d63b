"""What is scored: a data set, and predictions on it that a file holds or a model has just made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vistool.engine.run_record import PredictedSet, Run, file_key, noted_failures, read_run
from vistool.formats.dataset import DataSet
from vistool.formats.detect import read_dataset
from vistool.formats.predicted_masks import read_predicted_masks, with_predicted_lengths
from vistool.formats.problems import refuse_all
from vistool.formats.results import RESULTS, new_run_folder
from vistool.formats.results_check import check_results
from vistool.progress import OnProgress, silent
from vistool.structures import TrackSegmentation


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


def open_dataset(path: Path, *predictions: Path, frames: Path | None = None) -> tuple[DataSet, str]:
    """A data set with its labels, and a key that tells this state of it from another.

    Args:
        predictions: that will be scored; they tell how long a video is where nothing else does.
        frames: as `read_dataset` takes them.

    Raises: DataError.
    """
    dataset = read_dataset(path, frames=frames)
    key = file_key(dataset.path)
    for file in predictions:
        dataset = with_predicted_lengths(dataset, file)
    return dataset, key


def read_predictions(
    path: Path, dataset: DataSet, data_key: str, *, on_progress: OnProgress = silent
) -> Predictions:
    """Read and check predictions: a results file, a zip of one, or a folder.

    A folder holds results.json, as of an earlier run, or masks in the form of DAVIS or MOTS. Where
    `vistool eval` made the predictions, what it knows of the model's classes comes along, and which
    videos it could not run.

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
    failed = noted_failures(file.parent, (video.id for video in dataset.videos)) if run else {}
    return Predictions(file, checked.results, run, tuple(warnings), failed)


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


def folder_of_run(predictions: Predictions) -> Path:
    """Where the numbers of a run just made go; the run's own are those of all its tracks."""
    run = predictions.path.parent
    return run / f"conf-{predictions.conf:g}" if predictions.conf else run


def new_folder(
    predictions: Predictions, dataset: DataSet, parent: Path, *, exist_ok: bool = False
) -> Path:
    """A new folder for the numbers of saved predictions."""
    stem = predictions.path.stem
    if stem == Path(RESULTS).stem:  # all of them are called so
        stem = predictions.path.resolve().parent.name
    return new_run_folder(parent, f"{dataset.path.stem}-{stem}", exist_ok=exist_ok)
