"""Camera and codec effects; they are drawn once per clip, so its frames share them."""

from __future__ import annotations

from statistics import NormalDist

import cv2
import numpy as np

# The value of each random byte in noise with standard deviation 1.
GRAIN = np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)])
STRONGEST_NOISE = 10.0  # standard deviation, in grey levels of 255
QUALITY = (20, 75)  # JPEG quality of compressed clips
RANGE = 2  # differences of frames are divided by this, so that they fit into a byte


def happens(chance: float, rng: np.random.Generator) -> bool:
    """True with probability `chance`; with chance 0, the generator's state does not change."""
    return chance > 0 and bool(rng.random() < chance)


def change_colours(frames: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Change brightness, contrast, saturation and hue of a clip.

    Args: frames: [T, H, W, 3] uint8, RGB; strength: from 0 (no change) to 1 (large changes).
    Returns: [T, H, W, 3] uint8.
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
    """Blur a clip [T, H, W, 3] uint8 as if out of focus, with probability `chance`."""
    if rng.random() >= chance:
        return frames
    sigma = rng.uniform(0.4, 1.5)
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])


def make_noise(frames: np.ndarray, rng: np.random.Generator, chance: float) -> np.ndarray:
    """Add sensor noise to a clip [T, H, W, 3] uint8, with probability `chance`.

    The noise has the same strength on all frames, and different values on each.
    """
    if not happens(chance, rng):
        return frames
    deviation = rng.uniform(0.2, 1.0) * STRONGEST_NOISE
    table = np.rint(GRAIN * deviation).clip(-127, 127).astype(np.int16)
    noise = table[np.frombuffer(rng.bytes(frames.size), np.uint8).reshape(frames.shape)]
    return (frames + noise).clip(0, 255).astype(np.uint8)


def compress(frames: np.ndarray, rng: np.random.Generator, chance: float) -> np.ndarray:
    """Add artefacts of a video codec to a clip [T, H, W, 3] uint8, with probability `chance`.

    The first frame is compressed as JPEG. Of every later frame, the difference to the frame before
    is compressed with the same quality. Static areas keep their blocks, moving objects leave
    trails.
    """
    if not happens(chance, rng):
        return frames
    quality = int(rng.integers(QUALITY[0], QUALITY[1] + 1))
    shown = [_stored(frames[0], quality)]
    for frame in frames[1:]:
        before = shown[-1].astype(np.int16)
        difference = (frame - before) // RANGE + 128
        change = _stored(difference.astype(np.uint8), quality).astype(np.int16) - 128
        shown.append((before + RANGE * change).clip(0, 255).astype(np.uint8))
    return np.stack(shown)


def _stored(picture: np.ndarray, quality: int) -> np.ndarray:
    """A picture [H, W, 3] uint8 after JPEG compression."""
    blue_first = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, code = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)
