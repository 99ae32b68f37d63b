"""Overlays of tracks on frames: translucent masks, contours, and labels that do not overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from vistool.config import OverlayStyle
from vistool.rendering.palette import Color, text_color, track_color
from vistool.rendering.text import drawable
from vistool.structures import Track

FONT = cv2.FONT_HERSHEY_DUPLEX
SHIFT = 4  # fractional bits of contour points: OpenCV draws at 1/16 pixel
LABEL_SHARE = 0.6  # the largest width and height of a label, as a share of the frame's
SMOOTHING = 2  # a contour point is averaged with this many points on either side


DEFAULT_STYLE = OverlayStyle()


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    @classmethod
    def of(cls, rectangle: Sequence[int]) -> Box:
        """From left, top, width, height, as in OpenCV."""
        left, top, width, height = rectangle
        return cls(left, top, left + width, top + height)

    @property
    def area(self) -> int:
        return (self.right - self.left) * (self.bottom - self.top)

    @property
    def pixels(self) -> tuple[slice, slice]:
        """The index of its pixels in an image."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def draw_tracks(
    image: np.ndarray,
    tracks: Sequence[Track],
    masks: Iterable[np.ndarray],
    style: OverlayStyle = DEFAULT_STYLE,
) -> np.ndarray:
    """Draw the tracks of one frame on a copy of its image.

    Args: image: [H, W, 3] uint8 RGB; masks: [H, W] bool for every track.
    Returns: [H, W, 3] uint8 RGB.
    Raises: ValueError if a mask and the image have different sizes.
    """
    canvas = np.array(image, order="C")
    size = min(canvas.shape[:2])
    pairs = zip(tracks, masks, strict=True)
    shapes = [shape for pair in pairs if (shape := _shape_of(*pair, canvas)) is not None]
    # Large masks first, and colours are not mixed: where masks overlap, the smaller one is visible.
    for shape in sorted(shapes, key=lambda shape: -shape.box.area):
        _fill(canvas, image, shape, style.alpha)
    if style.contours:
        for shape in shapes:
            _draw_contours(canvas, shape, thickness=max(1, round(size / 360)))
    if style.labels:
        # Lower ids are placed first, so that labels do not jump when a new track appears.
        _draw_labels(canvas, sorted(shapes, key=lambda shape: shape.track.id), style)
    return canvas


def as_png(picture: np.ndarray) -> bytes:
    """[H, W, 3] uint8 RGB -> a PNG file."""
    _, code = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return code.tobytes()


@dataclass(frozen=True, slots=True)
class Shape:
    """The mask of a track on the frame, with its boxes and contours."""

    track: Track
    mask: np.ndarray  # [H, W] bool
    color: Color
    box: Box  # around the whole mask
    contours: tuple[np.ndarray, ...]  # [N, 1, 2] points x, y of connected components and holes
    main_part: Box  # around the largest connected component


def _shape_of(track: Track, mask: np.ndarray, canvas: np.ndarray) -> Shape | None:
    """Box and contours of a track's mask; None if the mask is empty."""
    if mask.shape != canvas.shape[:2]:
        raise ValueError(f"mask size {mask.shape} differs from image size {canvas.shape[:2]}")
    box = Box.of(cv2.boundingRect(_as_bytes(mask)))
    if not box.area:
        return None
    crop = _as_bytes(mask[box.pixels])
    contours, _ = cv2.findContours(
        crop, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=(box.left, box.top)
    )
    parts = [Box.of(cv2.boundingRect(contour)) for contour in contours]
    main_part = max(parts, key=lambda part: part.area)
    return Shape(track, mask, track_color(track.id), box, tuple(contours), main_part)


def _as_bytes(mask: np.ndarray) -> np.ndarray:
    """A bool mask in OpenCV's format: uint8, contiguous."""
    return np.ascontiguousarray(mask, dtype=bool).view(np.uint8)


def _fill(canvas: np.ndarray, image: np.ndarray, shape: Shape, alpha: float) -> None:
    """Blend the image with the shape's colour and write the result to the canvas."""
    values = np.arange(256)[:, None] * (1 - alpha) + np.array(shape.color) * alpha
    pixels = shape.box.pixels
    tinted = cv2.LUT(image[pixels], np.rint(values).astype(np.uint8)[None])
    cv2.copyTo(tinted, _as_bytes(shape.mask[pixels]), canvas[pixels])


def _draw_contours(canvas: np.ndarray, shape: Shape, thickness: int) -> None:
    # Thick lines look smooth with fewer points, and drawing time grows with the points.
    lines = [_smooth(contour)[::thickness] for contour in shape.contours]
    cv2.polylines(canvas, lines, True, shape.color, thickness, cv2.LINE_AA, SHIFT)


