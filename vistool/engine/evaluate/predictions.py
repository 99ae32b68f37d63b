"""Predictions on a data set: read, checked, traced to their source, and packed for a server."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from vistool.annotations.dataset import DataSet
from vistool.annotations.predicted_masks import read_predicted_masks, with_predicted_lengths
from vistool.annotations.problems import refuse_all
from vistool.annotations.read import read_dataset
from vistool.annotations.results_check import check_results
from vistool.errors import UsageError
from vistool.formats.files import (
    atomic_path,
    encode_json,
    new_run_folder,
    numbered,
    read_file,
    read_json,
    refuse_existing,
    sha256_of,
)
from vistool.formats.names import as_file_name
from vistool.formats.results.files import RESULTS, write_results
from vistool.progress import OnProgress, silent
from vistool.structures import TrackSegmentation

RUN = "run.json"
VIDEOS, FAILURE = "videos", "error.txt"  # in a run folder; in a video's folder
SUBMISSION = ".zip"


class MatchedClass(msgspec.Struct, frozen=True):
    """A class of a model and the categories of a data set that it stands for."""

    name: str
    id: int  # in the model's own results
    category_ids: tuple[int, ...]  # ascending; empty: the data set has none of them

    @property
    def target(self) -> int:
        """The category id that predictions of the class get."""
        return self.category_ids[0]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """run.json: the inputs of a folder's predictions; other inputs get another folder."""

    data: str  # SHA-256 of the annotation file; for a folder, its path
    model: str  # name
    sha256: str  # of the weight file
    settings: dict[str, Any]
    multi_class: bool
    classes: tuple[MatchedClass, ...]
    version: str = ""  # of vistool: predictions may differ between versions


@dataclass(frozen=True, slots=True)
class Predictions:
    """Checked predictions and where they come from."""

    path: Path
    data: str  # identifies the data set that they were checked against, as in `Run`
    results: Sequence[TrackSegmentation]
    run: Run | None = None  # None: not made by `vistool eval`, or on another data set
    warnings: tuple[str, ...] = ()
    failed: Mapping[int, str] = field(default_factory=dict)  # video id -> why it was not run
    conf: float = 0.0  # lower-scoring predictions were left out

    def above(self, conf: float) -> Predictions:
        """The predictions with a score of at least `conf`."""
        if conf <= self.conf:
            return self
        return replace(self, results=[r for r in self.results if r["score"] >= conf], conf=conf)

    def source(self) -> dict[str, Any]:
        """Files and model of the predictions, with checksums."""
        source: dict[str, Any] = {
            "predictions": {
                "path": str(self.path),
                "sha256": _file_key(self.path),
                "conf": self.conf,
            }
        }
        if self.run:
            source["model"] = {
                "name": self.run.model,
                "sha256": self.run.sha256,
                "settings": self.run.settings,
                "multi_class": self.run.multi_class,
            }
        if self.failed:
            source["failed_videos"] = {str(id_): why for id_, why in self.failed.items()}
        return source


def open_dataset(path: Path, *predictions: Path, frames: Path | None = None) -> tuple[DataSet, str]:
    """A data set with its labels, and a key that changes with the annotation file.

    Args:
        predictions: to be scored; a video whose length is not known gets theirs.
        frames: as for `read_dataset`.

    Raises: DataError.
    """
    dataset = read_dataset(path, frames=frames)
    key = _file_key(dataset.path)
    for file in predictions:
        dataset = with_predicted_lengths(dataset, file)
    return dataset, key


