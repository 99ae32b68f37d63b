"""Convert data sets from one kind to another; frames are linked or referenced."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Literal

from vistool.annotations.dataset import DataSet, Kind, frame_file
from vistool.annotations.davis import write_davis
from vistool.annotations.mots import write_mots
from vistool.annotations.read import read_dataset
from vistool.annotations.youtube_vis import write_youtube_vis
from vistool.errors import DataError, UsageError
from vistool.formats.files import atomic_folder, atomic_path
from vistool.progress import OnProgress, silent

Target = Literal["youtube-vis", "davis", "mots"]
ANNOTATIONS = "instances.json"
PLACE = "JPEGImages"  # of frames, below a new annotation file


@dataclass(frozen=True, slots=True)
class Converted:
    """The result of a conversion, and what could not be kept."""

    path: Path  # the annotation file, or the folder
    kind: Kind  # of the source
    videos: int
    frames: int
    tracks: int
    missing_files: int  # frames whose files do not exist
    overlapping: int  # pixels of several masks that now belong to one only


def convert(
    source: Path,
    output: Path,
    target: Target,
    *,
    kind: Kind | None = None,
    frames: Path | None = None,
    on_progress: OnProgress = silent,
) -> Converted:
    """Read a data set of any kind and write it as another kind.

    Frames are hard-linked into the new set, or copied if it is on another disk. In YouTube-VIS
    form, frames that are already below the annotation file's folder stay where they are.

    Args:
        output: a new or empty folder; for YouTube-VIS also a new .json file.
        kind: of the source; None: any.

    Raises: DataError for a set that training would refuse, or of another kind; UsageError if
        `output` exists.
    """
    dataset = read_dataset(source, frames=frames, on_progress=on_progress)
    if kind not in (None, dataset.kind):
        raise DataError(
            f"{source}: is a {dataset.kind} set, not {kind}",
            hint=f"leave --from out, or write {dataset.kind}",
        )
    overlapping = 0
    if target == "youtube-vis":
        path = output if output.suffix == ".json" else output / ANNOTATIONS
        if path.exists():
            raise UsageError(f"{path}: exists already", hint="-o names another")
        moved, missing = bring_frames(dataset, path.parent, on_progress)
        write_youtube_vis(path, moved)
    else:
        path = output
        write = write_davis if target == "davis" else write_mots
        with _new_folder(output) as folder:
            places, overlapping = write(dataset, folder, on_progress)
            missing = _link_frames(dataset, folder, places, on_progress)
    return Converted(
        path=path,
        kind=dataset.kind,
        videos=len(dataset.videos),
        frames=sum(video.length for video in dataset.videos),
        tracks=len(dataset.tracks),
        missing_files=missing,
        overlapping=overlapping,
    )


def _link_frames(
    dataset: DataSet, folder: Path, places: dict[int, tuple[str, ...]], on_progress: OnProgress
) -> int:
    """Link or copy the frames to their places in `folder`. Returns: the number of missing files."""
    missing = done = 0
    total = sum(video.length for video in dataset.videos)
    for video in dataset.videos:
        names = video.file_names or [""] * video.length
        for name, place in zip(names, places[video.id], strict=True):
            file = frame_file(dataset.frames, name)
            if name and file.is_file():
                link_or_copy(file, folder / place)
            else:
                missing += 1
            done += 1
            on_progress("linking frames", done, total)
    return missing


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder that gets its name once it is complete. Raises: UsageError if the name is taken."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path}: exists already", hint="-o names another folder")
    with atomic_folder(path) as folder:
        yield folder


def bring_frames(
    dataset: DataSet, folder: Path, on_progress: OnProgress = silent
) -> tuple[DataSet, int]:
    """The data set with file names relative to `folder`, and the number of missing files.

    Frames below `folder` stay where they are. Others are linked (or copied, if linking fails) into
    `folder`/JPEGImages, because file names must not lead out of a data set.

    Raises: DataError for a file name that leads out.
    """
    inside = dataset.frames.resolve().is_relative_to(folder.resolve())
    prefix = dataset.frames.resolve().relative_to(folder.resolve()) if inside else Path(PLACE)
    total = sum(len(video.file_names) for video in dataset.videos)
    missing = done = 0
    videos = []
    for video in dataset.videos:
        for name in video.file_names:
            source = frame_file(dataset.frames, name)
            if ".." in PurePath(name).parts:  # inside only by a link that the copy may lack
                raise DataError(f"file name {name!r} leads out of the folder {folder / PLACE}")
            missing += not source.is_file()
            if not inside and source.is_file():
                link_or_copy(source, folder / PLACE / name)
            done += 1
            on_progress("linking frames", done, total)
        names = tuple((prefix / name).as_posix() for name in video.file_names)
        videos.append(replace(video, file_names=names))
    return replace(dataset, frames=folder, videos=tuple(videos)), missing


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if linking fails.

    Raises: UsageError if `target` exists with different content.
    """
    if target.exists():
        if target.samefile(source) or filecmp.cmp(source, target, shallow=False):
            return
        raise UsageError(
            f"{target}: is there already, and differs from {source}",
            hint="frames of another data set? choose another folder",
        )
    with atomic_path(target, lasting=False) as temporary:  # one of many
        try:
            os.link(source.resolve(), temporary)
        except OSError:
            shutil.copyfile(source, temporary)
