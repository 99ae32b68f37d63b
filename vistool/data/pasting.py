"""Pasting: instances are cut out of one shot and move over another on their own paths."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vistool.data.motion import ObjectPath, shifted
from vistool.data.shots import Shot, read_image
from vistool.data.warping import (
    CanvasBox,
    Motion,
    Part,
    canvas_box_of,
    exposure,
    magnification,
    seen,
    seen_mask,
    shrunk,
)

MARGIN = 2  # pixels around an instance that are cut out too, because its edge is blended


@dataclass(frozen=True, slots=True)
class Pasted:
    """An instance of a shot that is pasted into another one."""

    track: int  # its index in the shot
    path: ObjectPath
    behind: bool  # behind all instances that are already there, otherwise in front of them


@dataclass(frozen=True, slots=True)
class Layer:
    """The pixels of one instance on one frame, in a box of the canvas."""

    box: CanvasBox
    colour: np.ndarray  # [h, w, 3] float32, multiplied by alpha
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
    """Paste instances of `above` into the frames of `below`.

    Args:
        frames: [T, H, W, 3] uint8, modified in place; masks: [N, T, H, W] bool, of `below`.
        shutter: the exposure of a frame, in clip time.

    Returns: [N + P, T, H, W] bool: the visible masks of the N instances and the P pasted ones.
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
                layer = _hidden(layer, own[t][layer.box.pixels])
            region = frames[t][layer.box.pixels]
            region[:] = (region * (1 - layer.alpha) + layer.colour + 0.5).astype(np.uint8)
            result[:, t, *layer.box.pixels] &= ~layer.mask
            result[len(masks) + i, t][layer.box.pixels] = layer.mask
    return result


def _motion(below: Shot, above: Shot, instance: Pasted) -> Motion:
    """The motion from an instance's picture to the canvas: its own path under the camera below."""
    placed, upright = above.camera.matrix(0.0), np.linalg.inv(below.camera.matrix(0.0))
    return lambda time: below.camera.matrix(time) @ upright @ instance.path.matrix(time) @ placed


def _layer(
    shot: Shot, track: int, t: int, picture: np.ndarray, motion: Motion, shutter: float
) -> Layer | None:
    """An instance on frame t; None if it is not visible."""
    patch, canvas, time = shot.patches[shot.frame_ids[t]][track], shot.camera.canvas, shot.times[t]
    if patch is None:
        return None
    moments = exposure(motion, time, patch.corners, shutter, canvas)
    box = canvas_box_of(patch.corners, moments, canvas, MARGIN)
    if box is None:
        return None
    scale = magnification(motion(time), np.array(patch.middle))
    height, width = patch.mask.shape
    left, top = max(0, patch.left - MARGIN), max(0, patch.top - MARGIN)
    crop = picture[top : patch.top + height + MARGIN, left : patch.left + width + MARGIN]
    colours = shrunk(crop, scale, left, top)
    shape = Part(patch.mask, shifted(patch.left, patch.top))
    alpha = np.zeros((*box.size, 1), np.float32)
    colour = np.zeros((*box.size, 3), np.float32)
    for moment in moments:
        cover = _soft(seen_mask(shape, moment, box))
        alpha += cover
        colour += cover * seen(colours, moment, box)
    mask = seen_mask(shape, motion(time), box).astype(bool)
    return Layer(box, colour / len(moments), alpha / len(moments), mask)


def _hidden(layer: Layer, cover: np.ndarray) -> Layer:
    """The part of a layer that is not covered by `cover`, [h, w] bool."""
    shown = 1 - _soft(cover)
    return Layer(layer.box, layer.colour * shown, layer.alpha * shown, layer.mask & ~cover)


def _soft(mask: np.ndarray) -> np.ndarray:
    """[h, w] -> [h, w, 1] float32 with blurred edges, so that cuts do not reveal instances."""
    return cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0)[..., None]