def read_predictions(
    path: Path, dataset: DataSet, data_key: str, *, on_progress: OnProgress = silent
) -> Predictions:
    """Read and check predictions: a results file, a zip of one, or a folder.

    A folder holds the results.json of an earlier run, or masks in the form of DAVIS or MOTS. For
    predictions made by `vistool eval`, the model's classes and the failed videos are read, too.

    Raises: DataError that lists all faults.
    """
    if path.is_dir() and not (path / RESULTS).is_file():
        masks = read_predicted_masks(path, dataset, on_progress=on_progress)
        refuse_all(masks.problems)
        return Predictions(path, data_key, masks.results, None, tuple(map(str, masks.problems)))
    file = path / RESULTS if path.is_dir() else path
    checked = check_results(file, dataset, on_progress=on_progress)
    refuse_all(checked.problems)
    warnings = [str(problem) for problem in checked.problems]
    run = _read_run(file.parent) if file.name == RESULTS else None
    if run is not None and run.data != data_key:
        warnings.append(
            f"{file}: made on a different version of the data set; categories are not merged"
        )
        run = None
    failed = noted_failures(file.parent, (video.id for video in dataset.videos)) if run else {}
    return Predictions(file, data_key, checked.results, run, tuple(warnings), failed)


def check_submission(path: Path, *, exist_ok: bool) -> None:
    """Raises: UsageError if the path does not end in .zip, or exists already."""
    if path.suffix.lower() != SUBMISSION:
        raise UsageError(f"{path}: servers take a {SUBMISSION}")
    refuse_existing(path, exist_ok=exist_ok)


def write_submission(path: Path, predictions: Predictions) -> None:
    """Write a zip with results.json at its top level."""
    results = path.with_name(f".{path.stem}-{RESULTS}")
    try:
        write_results(results, predictions.results)
        with (
            atomic_path(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            archive.write(results, RESULTS)
    finally:
        results.unlink(missing_ok=True)


# --- folders --------------------------------------------------------------------------------------


def folder_of_run(predictions: Predictions) -> Path:
    """The folder for the scores of a model's run: the run's own, or one below it for a `conf`."""
    run = predictions.path.parent
    return run / f"conf-{predictions.conf:g}" if predictions.conf else run


def new_folder(
    predictions: Predictions, dataset: DataSet, parent: Path, *, exist_ok: bool = False
) -> Path:
    """A new folder for the scores of saved predictions."""
    stem = predictions.path.stem
    if stem == Path(RESULTS).stem:  # every run has that name
        stem = predictions.path.resolve().parent.name
    name = name_of(dataset)
    # The folder of a model's run has the name of the data set already.
    stem = stem if stem.startswith(f"{name}-") else f"{name}-{stem}"
    return new_run_folder(parent, stem, exist_ok=exist_ok)


def name_of(dataset: DataSet) -> str:
    """The data set's name in run folders: its folder, and the stem of its annotation file."""
    path = dataset.path.resolve()
    return f"{path.parent.name}-{path.stem}" if path.is_file() else path.name


def run_folder(parent: Path, stem: str, run: Run) -> Path:
    """The folder that holds this run already, or else the first free one of stem, stem-2..."""
    for name in numbered(as_file_name(stem)):
        folder = parent / name
        if folder.is_dir() and _read_run(folder) == run:
            return folder
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            with atomic_path(folder / RUN) as temporary:
                temporary.write_bytes(encode_json(run, indented=True) + b"\n")
            return folder
    raise AssertionError("unreachable")


def video_folder(folder: Path, video_id: int) -> Path:
    """The folder of one video's results in a run."""
    return folder / VIDEOS / str(video_id)


def noted_failures(folder: Path, video_ids: Iterable[int]) -> dict[int, str]:
    """Why videos could not be run, by video id."""
    notes = {id_: video_folder(folder, id_) / FAILURE for id_ in video_ids}
    return {
        id_: read_file(note).decode(errors="replace").strip()
        for id_, note in notes.items()
        if note.exists()
    }


def _read_run(folder: Path) -> Run | None:
    """The run.json of a folder; None if there is none. Raises: DataError."""
    path = folder / RUN
    return read_json(path, Run) if path.exists() else None


def _file_key(path: Path) -> str:
    """SHA-256 of a file; for a folder, its path."""
    return sha256_of(path) if path.is_file() else str(path.resolve())
