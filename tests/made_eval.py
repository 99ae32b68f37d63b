"""A data set of several synthetic videos, and predictions on it, for the tests of `eval`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vistool.formats.masks.rle import encode_mask
from vistool.structures import RLE

HEIGHT, WIDTH = 48, 64
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def block(top: int, left: int, side: int = 16, size: tuple[int, int] = (HEIGHT, WIDTH)) -> RLE:
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return encode_mask(mask)


def moving(top: int, length: int, step: int = 2) -> list[RLE | None]:
    """The masks of a block that moves to the right."""
    return [block(top, 4 + step * t) for t in range(length)]


def make_set(
    folder: Path, lengths: Sequence[int] = (4, 3, 5), *, frames: bool = False, **fields: Any
) -> Path:
    """Write a YouTube-VIS file with a cat and a dog in each video; video ids are 10, 20 and so on.

    Args: frames: also draw the pictures; fields: more fields of every video.
    """
    folder.mkdir(parents=True, exist_ok=True)
    videos: list[Any] = []
    annotations: list[Any] = []
    for n, length in enumerate(lengths, start=1):
        names = [f"v{n}/{t:03}.png" for t in range(length)]
        video = {"id": 10 * n, "width": WIDTH, "height": HEIGHT, "length": length}
        videos.append({**video, "file_names": names, **fields})
        for category, top in ((3, 2), (7, 26)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": 10 * n,
                    "category_id": category,
                    "iscrowd": 0,
                    "segmentations": moving(top, length),
                }
            )
        for t, name in enumerate(names if frames else []):
            picture = np.full((HEIGHT, WIDTH, 3), 90 + 10 * n, np.uint8)
            picture[2:18, 4 + 2 * t : 20 + 2 * t] = (40, 40, 220)
            picture[26:42, 4 + 2 * t : 20 + 2 * t] = (220, 40, 40)
            (folder / name).parent.mkdir(exist_ok=True)
            cv2.imwrite(str(folder / name), picture)
    path = folder / "set.json"
    content = {"videos": videos, "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps(content))
    return path


def truth_as_results(path: Path, score: float = 0.9) -> list[dict[str, Any]]:
    """The labelled tracks as predictions."""
    content = json.loads(path.read_text())
    keys = ("video_id", "category_id", "segmentations")
    return [{**{key: a[key] for key in keys}, "score": score} for a in content["annotations"]]


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
