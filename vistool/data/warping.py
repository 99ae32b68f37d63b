"""Pictures and masks through a matrix onto a canvas, exposed for as long as a shutter is open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from vistool.data.motion import shifted
from vistool.structures import Size

GREY = (127, 127, 127)  # what lies outside of a picture
MIN_SHRINK = 0.7  # pictures that become smaller than this are shrunk before they are warped
PIXELS_A_STEP = 1.0  # between two moments of one exposure
LONGEST_BLUR = 0.05  # of the canvas's shorter side

Motion = Callable[[float], np.ndarray]  # time -> [3, 3] matrix


@dataclass(frozen=True, slots=True)
class Part:
    """A rectangle cut out of a picture or mask, perhaps shrunk."""

    pixels: np.ndarray  # [h, w] or [h, w, 3] uint8
    place: np.ndarray  # [3, 3], its pixels -> the picture's


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of canvas pixels; right and bottom lie outside."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def whole(cls, canvas: Size) -> Window:
        return cls(0, 0, canvas.width, canvas.height)

    @property
    def size(self) -> Size:
        return Size(self.bottom - self.top, self.right - self.left)

    @property
    def pixels(self) -> tuple[slice, slice]:
        """The index that cuts it out of a canvas."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def shrunk(image: np.ndarray, scale: float, left: int = 0, top: int = 0) -> Part:
    """An image that will be seen at `scale`; warping alone would skip pixels of a large one.

    Args: left, top: where in its picture the image begins.
    """
    if scale >= MIN_SHRINK:
        return Part(image, shifted(left, top))
    height, width = image.shape[:2]
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    x, y = width / small[0], height / small[1]
    # The middle of the first pixel is at 0, before and after.
    place = np.array([[x, 0, left + (x - 1) / 2], [0, y, top + (y - 1) / 2], [0, 0, 1.0]])
    return Part(cv2.resize(image, small, interpolation=cv2.INTER_AREA), place)


def seen(part: Part, matrix: np.ndarray, window: Window) -> np.ndarray:
    """A picture's part in a window of the canvas, [h, w, 3]; grey outside."""
    return _warp(part, matrix, window, cv2.INTER_LINEAR, GREY)


def seen_mask(part: Part, matrix: np.ndarray, window: Window) -> np.ndarray:
    """A mask's part in a window of the canvas, [h, w], nearest neighbour."""
    return _warp(part, matrix, window, cv2.INTER_NEAREST, 0)


def _warp(
    part: Part, matrix: np.ndarray, window: Window, how: int, border: int | tuple[int, int, int]
) -> np.ndarray:
    matrix = shifted(-window.left, -window.top) @ matrix @ part.place
    size = window.size[::-1]
    if matrix[2, 0] == matrix[2, 1] == 0:
        return cv2.warpAffine(part.pixels, matrix[:2], size, flags=how, borderValue=border)
    return cv2.warpPerspective(part.pixels, matrix, size, flags=how, borderValue=border)


def window_of(
    points: np.ndarray, matrices: list[np.ndarray], canvas: Size, margin: int
) -> Window | None:
    """What of the canvas a box of picture points [4, 2] may reach; None: nothing."""
    places = []
    for matrix in matrices:
        corners = np.column_stack([points, np.ones(len(points))]) @ matrix.T
        if corners[:, 2].min() < 0.1:  # so far off that perspective breaks down
            return Window.whole(canvas)
        places.append(corners[:, :2] / corners[:, 2:])
    low = np.floor(np.min(places, axis=(0, 1))).astype(int) - margin
    high = np.ceil(np.max(places, axis=(0, 1))).astype(int) + margin + 1
    left, top = max(0, low[0]), max(0, low[1])
    right, bottom = min(canvas.width, high[0]), min(canvas.height, high[1])
    return Window(left, top, right, bottom) if left < right and top < bottom else None


def exposure(
    motion: Motion, time: float, points: np.ndarray, shutter: float, canvas: Size
) -> list[np.ndarray]:
    """The matrices of the moments that one frame shows; a single one if little moves meanwhile.

    Args: points: [N, 2] of the picture, whose way is looked at; shutter: in clip time.
    """
    now = motion(time)
    if shutter <= 0:
        return [now]
    step = 0.01
    way = project(points, motion(time + step)) - project(points, motion(time - step))
    speed = float(np.hypot(*way.T).max()) / (2 * step)
    length = min(speed * shutter, LONGEST_BLUR * min(canvas))
    moments = round(length / PIXELS_A_STEP) + 1
    if moments == 1:
        return [now]
    open_for = length / speed
    return [motion(time + open_for * when) for when in np.linspace(-0.5, 0.5, moments)]


def project(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """[N, 2] points through a matrix."""
    corners = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return np.asarray(corners[:, :2] / corners[:, 2:])


def magnification(matrix: np.ndarray, point: np.ndarray) -> float:
    """Canvas pixels a picture pixel, at a point [2] of the picture."""
    around = project(point + np.array([[0, 0], [1, 0], [0, 1]]), matrix)
    return float(abs(np.linalg.det(around[1:] - around[0])) ** 0.5)