def _smooth(contour: np.ndarray) -> np.ndarray:
    """Smooth a closed contour: [N, 1, 2] in pixels -> [N, 1, 2] in 1/16 pixels."""
    points = contour[:, 0].astype(np.float64)
    window = 2 * SMOOTHING + 1
    if len(points) > window:
        ring = np.pad(points, ((SMOOTHING + 1, SMOOTHING), (0, 0)), mode="wrap").cumsum(axis=0)
        points = (ring[window:] - ring[:-window]) / window
    return np.rint(points * (1 << SHIFT)).astype(np.int32)[:, None]


def _draw_labels(canvas: np.ndarray, shapes: Sequence[Shape], style: OverlayStyle) -> None:
    """Draw a chip (a label on a coloured background) at the top of every shape.

    The text is shorter where the space is small.
    """
    height, width = canvas.shape[:2]
    capitals = round(5.5 + 0.0115 * min(height, width))
    taken: list[Box] = []
    for shape in shapes:
        chips = [_chip(text, shape.color, capitals) for text in _texts(shape.track, style)]
        options = [
            (chip, place)
            for chip in chips
            if chip.height <= LABEL_SHARE * height and chip.width <= LABEL_SHARE * width
            for place in _places(shape.main_part, chip, height, width)
        ]
        free = (o for o in options if not any(o[1].overlaps(other) for other in taken))
        # Without a free place, the shortest text is drawn over another label.
        chosen = next(free, options[-1] if options else None)
        if chosen is not None:
            chip, place = chosen
            taken.append(place)
            region = canvas[place.pixels]
            region[:] = np.rint(region + (chip.picture - region.astype(np.float32)) * chip.opacity)


def _texts(track: Track, style: OverlayStyle) -> Iterator[str]:
    """Possible texts of a label, the longest first."""
    if style.scores:
        yield f"{track.class_name} {track.id}  {track.score:.2f}"
    yield f"{track.class_name} {track.id}"
    yield f"{track.id}"


@dataclass(frozen=True, slots=True)
class Chip:
    """A label as an image with opacity."""

    picture: np.ndarray  # [h, w, 3] uint8 RGB
    opacity: np.ndarray  # [h, w, 1] float32 in [0, 1]: round corners

    @property
    def height(self) -> int:
        return len(self.picture)

    @property
    def width(self) -> int:
        return self.picture.shape[1]


def _places(part: Box, chip: Chip, height: int, width: int) -> list[Box]:
    """Possible places of a chip inside the frame: above the part, inside its top, or nearby."""
    above, inside = part.top - chip.height - 1, part.top + 1
    tops = [above, inside, above - chip.height, inside + chip.height]
    possible = [top for top in tops if 0 <= top <= height - chip.height]
    lefts = [(part.left + part.right - chip.width) // 2, part.left, part.right - chip.width]
    return [
        Box(left, top, left + chip.width, top + chip.height)
        for top in possible or [height - chip.height]
        for left in (min(max(left, 0), width - chip.width) for left in lefts)
    ]


@lru_cache(maxsize=256)
def _chip(text: str, color: Color, capitals: int) -> Chip:
    """A label whose capital letters are `capitals` pixels high."""
    text = drawable(text)
    scale = capitals / _capital_height()
    thickness = max(1, round(scale))
    text_width = cv2.getTextSize(text, FONT, scale, thickness)[0][0]
    side, above = round(0.55 * capitals), round(0.5 * capitals)
    height, width = capitals + 2 * above, text_width + 2 * side
    picture = np.full((height, width, 3), color, np.uint8)
    ink = text_color(color)
    cv2.putText(picture, text, (side, above + capitals), FONT, scale, ink, thickness, cv2.LINE_AA)
    return Chip(picture, _rounded(height, width, radius=height / 4))


def _rounded(height: int, width: int, radius: float) -> np.ndarray:
    """[h, w, 1] float32: 1 inside a rectangle with round corners, 0 outside, smooth between."""
    y = np.abs(np.arange(height) - (height - 1) / 2)[:, None] - (height / 2 - radius)
    x = np.abs(np.arange(width) - (width - 1) / 2)[None] - (width / 2 - radius)
    distance = np.hypot(y.clip(0), x.clip(0)) - radius
    return (0.5 - distance).clip(0, 1).astype(np.float32)[..., None]


@lru_cache(maxsize=1)
def _capital_height() -> int:
    """The height of a capital letter in pixels at font scale 1; it depends on OpenCV's version."""
    canvas = np.zeros((100, 100), np.uint8)
    cv2.putText(canvas, "H", (20, 80), FONT, 1.0, 255, 1, cv2.LINE_AA)
    return int(np.count_nonzero((canvas > 127).any(axis=1)))
