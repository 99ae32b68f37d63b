"""Make a small synthetic data set in YouTube-VIS format: moving balls, crates and tents.

python examples/make_dataset.py shapes      # shapes/train.json, shapes/valid.json, their frames
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

from vistool.formats.masks.rle import encode_mask

# Directions from a shape's centre to its corners, in half turns.
SHAPES = {"ball": np.arange(0, 2, 0.05), "crate": np.arange(4) / 2, "tent": np.arange(3) / 1.5}


def clouds(rng, size, colour):
    """Noise around a colour, [*size, 3] uint8."""
    noise = sum(cv2.resize(rng.random((n, n, 3)), size[::-1]) for n in (3, 9, 27)) / 3
    return (np.clip(colour + noise - 0.5, 0, 1) * 255).astype(np.uint8)


def draw_video(rng, frames, size):
    """Pictures [T, H, W, 3] uint8, labels [N] and masks [N, T, H, W] bool of one or two objects."""
    labels = rng.integers(len(SHAPES), size=rng.integers(1, 3))
    pictures = np.stack([clouds(rng, size, rng.uniform(0.3, 0.7))] * frames)
    masks = np.zeros((len(labels), *pictures.shape[:3]), bool)
    for n, label in enumerate(labels):
        look = clouds(rng, size, rng.permutation([0.1, rng.random(), 0.9]))
        way = rng.uniform(0.25, 0.75, (2, 2)) + np.array([n, 0])  # x, y at the start and the end
        way *= np.array([size[1] / len(labels), size[0]])  # every object on its side of the picture
        radius = rng.uniform(0.28, 0.36) * min(size)
        first, turn = rng.uniform(-0.5, 0.5, 2)
        for t, time in enumerate(np.linspace(0, 1, frames)):
            shift = np.rint((way[1] - way[0]) * time).astype(int)
            angles = np.pi * (list(SHAPES.values())[label] + first + turn * time)
            corners = way[0] + shift + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            cover = cv2.fillPoly(np.zeros(size, np.uint8), [np.rint(corners).astype(int)], 1) > 0
            pictures[t][cover] = np.roll(look, shift[::-1], (0, 1))[cover]
            masks[:n, t] &= ~cover  # it hides objects that were drawn earlier
            masks[n, t] = cover
    return pictures, labels, masks


def make_set(folder, name, videos, frames=12, size=(240, 320), seed=0):
    """Write folder/NAME.json and folder/NAME/VIDEO/FRAME.jpg; returns the path of the JSON."""
    rng, entries, annotations = np.random.default_rng(seed), [], []
    for video in range(1, videos + 1):
        names = [f"{video:04}/{t:05}.jpg" for t in range(frames)]
        (folder / name / f"{video:04}").mkdir(parents=True, exist_ok=True)
        pictures, labels, masks = draw_video(rng, frames, size)
        for file, picture in zip(names, pictures, strict=True):
            cv2.imwrite(str(folder / name / file), picture)
        shape = {"height": size[0], "width": size[1], "length": frames}
        entries.append({"id": video, "file_names": names, **shape})
        for label, mask in zip(labels, masks, strict=True):
            rles = [encode_mask(m) if m.any() else None for m in mask]
            entry = {"video_id": video, "category_id": int(label) + 1, "segmentations": rles}
            annotations.append({"id": len(annotations) + 1, "iscrowd": 0, **entry, **shape})
    categories = [{"id": n, "name": shape} for n, shape in enumerate(SHAPES, start=1)]
    content = {"videos": entries, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / f"{name}.json"


if __name__ == "__main__":
    make_set(Path(sys.argv[1]), "train", videos=24, seed=1)
    print(make_set(Path(sys.argv[1]), "valid", videos=8, seed=2))
