"""From decoded images to model inputs: size, channel order, mean and standard deviation."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from vistool.config import PixelConfig
from vistool.structures import Size

ANY_SIZE = PixelConfig()


def input_size(size: Size, short: int, long: int | None, pixels: PixelConfig = ANY_SIZE) -> Size:
    """The size to which an image is resized: its short side is `short`, its long side <= `long`.

    If the long side would be larger than `long`, both sides are smaller. The published models were
    tested with two kinds of rounding, which `pixels.rounding` selects: half a pixel up
    (detectron2), or the longer side down (DETR). Both sides are then rounded to the nearest
    multiple of `pixels.side_multiple`, which is 1 for these models.

    >>> input_size(Size(720, 1280), 360, 1333)
    Size(height=360, width=640)
    >>> input_size(Size(100, 1000), 360, 1333)
    Size(height=133, width=1333)
    >>> input_size(Size(50, 75), 333, None, PixelConfig(rounding="down"))
    Size(height=333, width=499)
    >>> input_size(Size(270, 480), 256, 640, PixelConfig(side_multiple=32))
    Size(height=256, width=448)
    """
    exact = (_size_as_detr if pixels.rounding == "down" else _size_as_detectron2)(size, short, long)
    multiple = pixels.side_multiple
    return Size(*(max(1, round(side / multiple)) * multiple for side in exact))


def _size_as_detectron2(size: Size, short: int, long: int | None) -> Size:
    scale = short / min(size)
    sides = [side * scale for side in size]
    if long is not None and max(sides) > long:
        sides = [side * (long / max(sides)) for side in sides]
    return Size(*(max(1, int(side + 0.5)) for side in sides))


def _size_as_detr(size: Size, short: int, long: int | None) -> Size:
    smaller, larger = min(size), max(size)
    if long is not None and larger / smaller * short > long:
        short = max(1, round(long * smaller / larger))
    other = int(short * larger / smaller)
    return Size(short, other) if size.height == smaller else Size(other, short)


def resize(image: np.ndarray, size: Size) -> Tensor:
    """Resize an image: [H, W, 3] uint8 -> [h, w, 3] uint8, bilinear, with antialiasing.

    The published models were trained and tested on images resized by Pillow, so Pillow is used here
    to give the same bytes. torch's antialiased resizing differs by one grey level in up to 1 of 100
    values, which changes the third digit of scores. OpenCV's INTER_AREA differs by 3 levels on
    average.
    """
    if tuple(image.shape[:2]) == size:
        return torch.from_numpy(image)
    picture = Image.fromarray(image)
    resized = picture.resize((size.width, size.height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized))


def normalise(images: Tensor, pixels: PixelConfig) -> Tensor:
    """[N, H, W, 3] uint8 RGB -> [N, 3, H, W] float32 in the model's channel order and range.

    The memory format stays channels-last, which makes backbones a third faster on a CPU.
    """
    mean = torch.tensor(pixels.mean, device=images.device)
    std = torch.tensor(pixels.std, device=images.device)
    ordered = images if pixels.channel_order == "RGB" else images.flip(-1)
    return rearrange((ordered.float() - mean) / std, "n h w c -> n c h w")
