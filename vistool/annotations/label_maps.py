"""Label pictures, whose pixels are object ids, as used by DAVIS and MOTS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from vistool.annotations.dataset import AnnotatedVideo
from vistool.errors import DataError
from vistool.formats.files import atomic_path, numbered
from vistool.formats.masks.rle import area, decode_mask, encode_runs
from vistool.formats.names import as_file_name
from vistool.formats.pictures import open_picture
from vistool.formats.video.sources import IMAGE_SUFFIXES
from vistool.structures import RLE, Size

INDEXED = ("P", "L", "LA", "1", "I", "I;16", "I;16B")  # Pillow's modes whose pixels are ids
MOST_COLOURS = 255
MAX_RUNS = 1 << 22  # along the columns of a picture


@dataclass(frozen=True, slots=True)
class LabelPicture:
    """The objects in one label picture."""

    size: Size
    masks: dict[int, RLE]  # by increasing id; in a colour picture by colour, in order of appearance
    is_colour: bool = False  # keys of `masks` are colours, red * 2**16 + green * 2**8 + blue
    palette: Mapping[int, int] = field(default_factory=dict)  # id -> colour, if there is a palette

    def masks_by(self, ids: Mapping[int, int]) -> dict[int, RLE]:
        """The masks by id. Args: ids: by colour; colours without an id are left out."""
        if not self.is_colour:
            return self.masks
        return {ids[colour]: mask for colour, mask in self.masks.items() if colour in ids}


def read_label_picture(path: Path) -> LabelPicture:
    """The masks in a picture of palette indices, grey values of 8 or 16 bits, or colours.

    Black is background. Transparency is ignored. Raises: DataError, also for more than 255 colours.
    """
    with open_picture(path) as image:
        is_colour = image.mode not in INDEXED
        if image.mode == "LA":
            labels = np.asarray(image.getchannel("L"))
        elif is_colour:
            red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int32), 2, 0)
            labels = red << 16 | green << 8 | blue
        else:
            labels = np.asarray(image)
        colours = image.getpalette("RGB") if image.mode == "P" else None
    ids, first = np.unique(labels, return_index=True)
    if is_colour:
        ids = ids[np.argsort(first)]
        _refuse_too_many(int(np.count_nonzero(ids)), path)
    runs = np.count_nonzero(labels[1:] != labels[:-1])
    if runs > MAX_RUNS:  # their codes would need far more memory than the picture
        raise DataError(f"{path}: {runs} runs of one id: noise, not labels")
    masks = masks_of(labels)
    ordered = {id_: masks[id_] for id_ in ids.tolist() if id_ in masks}
    codes = dict(enumerate(_codes(colours or [])))
    shown = {id_: codes[id_] for id_ in ordered if id_ in codes}
    return LabelPicture(Size(*labels.shape), ordered, is_colour, shown)


def ids_of_colours(pictures: Iterable[tuple[Path, LabelPicture]]) -> dict[int, int]:
    """The id of every colour in the pictures of a sequence.

    Colours of the DAVIS palette have their index in it, grey values their brightness. Otherwise,
    colours are numbered from 1 in order of appearance.

    Raises: DataError with the file for more than 255 colours, if some pictures have other colours
        and some have ids, or for a palette in another order than that of an earlier picture.
    """
    pictures = list(pictures)
    _refuse_other_order(pictures)
    first: dict[int, Path] = {}  # by colour: the first file that has it
    of_ids = None
    for path, picture in pictures:
        if picture.is_colour:
            for colour in picture.masks:
                first.setdefault(colour, path)
            _refuse_too_many(len(first), path)
        elif picture.masks:
            of_ids = path
    known = {code: id_ for id_, code in reversed(list(enumerate(_codes(palette()))))}
    if first.keys() <= known.keys():
        return {colour: known[colour] for colour in first}
    if all(colour % 0x010101 == 0 for colour in first):
        return {colour: colour & 255 for colour in first}
    if of_ids:
        own = next(colour for colour in first if colour not in known)
        raise DataError(
            f"{first[own]}: has colours as #{own:06x}, but {of_ids.name} has ids; "
            "all pictures of a sequence must have the same form"
        )
    return {colour: id_ for id_, colour in enumerate(first, start=1)}


def _refuse_too_many(colours: int, path: Path) -> None:
    if colours > MOST_COLOURS:
        raise DataError(
            f"{path}: more than {MOST_COLOURS} colours up to here; labels must have one colour per "
            "object, as PNG without smooth edges, not as JPEG"
        )


def palette() -> list[int]:
    """[768]: red, green and blue of each of the 256 ids; the colours are those of PASCAL VOC."""
    colours = []
    for id_ in range(256):
        for channel in range(3):
            bits = [id_ >> (3 * i + channel) & 1 for i in range(3)]
            colours.append(sum(bit << (7 - i) for i, bit in enumerate(bits)))
    return colours


def _refuse_other_order(pictures: Iterable[tuple[Path, LabelPicture]]) -> None:
    """Raises: DataError if a colour is one id here and another there, as of optimised palettes."""
    known: dict[int, tuple[int, Path]] = {}  # by colour
    for path, picture in pictures:
        codes = list(picture.palette.values())
        for id_, code in picture.palette.items():
            earlier, where = known.setdefault(code, (id_, path))
            if earlier != id_ and codes.count(code) == 1:
                raise DataError(
                    f"{path}: its palette has #{code:06x} as id {id_}, that of {where.name} as id "
                    f"{earlier}; label pictures of a sequence have one palette, or are in colour"
                )


def _codes(colours: Sequence[int]) -> list[int]:
    """Red, green, blue, red... as one number for each colour."""
    return [
        colours[i] << 16 | colours[i + 1] << 8 | colours[i + 2] for i in range(0, len(colours), 3)
    ]


def write_label_map(path: Path, labels: np.ndarray, palette: Sequence[int] | None = None) -> None:
    """Write ids as PNG: as palette indices (up to 255), or without a palette as 16-bit grey."""
    image = Image.fromarray(labels.astype(np.uint16 if palette is None else np.uint8))
    if palette is not None:
        image.putpalette(palette)
    with atomic_path(path, lasting=False) as temporary:  # one of many
        image.save(temporary, format="PNG")


def masks_of(labels: np.ndarray) -> dict[int, RLE]:
    """The mask of every id except 0; time and memory do not depend on the number of ids."""
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


def label_picture_or_reason(path: Path) -> LabelPicture | str:
    """The result of `read_label_picture`, or the message of its error."""
    try:
        return read_label_picture(path)
    except DataError as error:
        return str(error)


def masks_of_file(path: Path) -> dict[int, RLE] | str:
    """The mask of every id in a label picture, or a message if it is unreadable or in colours."""
    picture = label_picture_or_reason(path)
    if isinstance(picture, str):
        return picture
    if picture.is_colour:
        return f"{path}: a colour picture instead of ids as 16-bit grey values"
    return picture.masks


def painted(masks: Iterable[tuple[int, RLE]], size: Size) -> tuple[np.ndarray, int]:
    """The ids [H, W] of masks drawn over each other, smaller masks over larger ones.

    Returns: also the number of pixels in more than one mask.
    """
    labels = np.zeros(size, np.uint16)
    overlapping = 0
    for id_, rle in sorted(masks, key=lambda item: -area(item[1])):
        mask = decode_mask(rle)
        overlapping += int((labels[mask] != 0).sum())
        labels[mask] = id_
    return labels, overlapping


def folder_names(videos: Sequence[AnnotatedVideo]) -> dict[int, str]:
    """A unique folder name per video id: its name with unusual characters replaced by `_`."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    for video in videos:
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in video.name)
        choice = numbered(as_file_name(plain, instead=str(video.id)))
        names[video.id] = next(name for name in choice if name.casefold() not in taken)
        taken.add(names[video.id].casefold())
    return names


def suffix_of(video: AnnotatedVideo) -> str:
    """The suffix of a video's picture files, `.jpg` if it has no files."""
    stated = PurePosixPath(video.file_names[0]).suffix if video.file_names else ""
    return stated if stated.lower() in IMAGE_SUFFIXES else ".jpg"
