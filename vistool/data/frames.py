"""Frames that belong to a new annotation file: referenced where they lie, or brought along."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path, PurePath

from vistool.errors import DataError
from vistool.formats.dataset import DataSet, frame_file
from vistool.progress import OnProgress, silent

PLACE = "JPEGImages"  # below the new annotation file


def bring_frames(
    dataset: DataSet, folder: Path, on_progress: OnProgress = silent
) -> tuple[DataSet, int]:
    """The data set with file names relative to `folder`, and how many files are not there.

    Frames below `folder` stay where they are. Others get a second name (a hard link; a copy where
    the disk cannot do that) in `folder`/JPEGImages, since file names never lead out of a data set.

    Raises: DataError for a file name that does.
    """
    inside = dataset.frames.resolve().is_relative_to(folder.resolve())
    prefix = dataset.frames.resolve().relative_to(folder.resolve()) if inside else Path(PLACE)
    total = sum(len(video.file_names) for video in dataset.videos)
    missing = done = 0
    videos = []
    for video in dataset.videos:
        for name in video.file_names:
            source = frame_file(dataset.frames, name)
            if ".." in PurePath(name).parts:  # inside by a link, perhaps, that the copy has not
                raise DataError(f"file name {name!r} leads out of the folder {folder / PLACE}")
            missing += not source.is_file()
            if not inside and source.is_file():
                link_or_copy(source, folder / PLACE / name)
            done += 1
            on_progress("bringing frames", done, total)
        names = tuple((prefix / name).as_posix() for name in video.file_names)
        videos.append(replace(video, file_names=names))
    return replace(dataset, frames=folder, videos=tuple(videos)), missing


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it to another disk; what stood at `target` is replaced."""
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{secrets.token_hex(8)}.part{target.suffix}")
    try:
        try:
            os.link(source.resolve(), temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
