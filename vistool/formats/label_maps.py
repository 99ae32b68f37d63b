"""Pictures whose pixels are the ids of objects: what DAVIS and MOTS keep their masks in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from vistool.errors import DataError
from vistool.formats.atomic import atomic_path
from vistool.formats.dataset import AnnotatedVideo
from vistool.formats.names import as_file_name
from vistool.formats.pictures import open_picture
from vistool.formats.rle import area, decode_mask, encode_runs
from vistool.formats.video import IMAGE_SUFFIXES
from vistool.structures import RLE, Size

MAX_RUNS = 1 << 22  # along the columns of a picture


def read_label_map(path: Path) -> np.ndarray:
    """[H, W] ids of a PNG: palette indices, or grey values of 8 or 16 bits.

    A colour picture, as a few in DAVIS 2016 are, has 255 wherever it is bright. Raises: DataError.
    """
    with open_picture(path) as image:
        if image.mode in ("P", "L", "1", "I", "I;16"):
            labels = np.asarray(image)
        else:
            labels = np.where(np.asarray(image.convert("L")) > 127, np.uint8(255), np.uint8(0))
    runs = np.count_nonzero(labels[1:] != labels[:-1])
    if runs > MAX_RUNS:  # their codes would take far more memory than the picture
        raise DataError(f"{path}: {runs} runs of one id: noise, not labels")
    return labels


def write_label_map(path: Path, labels: np.ndarray, palette: Sequence[int] | None = None) -> None:
    """Write ids as PNG: with a palette as its indices, up to 255; without as 16-bit grey."""
    image = Image.fromarray(labels.astype(np.uint16 if palette is None else np.uint8))
    if palette is not None:
        image.putpalette(palette)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def masks_of(labels: np.ndarray) -> dict[int, RLE]:
    """The mask of every id but 0. Work and memory go with pixels and runs, however many ids."""
    column_by_column = labels.ravel(order="F")
    changes = np.flatnonzero(column_by_column[1:] != column_by_column[:-1]) + 1
    edges = np.concatenate([[0], changes, [column_by_column.size]])
    run_ids = column_by_column[edges[:-1]]
    order = np.argsort(run_ids, kind="stable")
    ids, firsts = np.unique(run_ids[order], return_index=True)
    runs_of = zip(ids.tolist(), np.split(order, firsts[1:]), strict=True)
    return {
        id_: encode_runs(np.stack([edges[runs], edges[runs + 1]], axis=1), Size(*labels.shape))
        for id_, runs in runs_of
        if id_ != 0
    }


def masks_of_file(path: Path) -> dict[int, RLE] | str:
    """The mask of every id in a label picture, or why it cannot be read."""
    try:
        return masks_of(read_label_map(path))
    except DataError as error:
        return str(error)


def painted(masks: Iterable[tuple[int, RLE]], size: Size) -> tuple[np.ndarray, int]:
    """[H, W] ids, and how many pixels lie in several masks: the smaller one covers the larger."""
    labels = np.zeros(size, np.uint16)
    overlapping = 0
    for id_, rle in sorted(masks, key=lambda item: -area(item[1])):
        mask = decode_mask(rle)
        overlapping += int((labels[mask] != 0).sum())
        labels[mask] = id_
    return labels, overlapping


def folder_names(videos: Sequence[AnnotatedVideo]) -> dict[int, str]:
    """A folder name for every video id: of its name what every system takes, no two alike."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    for video in videos:
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in video.name)
        plain = as_file_name(plain, instead=str(video.id))
        name, number = plain, 2
        while name.casefold() in taken:
            name, number = f"{plain}-{number}", number + 1
        taken.add(name.casefold())
        names[video.id] = name
    return names


def suffix_of(video: AnnotatedVideo) -> str:
    """Of the picture files of a video."""
    stated = PurePosixPath(video.file_names[0]).suffix if video.file_names else ""
    return stated if stated.lower() in IMAGE_SUFFIXES else ".jpg"
