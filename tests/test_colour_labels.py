"""Label pictures in colour: their objects are read, and are the same ones over the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vistool.annotations.check import check_dataset
from vistool.annotations.read import read_dataset
from vistool.engine.evaluate.evaluate import evaluate
from vistool.errors import DataError
from vistool.formats.masks.rle import decode_mask
from vistool.structures import Size

SIZE = Size(24, 32)
# The second and third colour of the palette that DAVIS pictures have.
GREEN, YELLOW = (0, 128, 0), (128, 128, 0)
PINK, TEAL = (250, 90, 200), (10, 130, 140)
Colour = tuple[int, ...]
Objects = Sequence[tuple[Colour, int]]  # colour and left edge of a square


def square(left: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[4:14, left : left + 8] = True
    return mask


def save(file: Path, objects: Objects, mode: str = "RGB") -> None:
    image = np.zeros((*SIZE, len(mode)), np.uint8)
    for colour, left in objects:
        image[square(left)] = colour
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0] if mode == "L" else image).save(file)


def davis(folder: Path, frames: Sequence[Objects], mode: str = "RGB") -> Path:
    for t, objects in enumerate(frames):
        save(folder / "Annotations" / "480p" / "run" / f"{t:05}.png", objects, mode)
        picture = folder / "JPEGImages" / "480p" / "run" / f"{t:05}.jpg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(picture), np.zeros((*SIZE, 3), np.uint8))
    return folder


def masks_of(folder: Path) -> list[list[np.ndarray | None]]:
    tracks = read_dataset(folder).tracks
    return [[None if m is None else decode_mask(m) for m in t.segmentations] for t in tracks]


def assert_squares(found: list[list[np.ndarray | None]], lefts: list[list[int | None]]) -> None:
    assert len(found) == len(lefts)
    for masks, edges in zip(found, lefts, strict=True):
        for mask, left in zip(masks, edges, strict=True):
            assert (mask is None) == (left is None)
            if mask is not None and left is not None:
                np.testing.assert_array_equal(mask, square(left))


def test_colours_of_the_palette_mean_their_place_in_it(tmp_path: Path) -> None:
    # yellow, the third, comes first
    davis(tmp_path, [[(YELLOW, 2)], [(YELLOW, 4), (GREEN, 20)], [(GREEN, 18)]])
    assert_squares(masks_of(tmp_path), [[None, 20, 18], [2, 4, None]])


def test_other_colours_are_numbered_as_they_first_appear(tmp_path: Path) -> None:
    davis(tmp_path, [[(TEAL, 2)], [(PINK, 1), (TEAL, 20)], [(TEAL, 18)]])
    assert_squares(masks_of(tmp_path), [[2, 20, 18], [None, 1, None]])


def test_transparency_is_ignored(tmp_path: Path) -> None:
    davis(tmp_path, [[((*PINK, 255), 2), ((*TEAL, 0), 20)]], "RGBA")
    assert_squares(masks_of(tmp_path), [[2], [20]])
    grey = davis(tmp_path / "grey", [[((1, 255), 2), ((2, 7), 20)]], "LA")
    assert_squares(masks_of(grey), [[2], [20]])


def test_grey_in_colour_is_the_same_as_grey(tmp_path: Path) -> None:
    """Some pictures of DAVIS 2016 are so: the object is 255, whatever form its picture has."""
    davis(tmp_path, [[((255, 255, 255), 2)]] * 3)
    save(tmp_path / "Annotations" / "480p" / "run" / "00001.png", [((255,), 4)], "L")
    assert_squares(masks_of(tmp_path), [[2, 4, 2]])
    assert [track.is_crowd for track in read_dataset(tmp_path).tracks] == [False]


def test_more_than_255_colours_are_an_error_with_the_file(tmp_path: Path) -> None:
    davis(tmp_path, [[(PINK, 2)]] * 2)
    file = tmp_path / "Annotations" / "480p" / "run" / "00001.png"
    rows, columns = np.mgrid[: SIZE.height, : SIZE.width]
    Image.fromarray(np.stack([rows, columns, rows], 2).astype(np.uint8)).save(file)
    with pytest.raises(DataError, match=r"00001\.png: more than 255 colours"):
        read_dataset(tmp_path)


def test_more_than_255_colours_over_a_sequence_are_an_error(tmp_path: Path) -> None:
    frames = [[((1, 2 + t, 9), 2), ((t, 90, 3), 20)] for t in range(130)]
    davis(tmp_path, frames)
    with pytest.raises(DataError, match=r"00127\.png: more than 255 colours"):
        read_dataset(tmp_path)


def test_own_colours_beside_ids_are_an_error(tmp_path: Path) -> None:
    davis(tmp_path, [[(PINK, 2)], [(PINK, 4)]])
    save(tmp_path / "Annotations" / "480p" / "run" / "00000.png", [((1,), 2)], "L")
    with pytest.raises(DataError, match=r"00001\.png: has colours as #fa5ac8, but 00000\.png"):
        read_dataset(tmp_path)
    assert [problem.kind for problem in check_dataset(tmp_path).problems] == ["colours"]


def test_coloured_predictions_are_scored(tmp_path: Path) -> None:
    truth = davis(tmp_path / "truth", [[(GREEN, 2), (YELLOW, 20)]] * 3)
    for t in range(3):
        save(tmp_path / "predicted" / "run" / f"{t:05}.png", [(TEAL, 2), (PINK, 20)])
    scores = evaluate(truth, tmp_path / "predicted")
    assert scores.davis is not None
    assert scores.davis.J_mean == pytest.approx(1.0)
    assert pytest.approx(1.0) == scores.ytvis.AP


def test_mots_takes_no_colours(tmp_path: Path) -> None:
    save(tmp_path / "instances" / "0001" / "000000.png", [(PINK, 2)])
    with pytest.raises(DataError, match=r"000000\.png: a colour picture"):
        read_dataset(tmp_path)


def test_palettes_in_another_order_are_an_error(tmp_path: Path) -> None:
    """Some programs sort the palette of every picture, so an id is another object in each."""
    davis(tmp_path, [[(GREEN, 2)]] * 2)
    places = tmp_path / "Annotations" / "480p" / "run"
    for t, order in enumerate(((GREEN, YELLOW), (YELLOW, GREEN))):
        image = Image.fromarray((square(2) * 1 + square(20) * 2).astype(np.uint8))
        image.putpalette([0, 0, 0, *order[0], *order[1]])
        image.save(places / f"{t:05}.png")
    with pytest.raises(DataError, match=r"00001\.png: its palette has #808000 as id 1"):
        read_dataset(tmp_path)


def test_a_palette_may_be_any_and_grey(tmp_path: Path) -> None:
    davis(tmp_path, [[(GREEN, 2)]] * 2)
    for t, colours in enumerate(([0] * 768, [9, 9, 9, *PINK, *TEAL])):
        image = Image.fromarray((square(2) * 1 + square(20) * 2).astype(np.uint8))
        image.putpalette(colours)
        image.save(tmp_path / "Annotations" / "480p" / "run" / f"{t:05}.png")
    assert_squares(masks_of(tmp_path), [[2, 2], [20, 20]])
