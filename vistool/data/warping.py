"""Warping of pictures and masks onto a canvas by matrices, with motion blur."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from vistool.data.motion import shifted
from vistool.structures import Size

GREY = (127, 127, 127)  # the colour outside a picture
MIN_SHRINK = 0.7  # below this scale, pictures are reduced before they are warped
PIXELS_PER_STEP = 1.0  # between two moments of one exposure
LONGEST_BLUR = 0.05  # as a share of the canvas's shorter side

Motion = Callable[[float], np.ndarray]  # time -> [3, 3] matrix


@dataclass(frozen=True, slots=True)
class Part:
    """A rectangle of a picture or mask, possibly reduced."""

    pixels: np.ndarray  # [h, w] or [h, w, 3] uint8
    place: np.ndarray  # [3, 3], from its pixels to those of the picture


@dataclass(frozen=True, slots=True)
class CanvasBox:
    """A rectangle of canvas pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def whole(cls, canvas: Size) -> CanvasBox:
        return cls(0, 0, canvas.width, canvas.height)

    @property
    def size(self) -> Size:
        return Size(self.bottom - self.top, self.right - self.left)

    @property
    def pixels(self) -> tuple[slice, slice]:
        """The index of its pixels in a canvas."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def shrunk(image: np.ndarray, scale: float, left: int = 0, top: int = 0) -> Part:
    """Reduce an image that will be shown at `scale`, because warping alone would skip pixels.

    Args: left, top: the position of the image in its picture.
    """
    if scale >= MIN_SHRINK:
        return Part(image, shifted(left, top))
    height, width = image.shape[:2]
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    x, y = width / small[0], height / small[1]
    # Pixel centres have whole coordinates, before and after.
    place = np.array([[x, 0, left + (x - 1) / 2], [0, y, top + (y - 1) / 2], [0, 0, 1.0]])
    return Part(cv2.resize(image, small, interpolation=cv2.INTER_AREA), place)


def seen(part: Part, matrix: np.ndarray, box: CanvasBox) -> np.ndarray:
    """The pixels of a picture in a box of the canvas: [h, w, 3] uint8; grey outside the picture."""
    return _warp(part, matrix, box, cv2.INTER_LINEAR, GREY)


def seen_mask(part: Part, matrix: np.ndarray, box: CanvasBox) -> np.ndarray:
    """The pixels of a mask in a box of the canvas: [h, w] uint8, nearest neighbour."""
    return _warp(part, matrix, box, cv2.INTER_NEAREST, 0)


def _warp(
    part: Part, matrix: np.ndarray, box: CanvasBox, how: int, border: int | tuple[int, int, int]
) -> np.ndarray:
    matrix = shifted(-box.left, -box.top) @ matrix @ part.place
    size = box.size[::-1]
    if matrix[2, 0] == matrix[2, 1] == 0:
        return cv2.warpAffine(part.pixels, matrix[:2], size, flags=how, borderValue=border)
    return cv2.warpPerspective(part.pixels, matrix, size, flags=how, borderValue=border)


def canvas_box_of(
    points: np.ndarray, matrices: list[np.ndarray], canvas: Size, margin: int
) -> CanvasBox | None:
    """The part of the canvas that contains a box of picture points [4, 2] under all matrices.

    None if the box lies outside the canvas.
    """
    places = []
    for matrix in matrices:
        corners = np.column_stack([points, np.ones(len(points))]) @ matrix.T
        if corners[:, 2].min() < 0.1:  # so far away that the perspective is invalid
            return CanvasBox.whole(canvas)
        places.append(corners[:, :2] / corners[:, 2:])
    low = np.floor(np.min(places, axis=(0, 1))).astype(int) - margin
    high = np.ceil(np.max(places, axis=(0, 1))).astype(int) + margin + 1
    left, top = max(0, low[0]), max(0, low[1])
    right, bottom = min(canvas.width, high[0]), min(canvas.height, high[1])
    return CanvasBox(left, top, right, bottom) if left < right and top < bottom else None


def exposure(
    motion: Motion, time: float, points: np.ndarray, shutter: float, canvas: Size
) -> list[np.ndarray]:
    """The matrices of the moments that are averaged in one frame; one if there is little motion.

    Args:
        points: [N, 2] of the picture; the fastest determines the number of moments.
        shutter: the exposure, in clip time.
    """
    now = motion(time)
    if shutter <= 0:
        return [now]
    step = 0.01
    way = project(points, motion(time + step)) - project(points, motion(time - step))
    speed = float(np.hypot(*way.T).max()) / (2 * step)
    length = min(speed * shutter, LONGEST_BLUR * min(canvas))
    moments = round(length / PIXELS_PER_STEP) + 1
    if moments == 1:
        return [now]
    open_for = length / speed
    return [motion(time + open_for * when) for when in np.linspace(-0.5, 0.5, moments)]


def project(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Transform points [N, 2] by a matrix [3, 3]."""
    corners = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return np.asarray(corners[:, :2] / corners[:, 2:])


def magnification(matrix: np.ndarray, point: np.ndarray) -> float:
    """Canvas pixels per picture pixel, at a point [2] of the picture."""
    around = project(point + np.array([[0, 0], [1, 0], [0, 1]]), matrix)
    return float(abs(np.linalg.det(around[1:] - around[0])) ** 0.5)
