"""What a folder of predictions was made of: model, settings, and what its classes stand for."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from vistool.errors import DataError
from vistool.formats.atomic import atomic_path
from vistool.formats.names import as_file_name

RUN = "run.json"
VIDEOS, FAILURE = "videos", "error.txt"  # in a run folder; of a video


class MatchedClass(msgspec.Struct, frozen=True):
    """A class of a model and the categories of a data set that it stands for."""

    name: str
    id: int  # in the model's own results
    category_ids: tuple[int, ...]  # rising; empty: the data set has none of them

    @property
    def target(self) -> int:
        """The category under which predictions of the class are written."""
        return self.category_ids[0]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """run.json: what a folder of predictions was made of; another run gets another folder."""

    data: str  # SHA-256 of the annotation file; of a folder, its path
    model: str  # name
    sha256: str  # of the weight file
    settings: dict[str, Any]
    multi_class: bool
    classes: tuple[MatchedClass, ...]
    version: str = ""  # of vistool: another one may predict otherwise


@dataclass(frozen=True, slots=True)
class PredictedSet:
    """What running a model over a data set left on disk."""

    folder: Path
    results: Path
    run: Run
    failed: Mapping[int, str]  # video id -> why
    left_out: int  # predictions of classes that the data set has no category for


def read_run(folder: Path) -> Run | None:
    """What a folder of predictions was made of; None if it is none. Raises: DataError."""
    path = folder / RUN
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: {error}") from None


def video_folder(folder: Path, video_id: int) -> Path:
    """Where a run keeps what `predict` leaves of one video."""
    return folder / VIDEOS / str(video_id)


def noted_failures(folder: Path, video_ids: Iterable[int]) -> dict[int, str]:
    """The videos that could not be run, with the reason."""
    notes = {id_: video_folder(folder, id_) / FAILURE for id_ in video_ids}
    return {id_: note.read_text().strip() for id_, note in notes.items() if note.exists()}


def run_folder(parent: Path, stem: str, run: Run) -> Path:
    """The folder that holds this run already, or the first free one of stem, stem-2..."""
    stem = as_file_name(stem)
    for number in count(1):
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        if folder.is_dir() and read_run(folder) == run:
            return folder
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            with atomic_path(folder / RUN) as temporary:
                temporary.write_bytes(msgspec.json.format(msgspec.json.encode(run)) + b"\n")
            return folder
    raise AssertionError("unreachable")


def file_key(path: Path) -> str:
    """SHA-256 of a file; of a folder, its path."""
    if not path.is_file():
        return str(path.resolve())
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
