"""Count the marked pedestrians of a clip that lie inside a predicted mask, and the false tracks.

    python research/vtest.py --model FILE --data FOLDER [--size 480]

Every pedestrian on ten frames is marked by a point (`vtest_points.json`). The model predicts the
whole clip as `vistool predict` does. A pedestrian is detected if a mask of class person contains
the point; a mask counts for one point only. The other masks on these frames are false, except those
of a vehicle class that contain the point of one of the two vehicles.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

import vistool

POINTS = Path(__file__).with_name("vtest_points.json")
VEHICLES = ("car", "large vehicle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="weight file, or a shipped model's name")
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    parser.add_argument("--size", type=int, help="short side of the model's input")
    parser.add_argument("--conf", type=float, default=vistool.PredictConfig().conf)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)

    marked = json.loads(POINTS.read_text())
    loaded = vistool.load_model(args.model)
    found = false = points = 0
    clip = args.data / marked["clip"]
    with vistool.predict(clip, model=loaded, conf=args.conf, size=args.size, device="cpu") as video:
        for number, pedestrians in marked["frames"].items():
            frame = video.frames[int(number)]
            masks = list(zip(frame.class_names, frame.masks, strict=True))
            right = matched([m for name, m in masks if name == "person"], pedestrians)
            cars = matched([m for name, m in masks if name in VEHICLES], marked["vehicles"])
            wrong = len(masks) - right - cars
            print(f"frame {number:>3}: {right} of {len(pedestrians)} detected, {wrong} false")
            found, false, points = found + right, false + wrong, points + len(pedestrians)
    share, per_frame = found / points, false / len(marked["frames"])
    print(f"{found} of {points} ({share:.0%}), {per_frame:.1f} false tracks per frame")


def matched(masks: Sequence[np.ndarray], points: Sequence[Sequence[int]]) -> int:
    """The largest number of disjoint pairs of a mask and a point inside it."""
    inside = np.array([[bool(mask[y, x]) for x, y in points] for mask in masks])
    if not inside.size:
        return 0
    return int(inside[linear_sum_assignment(inside, maximize=True)].sum())


if __name__ == "__main__":
    main()
