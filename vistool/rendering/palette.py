"""Track colours: every id has a fixed colour that differs clearly from those of near ids."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

Color = tuple[int, int, int]  # RGB, 0 to 255

GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, are spread as evenly as possible
# These values give large distances between the first ten colours, and between neighbouring ids.
FIRST_HUE = 0.5  # of a turn
LIGHTNESS = (0.82, 0.70, 0.58)  # in turn, so that ids with similar hues differ in lightness
CHROMA = 0.23  # or the largest that sRGB can represent
ENOUGH_CONTRAST = 3.5  # of white text; WCAG requires 3 for bold labels

# Oklab (Ottosson, 2020), in which equal distances look equally different, is converted to cone
# responses, which are cubed and converted to linear sRGB.
OKLAB_TO_CONES = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
CONES_TO_SRGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


@cache
def track_color(track_id: int) -> Color:
    """The colour of a track; it depends only on the id."""
    hue = 2 * math.pi * ((FIRST_HUE + (track_id - 1) * GOLDEN) % 1)
    lightness = LIGHTNESS[(track_id - 1) % len(LIGHTNESS)]
    steps = np.linspace(CHROMA, 0, 47)
    shown = next(rgb for c in steps if _inside(rgb := _linear_srgb(lightness, c, hue)))
    encoded = np.where(
        shown <= 0.0031308, 12.92 * shown, 1.055 * shown.clip(0) ** (1 / 2.4) - 0.055
    )
    red, green, blue = (round(255 * float(value)) for value in encoded.clip(0, 1))
    return red, green, blue


def text_color(background: Color) -> Color:
    """White if it has enough contrast on `background` (WCAG 2), otherwise black.

    If both have enough, white is easier to read on saturated colours.
    """
    encoded = np.asarray(background) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    enough = 1.05 / (luminance + 0.05) >= ENOUGH_CONTRAST
    return (255, 255, 255) if enough else (0, 0, 0)


def _linear_srgb(lightness: float, chroma: float, hue: float) -> np.ndarray:
    lab = np.array([lightness, chroma * math.cos(hue), chroma * math.sin(hue)])
    return CONES_TO_SRGB @ (OKLAB_TO_CONES @ lab) ** 3


def _inside(rgb: np.ndarray) -> bool:
    return bool((rgb >= -1e-4).all() and (rgb <= 1.0001).all())
