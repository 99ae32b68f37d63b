"""Synthetic annotated pictures and videos: coloured squares on noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vistool.formats.masks.rle import encode_mask

COLOURS = {"red square": (220, 30, 30), "blue square": (30, 30, 220)}
CATEGORIES = [{"id": 3 + i, "name": name} for i, name in enumerate(COLOURS)]
HEIGHT, WIDTH = 64, 96


def make_pictures(folder: Path, count: int, **picture_fields: Any) -> Path:
    """Write COCO pictures with one square of each colour. Returns: the annotation file."""
    rng = np.random.default_rng(7)
    images: list[Any] = []
    annotations: list[Any] = []
    for i in range(count):
        picture = rng.integers(90, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for n, (name, colour) in enumerate(COLOURS.items()):
            mask = square(int(rng.integers(4, 34)), 4 + 46 * n + int(rng.integers(12)), 24)
            picture[mask] = colour
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": CATEGORIES[n]["id"],
                    "iscrowd": 0,
                    "segmentation": encode_mask(mask),
                    "note": name,
                }
            )
        _write(folder / f"{i}.png", picture)
        size = {"width": WIDTH, "height": HEIGHT}
        images.append({"id": i + 1, "file_name": f"{i}.png", **size, **picture_fields})
    return _write_json(folder / "pictures.json", "images", images, annotations)


def make_video(folder: Path, length: int) -> Path:
    """Write a YouTube-VIS set of one video. Returns: the annotation file.

    A red square moves; a blue one is visible on even frames.
    """
    names, red, blue = [], [], []
    for t in range(length):
        picture = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
        moving, still = square(10, 2 + 4 * t, 20), square(40, 70, 16)
        picture[moving] = COLOURS["red square"]
        if t % 2 == 0:
            picture[still] = COLOURS["blue square"]
        names.append(f"v/{t}.png")
        red.append(encode_mask(moving))
        blue.append(encode_mask(still) if t % 2 == 0 else None)
        _write(folder / names[-1], picture)
    video = {"id": 1, "file_names": names, "width": WIDTH, "height": HEIGHT, "length": length}
    annotations = [
        {"id": i + 1, "video_id": 1, "category_id": 3 + i, "iscrowd": 0, "segmentations": masks}
        for i, masks in enumerate((red, blue))
    ]
    return _write_json(folder / "videos.json", "videos", [video], annotations)


def square(top: int, left: int, side: int) -> np.ndarray:
    """The mask of a square, [HEIGHT, WIDTH] bool."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def _write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture[..., ::-1])


def _write_json(path: Path, kind: str, entries: list[Any], annotations: list[Any]) -> Path:
    content = {kind: entries, "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps(content))
    return path
