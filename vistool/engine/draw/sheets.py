"""Visualize labelled videos as contact sheets; functions shared by all figures. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vistool.annotations.dataset import (
    AnnotatedTrack,
    AnnotatedVideo,
    DataSet,
    frame_file,
    group_tracks,
    other_size,
)
from vistool.annotations.read import read_dataset
from vistool.config import OverlayStyle
from vistool.errors import UsageError, first_few
from vistool.formats.files import atomic_path, refuse_existing
from vistool.formats.masks.rle import decode_mask
from vistool.formats.video.frame_files import read_frame
from vistool.rendering.contact_sheet import SheetRow, contact_sheet, fitting
from vistool.rendering.overlay import as_png, draw_tracks
from vistool.structures import Instance, Size, Track

STYLE = OverlayStyle(alpha=0.4, scores=False)
COLUMNS = 6  # pictures in a row: frames of a labelled video, or of results
SHEET_SUFFIXES = (".png", "")  # a path without suffix is a folder
NAMED = 4  # classes in a title, at most


@dataclass(frozen=True, slots=True)
class Sheet:
    """The rows of a contact sheet, and its title."""

    heading: str
    rows: tuple[SheetRow, ...]


def listed(names: Sequence[str], everything: Sequence[str]) -> str:
    """Some names for a title.

    >>> listed(["cat"], ["cat", "dog"]), listed(["cat"], ["cat"]), listed([], ["cat"])
    ('cat', 'all classes', 'no class')
    """
    if not names:
        return "no class"
    if len(names) == len(everything):
        return "all classes"
    return ", ".join(first_few(names, NAMED))


def dataset_sheet(
    path: Path, *, videos: Sequence[str] = (), count: int = 8, seed: int | None = None
) -> Sheet:
    """A contact sheet of labelled pictures or videos with their masks.

    Args:
        videos: names or ids of videos to show; empty: the first `count`.
        seed: show `count` random videos instead of the first.

    Raises: DataError for a data set that cannot be read, UsageError for a video that is not in it.
    """
    dataset = read_dataset(path)
    tracks = group_tracks(dataset.tracks)
    chosen = _chosen(dataset, videos, count, seed)
    return Sheet(
        f"{dataset.path.name}: {len(chosen)} of {len(dataset.videos)}",
        tuple(_dataset_row(dataset, video, tracks[video.id]) for video in chosen),
    )


def _chosen(
    dataset: DataSet, wanted: Sequence[str], count: int, seed: int | None
) -> list[AnnotatedVideo]:
    if wanted:
        known = {video.name: video for video in dataset.videos}
        known |= {str(video.id): video for video in dataset.videos}
        for name in wanted:
            if name not in known:
                raise UsageError(
                    f"{dataset.path}: no video {name!r} in it",
                    hint=f"there are {', '.join(v.name for v in dataset.videos[:8])}...",
                )
        return [known[name] for name in wanted]
    if seed is None:
        return list(dataset.videos[:count])
    order = np.random.default_rng(seed).permutation(len(dataset.videos))[:count]
    return [dataset.videos[i] for i in sorted(order.tolist())]


def _dataset_row(dataset: DataSet, video: AnnotatedVideo, tracks: list[AnnotatedTrack]) -> SheetRow:
    names = {category.id: category.name for category in dataset.categories}
    frames = regular_frames(video.length, COLUMNS)
    files = [frame_file(dataset.frames, name) for name in video.file_names]
    pictures = []
    for frame in frames:
        drawn = [
            Instance(Track(n, track.category_id, _track_name(names, track), 1.0), rle)
            for n, track in enumerate(tracks, start=1)
            if (rle := track.segmentations[frame]) is not None
        ]
        pictures.append(drawn_small(_read(files, frame, video.size), drawn))
    labelled = [names[i] for i in sorted(video.exhaustive_ids & names.keys())]
    complete = list(names.values()) if video.exhaustive else labelled
    return SheetRow(
        f"{video.id} {video.name}: {counted(video.length, 'frame')}, "
        f"{counted(len(tracks), 'instance')}",
        f"labels are complete for {listed(complete, list(names.values()))}",
        pictures,
        [f"frame {frame}" for frame in frames] if video.length > 1 else [],
    )


def drawn_small(image: np.ndarray, instances: Sequence[Instance]) -> np.ndarray:
    """A frame [H, W, 3] at the size of a sheet, with tracks and readable labels drawn on it."""
    small = fitting(image)
    size = (small.shape[1], small.shape[0])
    tracks = [instance.track for instance in instances]
    masks = (decode_mask(instance.segmentation).view(np.uint8) for instance in instances)
    shrunk = (cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) > 0 for mask in masks)
    return draw_tracks(small, tracks, shrunk, STYLE)


def counted(number: int, thing: str) -> str:
    """A number and its noun, in the plural where needed.

    >>> counted(1, "frame"), counted(2, "frame")
    ('1 frame', '2 frames')
    """
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _track_name(names: dict[int, str], track: AnnotatedTrack) -> str:
    name = names.get(track.category_id, f"category {track.category_id}")
    return f"crowd of {name}" if track.is_crowd else name


def _read(files: Sequence[Path], frame: int, size: Size) -> np.ndarray:
    """[H, W, 3] uint8 RGB. Raises: DataError."""
    image = read_frame(files, frame)
    if image.shape[:2] != size:
        raise other_size(files[frame], Size(*image.shape[:2]), size)
    return image


def regular_frames(length: int, count: int) -> list[int]:
    """Frame positions at regular distances, the first and the last included.

    >>> regular_frames(11, 3), regular_frames(2, 3), regular_frames(5, 1)
    ([0, 5, 10], [0, 1], [2])
    """
    if count == 1:
        return [length // 2]
    return sorted({round(step) for step in np.linspace(0, length - 1, min(count, length))})


def require_suffix(output: Path, *suffixes: str) -> None:
    """Raises: UsageError if the output does not have one of the suffixes."""
    if output.suffix.lower() not in suffixes:
        forms = " or ".join(suffix or "a folder" for suffix in suffixes)
        raise UsageError(f"{output}: this figure can be written as {forms}")


def save_sheet(sheet: Sheet, output: Path, *, exist_ok: bool = False) -> list[Path]:
    """Write one PNG; if `output` has no suffix, write one PNG per row into that folder.

    Args: exist_ok: replace existing pictures.
    Raises: UsageError for another suffix, or if a picture exists already.
    """
    require_suffix(output, *SHEET_SUFFIXES)
    if output.suffix:
        refuse_existing(output, exist_ok=exist_ok)
        return [save_picture(contact_sheet(sheet.rows, sheet.heading), output)]
    places = [output / f"{number:04}.png" for number in range(len(sheet.rows))]
    for place in places:
        refuse_existing(place, exist_ok=exist_ok)
    return [
        save_picture(contact_sheet([row]), place)
        for row, place in zip(sheet.rows, places, strict=True)
    ]


def save_picture(picture: np.ndarray, output: Path) -> Path:
    """Write [H, W, 3] uint8 RGB as PNG."""
    with atomic_path(output) as temporary:
        temporary.write_bytes(as_png(picture))
    return output
