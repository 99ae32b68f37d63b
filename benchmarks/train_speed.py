"""Training speed in clips per second, in float32 and bfloat16, and the share of waiting for data.

    python benchmarks/train_speed.py                                  # ifc-lite's settings, small
    python benchmarks/train_speed.py --model ifc-r50 --clip-length 5 --size 360x640 --batch 1
    python benchmarks/train_speed.py --config configs/ifc-lite.toml --data FOLDER

The first two train on synthetic pictures, JPEGs of 640x480 with squares. The figures come from the
log of a normal training. The first steps, which start the workers and threads, are left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch

from vistool.config import SourceConfig, TrainConfig, apply_overrides, from_mapping, load_toml
from vistool.engine.train.log import LOG
from vistool.engine.train.train import train
from vistool.formats.masks.rle import encode_mask
from vistool.models.checkpoints.presets import PRESETS, preset

LITE = Path(__file__).resolve().parent.parent / "configs" / "ifc-lite.toml"
PICTURES, HEIGHT, WIDTH = 24, 480, 640
WARM_UP = 2  # steps that are not measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ifc-lite", choices=["ifc-lite", *PRESETS])
    parser.add_argument(
        "--config", type=Path, help="settings of a training, instead of --model; needs --data"
    )
    parser.add_argument("--data", type=Path, help="folder of the sets that --config names")
    parser.add_argument("--clip-length", type=int, default=1)
    parser.add_argument("--size", default="192x256", help="height x width")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    args = parser.parse_args()

    what = str(args.config or args.model)
    print(f"{what}, {torch.get_num_threads()} threads, {args.workers} workers")
    print(f"{'precision':10}{'clips/s':>9}{'ratio':>7}{'s/step':>8}{'waiting':>9}")
    first = None
    with tempfile.TemporaryDirectory() as folder:
        values = settings(args, Path(folder))
        for precision in args.precisions:
            config = from_mapping({**values, "precision": precision}, TrainConfig, where=what)
            clips, seconds, waiting = measure(config, Path(folder) / f"run-{precision}")
            first = first or clips
            print(
                f"{precision:10}{clips:9.2f}{clips / first:7.2f}{seconds:8.2f}{waiting:9.1%}",
                flush=True,
            )


def settings(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The settings of a TrainConfig, as plain values."""
    steps = WARM_UP + args.steps
    common = {"steps": steps, "save_every": steps, "workers": args.workers, "device": args.device}
    if args.config is not None:
        values = {**load_toml(args.config), **common, "data": str(args.data)}
    else:
        height, _, width = args.size.partition("x")
        values = {
            **common,
            "model": model(args.model),
            "classes": {"square": ["square"]},
            "sources": [msgspec.to_builtins(SourceConfig(annotations="pictures.json"))],
            "data": str(make_pictures(folder)),
            "init": "random",
            "batch": args.batch,
            "clip_length": args.clip_length,
            "canvases": [[int(height), int(width)]],
        }
        if args.model == "ifc-lite":
            values["frozen_blocks"] = load_toml(LITE)["frozen_blocks"]
    return apply_overrides(values, args.overrides)


def model(name: str) -> dict[str, Any]:
    if name == "ifc-lite":
        return dict(load_toml(LITE)["model"])
    values: dict[str, Any] = msgspec.to_builtins(preset(name))
    return {key: x for key, x in values.items() if key not in ("class_names", "category_ids")}


def make_pictures(folder: Path) -> Path:
    """COCO pictures of smooth noise with three squares each."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(PICTURES):
        noise = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        picture = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        for _ in range(3):
            side = int(rng.integers(60, 200))
            top, left = int(rng.integers(HEIGHT - side)), int(rng.integers(WIDTH - side))
            picture[top : top + side, left : left + side] = rng.integers(0, 255, 3)
            mask = np.zeros((HEIGHT, WIDTH), bool)
            mask[top : top + side, left : left + side] = True
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": encode_mask(mask),
                }
            )
        name = f"{number}.jpg"
        cv2.imwrite(str(folder / name), picture)
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "square"}],
    }
    (folder / "pictures.json").write_text(json.dumps(content))
    return folder


def measure(config: TrainConfig, run: Path) -> tuple[float, float, float]:
    """Clips per second, seconds per step, and the share of time spent waiting for data."""
    train(config, run)
    lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()][WARM_UP:]
    seconds = sum(line["seconds"] for line in lines)
    waiting = sum(line["data_seconds"] for line in lines)
    clips = len(lines) * config.batch * config.accumulate
    return clips / seconds, seconds / len(lines), waiting / seconds


if __name__ == "__main__":
    main()
