"""Film strips: a few frames side by side with a labelled and a predicted track."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vistool.config import OverlayStyle
from vistool.rendering.overlay import draw_tracks
from vistool.structures import Track

TILE_HEIGHT = 150  # pixels
GAP = 4  # pixels between tiles
QUALITY = 82  # of the JPEG
BLANK = 70  # grey level of frames without an image
STYLE = OverlayStyle(labels=False, alpha=0.5)
PREDICTION = Track(2, 0, "", 1.0)  # the colour of track 2 stands out on most images


@dataclass(frozen=True, slots=True)
class StripFrame:
    """One frame of a strip."""

    number: int  # written into the corner
    truth: np.ndarray | None  # [H, W] bool, the labelled mask; None: not visible
    prediction: np.ndarray | None  # [H, W] bool, the predicted mask; None: not visible
    size: tuple[int, int]  # height, width
    image: np.ndarray | None = None  # [H, W, 3] uint8 RGB; None: only masks are drawn


def film_strip(frames: Sequence[StripFrame]) -> bytes:
    """A JPEG: the prediction as a tinted area, the label as a white line with a dark edge."""
    tiles = [_tile(frame) for frame in frames]
    gap = np.full((TILE_HEIGHT, GAP, 3), 255, np.uint8)
    parts = [part for tile in tiles for part in (gap, tile)][1:]
    strip = np.concatenate(parts, axis=1)
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(strip, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()


def chosen_frames(present: np.ndarray, most: int) -> list[int]:
    """At most `most` frames on which `present` ([F] bool) is true, evenly spread."""
    places = np.flatnonzero(present)
    if len(places) <= most:
        return [int(place) for place in places]
    spread = np.linspace(0, len(places) - 1, most)
    return [int(places[i]) for i in np.rint(spread).astype(int)]


def _tile(frame: StripFrame) -> np.ndarray:
    """[TILE_HEIGHT, w, 3] uint8 RGB; drawn at the final size, so that all lines are equal."""
    height, width = frame.size
    size = (max(1, round(width * TILE_HEIGHT / height)), TILE_HEIGHT)  # width first, as in OpenCV
    if frame.image is None:
        canvas = np.full((TILE_HEIGHT, size[0], 3), BLANK, np.uint8)
    else:
        canvas = np.asarray(cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA))
    if frame.prediction is not None:
        mask = _small(frame.prediction, size).astype(bool)
        canvas = draw_tracks(canvas, [PREDICTION], [mask], STYLE)
    if frame.truth is not None:
        contours, _ = cv2.findContours(
            _small(frame.truth, size), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(canvas, contours, -1, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.drawContours(canvas, contours, -1, (255, 255, 255), 1, cv2.LINE_AA)
    place, font = (5, TILE_HEIGHT - 6), cv2.FONT_HERSHEY_SIMPLEX
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(canvas, str(frame.number), place, font, 0.4, color, thickness, cv2.LINE_AA)
    return canvas


def _small(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h, w] uint8, 1 if a quarter of the pixel is inside, so that small objects stay visible."""
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return (share >= 0.25).astype(np.uint8)
