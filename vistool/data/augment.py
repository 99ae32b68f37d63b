"""Colour and blur, drawn once a clip: its frames share a camera."""

from __future__ import annotations

import cv2
import numpy as np


def change_colours(frames: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Brightness, contrast, saturation and hue of a clip. frames: [T, H, W, 3] uint8, RGB.

    Args: strength: 0 changes nothing, 1 a lot.
    """
    gain = 1 + strength * rng.uniform(-0.5, 0.5)
    offset = strength * rng.uniform(-40, 40)
    tone = np.clip((np.arange(256) - 127) * gain + 127 + offset, 0, 255).astype(np.uint8)
    hue_shift = round(strength * rng.uniform(-12, 12))
    saturation_gain = 1 + strength * rng.uniform(-0.6, 0.6)
    hue = ((np.arange(256) + hue_shift) % 180).astype(np.uint8)
    saturation = np.clip(np.arange(256) * saturation_gain, 0, 255).astype(np.uint8)
    if rng.random() < 0.05 * strength:
        saturation[:] = 0
    table = np.stack([hue, saturation, tone], axis=-1)[None]
    changed = [
        cv2.cvtColor(cv2.LUT(cv2.cvtColor(f, cv2.COLOR_RGB2HSV), table), cv2.COLOR_HSV2RGB)
        for f in frames
    ]
    return np.stack(changed)


def blur(frames: np.ndarray, rng: np.random.Generator, chance: float) -> np.ndarray:
    """Sometimes out of focus. frames: [T, H, W, 3] uint8."""
    if rng.random() >= chance:
        return frames
    sigma = rng.uniform(0.4, 1.5)
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])
