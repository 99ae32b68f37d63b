"""Annotated pictures and videos in one form, whatever files they come from; a picture is a video
of one frame. Sizes and masks are of pictures as displayed, turned by their EXIF orientation."""

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
# One value a frame; None: the file has none there.
StatedBoxes = tuple[tuple[float, ...] | None, ...]  # left, top, width, height in pixels


@dataclass(frozen=True, slots=True)
class AnnotatedVideo:
    """Frames of one size."""

    id: int
    name: str
    size: Size
    length: int  # frames
    file_names: tuple[str, ...]  # relative to the data set's frames; empty: not known
    exhaustive: bool = True  # is every instance of every category labelled?
    exhaustive_ids: frozenset[int] = frozenset()  # if not: the categories of which every one is


@dataclass(frozen=True, slots=True)
class AnnotatedTrack:
    """One instance over the frames of its video; its masks are safe to decode."""

    video_id: int
    category_id: int
    segmentations: Sequence[RLE | None]  # one a frame; None: not visible
    is_crowd: bool = False  # a group: it need not be found, and finding it is no mistake
    areas: tuple[float | None, ...] | None = None  # pixels, as the file states them
    boxes: StatedBoxes | None = None  # likewise
    occlusion: Sequence[str | None] | None = None  # OVIS: no_, slight_ or severe_occlusion
    outlines: Outlines | None = None  # where the file has polygons, and they were asked for
    id: int = 0  # of the annotation


@dataclass(frozen=True, slots=True)
class DataSet:
    """Videos, what is labelled in them, and what the labels mean."""

    kind: Kind
    path: Path  # the file or folder it was read from
    frames: Path  # the folder that file names are relative to, and that they may not leave
    categories: tuple[Category, ...]
    videos: tuple[AnnotatedVideo, ...]
    tracks: tuple[AnnotatedTrack, ...]

    @property
    def class_agnostic(self) -> bool:
        """Whether objects have no category in its files; all are category 1."""
        return self.kind == "davis"


def group_tracks(tracks: Iterable[AnnotatedTrack]) -> Mapping[int, list[AnnotatedTrack]]:
    """The tracks of every video id, in their order; an empty list for a video without any."""
    by_video: dict[int, list[AnnotatedTrack]] = defaultdict(list)
    for track in tracks:
        by_video[track.video_id].append(track)
    return by_video


def frame_file(frames: Path, name: str) -> Path:
    """The file of a frame.

    Neither `..` nor an absolute name nor a symbolic link may lead out of the folder; the folder
    itself may be a link. Raises: DataError, also for a name that no disk can have.
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
    """Of a picture that is not as large as its annotations say."""
    hint = ""
    if displayed == (stated.width, stated.height):
        hint = "pictures are read as displayed, turned by their EXIF orientation: "
        hint += "sizes and masks have to be of that"
    return DataError(
        f"{file}: is {displayed.width}x{displayed.height}, but its annotations say "
        f"{stated.width}x{stated.height}",
        hint=hint,
    )


@lru_cache(maxsize=4096)
def _resolved(folder: Path) -> Path:
    """Folders hold many frames, and every step of a path is a question to the disk."""
    return folder.resolve()
