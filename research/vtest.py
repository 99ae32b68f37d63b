"""How many of the marked pedestrians of a clip are inside a reported mask, and false tracks.

    python research/vtest.py --model FILE --data FOLDER [--size 480]

Every pedestrian on ten frames is marked by a point (`vtest_points.json`). The model predicts the
whole clip as `vistool predict` does unless told otherwise. A pedestrian is found where a mask of
class person holds the point; a mask counts for one point only. Of the other masks on these frames,
those of a vehicle's class that hold one of the two vehicles' points are right, the rest are false.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from vistool.config import PredictConfig
from vistool.engine.predict import predict_video
from vistool.formats.results import RESULTS, read_results
from vistool.formats.rle import decode_mask
from vistool.models.weights import load_model

POINTS = Path(__file__).with_name("vtest_points.json")
VEHICLES = ("car", "large vehicle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="weight file, or a shipped model's name")
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    parser.add_argument("--size", type=int, help="short side of the model's input")
    parser.add_argument("--conf", type=float, default=PredictConfig().conf)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)

    marked = json.loads(POINTS.read_text())
    loaded = load_model(args.model)
    config = PredictConfig(conf=args.conf, size=args.size, overlay=False, device="cpu")
    with tempfile.TemporaryDirectory() as output:
        predict_video(loaded, args.data / marked["clip"], output, config)
        tracks = list(read_results(Path(output) / RESULTS))
    header = loaded.header.config
    names = dict(zip(header.ids_of_classes(), header.class_names, strict=True))
    found = false = points = 0
    for frame, pedestrians in marked["frames"].items():
        masks = [
            (names[track["category_id"]], decode_mask(rle))
            for track in tracks
            if (rle := track["segmentations"][int(frame)]) is not None
        ]
        right = matched([m for name, m in masks if name == "person"], pedestrians)
        cars = matched([m for name, m in masks if name in VEHICLES], marked["vehicles"])
        wrong = len(masks) - right - cars
        print(f"frame {frame:>3}: {right} of {len(pedestrians)} found, {wrong} false")
        found, false, points = found + right, false + wrong, points + len(pedestrians)
    share, per_frame = found / points, false / len(marked["frames"])
    print(f"{found} of {points} ({share:.0%}), {per_frame:.1f} false tracks a frame")


def matched(masks: Sequence[np.ndarray], points: Sequence[Sequence[int]]) -> int:
    """How many pairs of a mask and a point inside it there are, each in one pair at most."""
    inside = np.array([[bool(mask[y, x]) for x, y in points] for mask in masks])
    if not inside.size:
        return 0
    return int(inside[linear_sum_assignment(inside, maximize=True)].sum())


if __name__ == "__main__":
    main()
