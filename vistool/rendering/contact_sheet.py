"""Contact sheets: many frames in one picture, a row for every clip or video, with a title."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vistool.rendering.text import drawable

FONT = cv2.FONT_HERSHEY_SIMPLEX
PAPER = (255, 255, 255)
INK = (40, 40, 40)
FAINT = (130, 130, 130)
MARGIN = 12  # pixels around everything
GAP = 4  # between frames
LINE = 20  # height of a line of text
LONGEST_SIDE = 320  # of a frame, pixels; larger frames are reduced
WIDTH = 1640  # of a sheet, pixels; short rows are side by side if they fit


@dataclass(frozen=True, slots=True)
class SheetRow:
    """Frames that belong together, with everything drawn on them."""

    title: str
    note: str  # a second line in a lighter colour; may be empty
    frames: Sequence[np.ndarray]  # [H, W, 3] uint8 RGB
    captions: Sequence[str] = ()  # one per frame, or empty


def contact_sheet(rows: Sequence[SheetRow], heading: str = "") -> np.ndarray:
    """Draw all rows below each other, short ones in several columns.

    Returns: [H, W, 3] uint8 RGB.
    Raises: ValueError for a row without frames, or with another number of captions.
    """
    blocks = [_block(row) for row in rows]
    widest = max((block.shape[1] for block in blocks), default=1)
    columns = max(1, (WIDTH + MARGIN) // (widest + MARGIN))
    lines = [
        beside([_widened(block, widest) for block in blocks[i : i + columns]], gap=MARGIN)
        for i in range(0, len(blocks), columns)
    ]
    return framed(stacked([*_text_lines(heading, INK, 0.6), *lines], gap=GAP))


def _block(row: SheetRow) -> np.ndarray:
    """A row with its title."""
    titles = [*_text_lines(row.title, INK, 0.45), *_text_lines(row.note, FAINT, 0.4)]
    return stacked([*titles, _strip(row)], gap=0)


def _widened(picture: np.ndarray, width: int) -> np.ndarray:
    more = width - picture.shape[1]
    return cv2.copyMakeBorder(picture, 0, 0, 0, more, cv2.BORDER_CONSTANT, value=PAPER)


def beside(parts: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Pictures next to each other, aligned at their tops, on white."""
    height = max(len(part) for part in parts)
    width = sum(part.shape[1] for part in parts) + gap * (len(parts) - 1)
    sheet = np.full((height, width, 3), PAPER, np.uint8)
    left = 0
    for part in parts:
        sheet[: len(part), left : left + part.shape[1]] = part
        left += part.shape[1] + gap
    return sheet


def stacked(parts: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Pictures below each other, left-aligned, on white."""
    width = max(part.shape[1] for part in parts)
    height = sum(len(part) for part in parts) + gap * (len(parts) - 1)
    sheet = np.full((height, width, 3), PAPER, np.uint8)
    top = 0
    for part in parts:
        sheet[top : top + len(part), : part.shape[1]] = part
        top += len(part) + gap
    return sheet


def framed(picture: np.ndarray) -> np.ndarray:
    """The picture with a white margin."""
    sides = (MARGIN,) * 4
    return cv2.copyMakeBorder(picture, *sides, cv2.BORDER_CONSTANT, value=PAPER)


def fitting(frame: np.ndarray, longest: int = LONGEST_SIDE) -> np.ndarray:
    """The frame, reduced so that its longer side is at most `longest` pixels: [H, W, 3] uint8."""
    scale = longest / max(frame.shape[:2])
    if scale >= 1:
        return frame
    return cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def text_width(text: str, scale: float) -> int:
    """The width of a text in pixels."""
    return int(cv2.getTextSize(drawable(text), FONT, scale, 1)[0][0])


def write(
    picture: np.ndarray, text: str, x: int, y: int, ink: tuple[int, ...], scale: float
) -> None:
    """Write a text on a picture; x, y is the left end of its baseline."""
    cv2.putText(picture, drawable(text), (x, y), FONT, scale, ink, 1, cv2.LINE_AA)


def _text_lines(text: str, ink: tuple[int, ...], scale: float) -> list[np.ndarray]:
    """A line of text as a picture; an empty list for an empty text."""
    if not text:
        return []
    line = np.full((LINE, text_width(text, scale) + 2, 3), PAPER, np.uint8)
    write(line, text, 0, LINE - 6, ink, scale)
    return [line]


def _strip(row: SheetRow) -> np.ndarray:
    """The frames of a row side by side, with their captions below."""
    if not row.frames or len(row.captions) not in (0, len(row.frames)):
        raise ValueError(f"{len(row.frames)} frames with {len(row.captions)} captions")
    cells = [fitting(frame) for frame in row.frames]
    if row.captions:
        cells = [
            stacked([cell, *_text_lines(caption, FAINT, 0.4)], gap=0)
            for cell, caption in zip(cells, row.captions, strict=True)
        ]
    return beside(cells)
