"""Annotated videos and pictures, independent of the file format; a picture is a video of one frame.

Sizes and masks are those of the displayed picture, turned by its EXIF orientation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

from vistool.errors import DataError
from vistool.formats.masks.annotated import Outlines
from vistool.formats.results.files import Category
from vistool.structures import RLE, Size

Kind = Literal["youtube-vis", "coco", "coco-video", "davis", "mots"]
# One value per frame; None: the file has no box there.
StatedBoxes = tuple[tuple[float, ...] | None, ...]  # left, top, width, height in pixels


@dataclass(frozen=True, slots=True)
class AnnotatedVideo:
    """A video, or a picture; all frames have the same size."""

    id: int
    name: str
    size: Size
    length: int  # frames
    file_names: tuple[str, ...]  # relative to the data set's frames; empty: not known
    exhaustive: bool = True  # is every instance of every category labelled?
    exhaustive_ids: frozenset[int] = frozenset()  # if not: categories whose instances all are


@dataclass(frozen=True, slots=True)
class AnnotatedTrack:
    """One instance over the frames of its video; its masks have been checked."""

    video_id: int
    category_id: int
    segmentations: Sequence[RLE | None]  # one per frame; None: not visible
    is_crowd: bool = False  # a group of objects; predictions on it are ignored in evaluation
    areas: tuple[float | None, ...] | None = None  # pixels, as stated in the file
    boxes: StatedBoxes | None = None  # as stated in the file
    occlusion: Sequence[str | None] | None = None  # OVIS: no_, slight_ or severe_occlusion
    outlines: Outlines | None = None  # polygons, if the file has them and they were requested
    id: int = 0  # of the annotation


@dataclass(frozen=True, slots=True)
class DataSet:
    """Videos with their tracks and categories."""

    kind: Kind
    path: Path  # the file or folder it was read from
    frames: Path  # the folder that file names are relative to and must not lead out of
    categories: tuple[Category, ...]
    videos: tuple[AnnotatedVideo, ...]
    tracks: tuple[AnnotatedTrack, ...]

    @property
    def class_agnostic(self) -> bool:
        """True if the files do not state categories; all objects then have category 1."""
        return self.kind == "davis"


def group_tracks(tracks: Iterable[AnnotatedTrack]) -> Mapping[int, list[AnnotatedTrack]]:
    """The tracks of every video id, in the given order; an empty list for other ids."""
    by_video: dict[int, list[AnnotatedTrack]] = defaultdict(list)
    for track in tracks:
        by_video[track.video_id].append(track)
    return by_video


def frame_file(frames: Path, name: str) -> Path:
    """The file of a frame.

    The name must not lead out of the folder `frames`, by `..`, as an absolute name or by a symbolic
    link; the folder itself may be a link. Raises: DataError, also for a name that is too long.
    """
    if PurePosixPath(name).is_absolute() or "\0" in name:
        raise DataError(f"file name {name!r} leads out of the data set's folder {frames}")
    file = frames / name
    try:
        inside = _resolved(file.parent).is_relative_to(_resolved(frames))
        if inside and (file.name == ".." or file.is_symlink()):
            inside = file.resolve().is_relative_to(_resolved(frames))
    except OSError as error:
        raise DataError(f"file name of {len(name)} characters: {error.strerror}") from None
    if not inside:
        raise DataError(
            f"file name {name!r} leads out of the data set's folder {frames}",
            hint="links that lead out are not followed: copy the frames into the folder, or name "
            "the folder that holds them",
        )
    return file


def other_size(file: Path, displayed: Size, stated: Size) -> DataError:
    """The error for a picture whose size differs from the one in its annotations."""
    hint = ""
    if displayed == (stated.width, stated.height):
        hint = "pictures are read as displayed, turned by their EXIF orientation: "
        hint += "sizes and masks must be those of the turned picture"
    return DataError(
        f"{file}: is {displayed.width}x{displayed.height}, but its annotations say "
        f"{stated.width}x{stated.height}",
        hint=hint,
    )


@lru_cache(maxsize=4096)
def _resolved(folder: Path) -> Path:
    """The folder's real path, cached: resolving reads the disk, and a folder has many frames."""
    return folder.resolve()
