"""Smooth motion over a clip: camera paths over a picture, and paths of objects.

Clip time is -1 at the first frame and 1 at the last. Matrices map points of a picture, or of a
canvas, to a canvas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vistool.structures import Size

STRONGEST_TILT = 0.2  # the largest perspective: one edge is nearer than the centre by this share
ROOM_OUTSIDE = 0.05  # the share of the canvas that may lie outside the picture


@dataclass(frozen=True, slots=True)
class Curve:
    """A smooth curve in D dimensions: a straight part, two bends, and a speed that varies."""

    straight: np.ndarray  # [D], from the middle of the curve to its end
    bends: np.ndarray  # [2, D]
    ease: float  # in [-0.5, 1]: below 0 slow at the ends, above 0 slow in the middle

    def at(self, time: float) -> np.ndarray:
        """The point at a time, [D]; without bends, it is -straight at -1 and straight at 1."""
        way = time + self.ease * (time**3 - time)
        curve = self.bends[0] * (way**2 - 1 / 3) + self.bends[1] * (way**3 - way)
        return np.asarray(self.straight * way + curve)


def draw_curve(sizes: np.ndarray, num_frames: int, rng: np.random.Generator) -> Curve:
    """A random curve with standard deviations `sizes` [D]; with one frame, it does not move."""
    if num_frames == 1:
        return Curve(np.zeros(len(sizes)), np.zeros((2, len(sizes))), 0.0)
    straight = rng.normal(0.0, 1.0, len(sizes)) * sizes
    bends = rng.normal(0.0, 0.25, (2, len(sizes))) * sizes
    return Curve(straight, bends, float(rng.uniform(-0.5, 0.25)))


def frame_times(num_frames: int) -> list[float]:
    """The clip times of the frames: evenly from -1 to 1, or 0 for a single frame."""
    return [float(time) for time in np.linspace(-1.0, 1.0, num_frames) * (num_frames > 1)]


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera that moves over a picture."""

    centre: np.ndarray  # [2] x, y of the picture, in the middle of the canvas
    zoom: float  # canvas pixels per picture pixel
    turn: float  # rotation in radians
    mirror: float  # -1 or 1
    path: Curve  # of x, y, the logarithm of the zoom, the turn, and the tilts about y and x
    canvas: Size

    def matrix(self, time: float) -> np.ndarray:
        """[3, 3], picture -> canvas."""
        x, y, growth, turn, *tilt = self.path.at(time)
        zoom, angle = self.zoom * np.exp(growth), self.turn + turn
        cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
        linear = np.array([[self.mirror * cos, -sin, 0], [self.mirror * sin, cos, 0], [0, 0, 1.0]])
        half = np.array([self.canvas.width, self.canvas.height]) / 2
        tilted = np.eye(3)
        tilted[2, :2] = np.clip(tilt, -STRONGEST_TILT, STRONGEST_TILT) / half
        seen = linear @ shifted(-self.centre[0] - x, -self.centre[1] - y)
        return np.asarray(shifted(*half) @ tilted @ seen)


def draw_camera(
    picture: Size,
    canvas: Size,
    num_frames: int,
    rng: np.random.Generator,
    *,
    scale_range: tuple[float, float],
    motion: float,
    tilt: float = 0.0,
    focus: tuple[float, float] | None = None,
) -> Camera:
    """A random camera path over a picture: shift, zoom, turn and tilt change smoothly.

    Args:
        scale_range: of the zoom, log-uniform; at 1 the picture covers the canvas.
        motion: the typical distance over the clip, in canvas sizes; 0: the camera does not move.
        tilt: the standard deviation of the perspective; a single frame has no perspective.
        focus: the point (x, y) of the picture that should be on the canvas; None: any.
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
    sizes = np.array([*(motion * half), 0.3 * motion, 0.2 * motion, tilt, tilt])
    path = draw_curve(sizes, num_frames, rng)
    centre, path = _kept_near(
        centre, path, low - 2 * ROOM_OUTSIDE * half, high + 2 * ROOM_OUTSIDE * half
    )
    return Camera(centre, float(zoom), float(turn), mirror, path, canvas)


def _kept_near(
    centre: np.ndarray, path: Curve, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, Curve]:
    """Shorten and shift a path so that x and y stay between `low` and `high`.

    Otherwise parts of the canvas would be outside the picture.
    """
    ways = np.array([path.at(time)[:2] for time in np.linspace(-1, 1, 9)])
    first, last = ways.min(0), ways.max(0)
    share = np.ones(len(path.straight))
    share[:2] = np.minimum(1, (high - low) / np.maximum(last - first, 1e-9))
    shorter = Curve(path.straight * share, path.bends * share, path.ease)
    return np.clip(centre, low - first * share[:2], high - last * share[:2]), shorter


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """The path of an object on a canvas, in addition to the motion of the camera."""

    anchor: np.ndarray  # [2] x, y of its centre, on the canvas
    path: Curve  # of x, y, the logarithm of its size, its turn, and the logarithm of its aspect
    leaving: np.ndarray  # [2] x, y that are added to `path` at the clip's end `end`
    end: float  # 1: it leaves at the last frame; -1: it enters from the first frame

    def matrix(self, time: float) -> np.ndarray:
        """[3, 3], canvas -> canvas."""
        x, y, growth, turn, aspect = self.path.at(time)
        cos, sin = np.cos(turn), np.sin(turn)
        size = np.exp(growth) * np.array([np.exp(aspect / 2), np.exp(-aspect / 2)])
        changed = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]) @ np.diag([*size, 1.0])
        place = self.anchor + (x, y) + self.leaving * ((1 + self.end * time) / 2) ** 2
        return np.asarray(shifted(*place) @ changed @ shifted(*-self.anchor))


def draw_object_path(
    corners: np.ndarray,
    canvas: Size,
    num_frames: int,
    rng: np.random.Generator,
    *,
    motion: float,
    leave_chance: float,
) -> ObjectPath:
    """A random path of an object.

    Args:
        corners: [2, 2], its left, top and right, bottom on the canvas in the middle of the clip.
        motion: the typical distance over the clip, in canvas sizes; 0: the object does not move.
        leave_chance: the probability that it leaves or enters the canvas.
    """
    sides = np.array([canvas.width, canvas.height], float)
    # Objects move more sideways than up and down, and turn and deform little in a short time.
    sizes = motion * np.array([0.5 * sides[0], 0.25 * sides[1], 0.6, 0.4, 0.3])
    path = draw_curve(sizes, num_frames, rng)
    leaving, end = np.zeros(2), 1.0
    if num_frames > 1 and rng.random() < leave_chance:
        end = -1.0 if rng.random() < 0.5 else 1.0
        leaving = _way_out(corners + path.at(end)[:2], sides, rng)
    return ObjectPath(corners.mean(0), path, leaving, end)


def _way_out(corners: np.ndarray, sides: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[2], a shift that moves a box out of the canvas over the nearer edge, mostly sideways."""
    across = 0 if rng.random() < 0.8 else 1
    back, forth = corners[1, across], sides[across] - corners[0, across]
    shift = np.zeros(2)
    shift[across] = -max(0.0, back) if back < forth else max(0.0, forth)
    return 1.15 * shift


def shifted(x: float, y: float) -> np.ndarray:
    """The matrix [3, 3] that moves points by x, y."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])
