"""Instances cut out of one shot and put over another, where they go their own ways."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vistool.data.motion import ObjectPath, shifted
from vistool.data.shots import Shot, read_image
from vistool.data.warping import (
    Motion,
    Part,
    Window,
    exposure,
    magnification,
    seen,
    seen_mask,
    shrunk,
    window_of,
)

MARGIN = 2  # pixels around an instance that go along: its edge is mixed from both sides


@dataclass(frozen=True, slots=True)
class Pasted:
    """An instance of a shot on its way over the canvas of another one."""

    track: int
    path: ObjectPath
    behind: bool  # of all instances that are there already; else before them


@dataclass(frozen=True, slots=True)
class Layer:
    """What one instance adds to one frame, in a window of the canvas."""

    window: Window
    colour: np.ndarray  # [h, w, 3] float32, times alpha
    alpha: np.ndarray  # [h, w, 1] float32 in [0, 1]
    mask: np.ndarray  # [h, w] bool


def paste(
    frames: np.ndarray,
    masks: np.ndarray,
    below: Shot,
    above: Shot,
    instances: list[Pasted],
    shutter: float,
) -> np.ndarray:
    """Put instances of `above` over the frames of `below`, which change.

    Args: frames: [T, H, W, 3] uint8; masks: [N, T, H, W] bool, of `below`.
    Returns: [N + P, T, H, W] bool: what is still visible of the N instances, and of the P new ones.
    """
    own = np.asarray(masks.any(0))
    result = np.concatenate([masks, np.zeros((len(instances), *own.shape), bool)])
    order = sorted(range(len(instances)), key=lambda i: not instances[i].behind)
    pictures = {frame: read_image(above.video, frame) for frame in set(above.frame_ids)}
    for i in order:
        motion = _motion(below, above, instances[i])
        for t, frame in enumerate(above.frame_ids):
            layer = _layer(above, instances[i].track, t, pictures[frame], motion, shutter)
            if layer is None:
                continue
            if instances[i].behind:
                layer = _hidden(layer, own[t][layer.window.pixels])
            region = frames[t][layer.window.pixels]
            region[:] = (region * (1 - layer.alpha) + layer.colour + 0.5).astype(np.uint8)
            result[:, t, *layer.window.pixels] &= ~layer.mask
            result[len(masks) + i, t][layer.window.pixels] = layer.mask
    return result


def _motion(below: Shot, above: Shot, instance: Pasted) -> Motion:
    """From the picture an instance is cut out of to the canvas: its own way, seen by the camera."""
    placed, upright = above.camera.matrix(0.0), np.linalg.inv(below.camera.matrix(0.0))
    return lambda time: below.camera.matrix(time) @ upright @ instance.path.matrix(time) @ placed


def _layer(
    shot: Shot, track: int, t: int, picture: np.ndarray, motion: Motion, shutter: float
) -> Layer | None:
    """An instance on frame t; None where it is not seen."""
    patch, canvas, time = shot.patches[shot.frame_ids[t]][track], shot.camera.canvas, shot.times[t]
    if patch is None:
        return None
    moments = exposure(motion, time, patch.corners, shutter, canvas)
    window = window_of(patch.corners, moments, canvas, MARGIN)
    if window is None:
        return None
    scale = magnification(motion(time), np.array(patch.middle))
    height, width = patch.mask.shape
    left, top = max(0, patch.left - MARGIN), max(0, patch.top - MARGIN)
    crop = picture[top : patch.top + height + MARGIN, left : patch.left + width + MARGIN]
    colours = shrunk(crop, scale, left, top)
    shape = Part(patch.mask, shifted(patch.left, patch.top))
    alpha = np.zeros((*window.size, 1), np.float32)
    colour = np.zeros((*window.size, 3), np.float32)
    for moment in moments:
        cover = _soft(seen_mask(shape, moment, window))
        alpha += cover
        colour += cover * seen(colours, moment, window)
    mask = seen_mask(shape, motion(time), window).astype(bool)
    return Layer(window, colour / len(moments), alpha / len(moments), mask)


def _hidden(layer: Layer, cover: np.ndarray) -> Layer:
    """A layer behind what covers it, [h, w] bool."""
    shown = 1 - _soft(cover)
    return Layer(layer.window, layer.colour * shown, layer.alpha * shown, layer.mask & ~cover)


def _soft(mask: np.ndarray) -> np.ndarray:
    """[h, w] -> [h, w, 1] float32 with an edge a pixel soft, so that a cut is no clue."""
    return cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0)[..., None]
