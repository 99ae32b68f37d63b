"""VisTR's photometric distortion, drawn anew for every frame."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

Overflow = Literal["clip", "wrap"]

BRIGHTNESS = 32.0  # grey levels, more or less
GAIN = (0.5, 1.5)  # of contrast and of saturation
HUE = 18.0  # degrees, either way


def distorted(
    image: np.ndarray, rng: np.random.Generator, overflow: Overflow = "clip"
) -> np.ndarray:
    """Brightness, contrast, saturation, hue and order of the channels, each half of the time.

    The published code takes its RGB pictures for BGR ones, which changes nothing: the hue then
    turns the other way round, and either way is as likely.

    Args:
        image: [H, W, 3] uint8, RGB.
        overflow: what becomes of values beyond 0 and 255. "wrap" goes on at the other end, so that
            the brightest places turn black: the published code does so.

    Returns: [H, W, 3] uint8.
    """
    values = image.astype(np.float32)
    if _happens(rng):
        values += rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    contrast_first = _happens(rng)
    if contrast_first and _happens(rng):
        values *= rng.uniform(*GAIN)
    values = _recoloured(values, rng)
    if not contrast_first and _happens(rng):
        values *= rng.uniform(*GAIN)
    if _happens(rng):
        values = values[..., rng.permutation(3)]
    return as_bytes(values, overflow)


def as_bytes(values: np.ndarray, overflow: Overflow) -> np.ndarray:
    """Whole grey levels, cut off after the point. [...] float32 -> uint8."""
    if overflow == "clip":
        values = values.clip(0, 255)
    return np.ascontiguousarray(values.astype(np.int32).astype(np.uint8))


def _recoloured(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    saturation = float(rng.uniform(*GAIN)) if _happens(rng) else None
    turn = float(rng.uniform(-HUE, HUE)) if _happens(rng) else None
    if saturation is None and turn is None:
        return values
    hsv = cv2.cvtColor(values, cv2.COLOR_RGB2HSV)
    if saturation is not None:
        hsv[..., 1] = hsv[..., 1] * saturation
    if turn is not None:
        hsv[..., 0] = (hsv[..., 0] + turn) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _happens(rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.5)
