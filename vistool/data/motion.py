"""Smooth camera motion: where every frame of a clip looks at a picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vistool.structures import Size


@dataclass(frozen=True, slots=True)
class View:
    """A similarity transform from picture to canvas, with the frames' canvas size."""

    matrix: np.ndarray  # [2, 3], picture -> canvas
    scale: float  # canvas pixels per picture pixel
    canvas: Size

    def picture(self, image: np.ndarray) -> np.ndarray:
        """[H, W, 3] uint8 -> canvas; what lies outside the picture is mid-grey."""
        matrix = self.matrix
        if self.scale < 0.7:  # warping alone would skip pixels
            height, width = image.shape[:2]
            small = (max(1, round(width * self.scale)), max(1, round(height * self.scale)))
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
            matrix = matrix.copy()
            matrix[:, 0] *= width / small[0]
            matrix[:, 1] *= height / small[1]
        return self._warp(image, matrix, cv2.INTER_LINEAR, (127, 127, 127))

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """[H, W] uint8 -> canvas, nearest neighbour."""
        return self._warp(mask, self.matrix, cv2.INTER_NEAREST, 0)

    def _warp(
        self, image: np.ndarray, matrix: np.ndarray, how: int, border: int | tuple[int, int, int]
    ) -> np.ndarray:
        size = (self.canvas.width, self.canvas.height)
        return cv2.warpAffine(image, matrix, size, flags=how, borderValue=border)


def draw_views(
    picture: Size,
    canvas: Size,
    num_frames: int,
    rng: np.random.Generator,
    *,
    scale_range: tuple[float, float],
    motion: float,
    focus: tuple[float, float] | None = None,
) -> list[View]:
    """A camera path over a picture: shift, zoom and turn change evenly from frame to frame.

    Args:
        scale_range: of the zoom, log-uniform; 1 covers the canvas with the picture.
        motion: how far the camera goes over the whole clip, in canvas sizes; 0: it stands still.
        focus: (x, y) of the picture that should be on the canvas; None: anywhere.
    """
    cover = max(canvas.height / picture.height, canvas.width / picture.width)
    zoom = cover * np.exp(rng.uniform(*np.log(scale_range)))
    half = np.array([canvas.width, canvas.height]) / 2 / zoom
    middle = np.array([picture.width, picture.height], float)
    low, high = np.minimum(half, middle - half), np.maximum(half, middle - half)
    if focus is None:
        centre = rng.uniform(low, high)
    else:
        centre = np.clip(np.array(focus) + rng.uniform(-half, half) * 0.7, low, high)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    turn = rng.normal(0.0, 0.06)
    drift = rng.normal(0.0, 1.0, 2) * half * motion
    zoom_drift, turn_drift = rng.normal(0.0, 0.3 * motion), rng.normal(0.0, 0.2 * motion)
    return [
        _view(
            centre + drift * when,
            zoom * np.exp(zoom_drift * when),
            turn + turn_drift * when,
            mirror,
            canvas,
        )
        for when in np.linspace(-1.0, 1.0, num_frames) * (num_frames > 1)
    ]


def _view(centre: np.ndarray, zoom: float, angle: float, mirror: float, canvas: Size) -> View:
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    linear = np.array([[mirror * cos, -sin], [mirror * sin, cos]])
    shift = np.array([canvas.width, canvas.height]) / 2 - linear @ centre
    return View(np.column_stack([linear, shift]), float(zoom), canvas)
