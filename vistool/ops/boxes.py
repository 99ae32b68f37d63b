"""Boxes: conversion, overlap, and boxes around masks; resizing of masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6  # added to numerators and denominators, as in VisTR's code


def xyxy_of(boxes_cxcywh: Tensor) -> Tensor:
    """[..., 4] centre x, centre y, width, height -> left, top, right, bottom, in the same units."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def cxcywh_of(boxes_xyxy: Tensor) -> Tensor:
    """[..., 4] left, top, right, bottom -> centre x, centre y, width, height, in the same units."""
    first, last = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(first + last) / 2, last - first], dim=-1)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes, element by element with broadcasting; 1 for two empty boxes.

    Args: a, b: [..., 4] cxcywh.
    Returns: [...] in [0, 1].
    """
    both, either, _ = _areas(a, b)
    return (both + EPSILON) / (either + EPSILON)


def box_coverage(a: Tensor, b: Tensor) -> Tensor:
    """The share of box `a` that lies inside box `b`, element by element with broadcasting.

    Args: a, b: [..., 4] cxcywh.
    Returns: [...] in [0, 1].
    """
    both, _, _ = _areas(a, b)
    return both / (a[..., 2:].prod(-1) + EPSILON)


def box_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU, element by element with broadcasting.

    It is the IoU minus the share of the enclosing box that neither box covers.

    Args: a, b: [..., 4] cxcywh.
    Returns: [...] in [-1, 1].
    """
    both, either, around = _areas(a, b)
    overlap = (both + EPSILON) / (either + EPSILON)
    return overlap - (around - either + EPSILON) / (around + EPSILON)


def _areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The areas of intersection, union and enclosing box."""
    a, b = xyxy_of(a), xyxy_of(b)
    both = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    around = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    either = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - both
    return both, either, around


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    return (bottom_right - top_left).clamp(min=0).prod(-1)


def boxes_of_masks(masks: Tensor) -> Tensor:
    """The box around every mask: [..., H, W] bool -> [..., 4] cxcywh, fractions of the frame.

    Boxes include whole pixels, so a mask that fills the frame has the box (0.5, 0.5, 1, 1). The box
    of an empty mask is zeros.
    """
    height, width = masks.shape[-2:]
    top, bottom = _extent(masks.any(-1))
    left, right = _extent(masks.any(-2))
    x, w = (left + right) / 2 / width, (right - left) / width
    y, h = (top + bottom) / 2 / height, (bottom - top) / height
    boxes = torch.stack([x, y, w, h], dim=-1)
    return boxes.masked_fill(~masks.flatten(-2).any(-1, keepdim=True), 0.0)


def _extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """[..., N] bool -> the start of the first True and the end of the last True, [...] float."""
    on = line.float()
    return on.argmax(-1).float(), line.shape[-1] - on.flip(-1).argmax(-1).float()


def resize_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Resize [..., H, W] -> [..., *size] float: bilinear, corners not aligned, no antialiasing."""
    flat = masks.flatten(0, -3).unsqueeze(1).to(torch.promote_types(masks.dtype, torch.float32))
    resized = F.interpolate(flat, size=list(size), mode="bilinear", align_corners=False)
    return resized.view(*masks.shape[:-2], *size)
