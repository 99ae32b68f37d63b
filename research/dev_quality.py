"""How good a weight file is on the development data: pictures, DAVIS sequences, composites.

    python research/dev_quality.py --model FILE --data FOLDER [--json FILE] [--conf-sweep]
    python research/dev_quality.py --table FILE.json...

Pictures are measured as they are and as clips under a moving camera (--moving 0: not). --size,
--clip-length, --clip-stride and --scoring replace what the weights say. --quick takes every second
picture and the first 20 frames of each video: for a look at a training that is still running.
--table sets the files that --json wrote side by side.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cv2
import torch
from dev_data import (
    PICTURE_SETS,
    Case,
    Classes,
    add_settings,
    composite_cases,
    davis_sequences,
    likeliest,
    load,
    moving_cases,
    picture_cases,
    read_pictures,
    trained_classes,
)
from dev_scores import compared, confidence_sweep, davis, errors, precision, tracking
from dev_tables import markdown, sweep_tables, tables

from vistool.config import PredictConfig
from vistool.models.checkpoints.files import LoadedModel


def main() -> None:
    args = parsed()
    if args.table:
        print(markdown({path.stem: json.loads(path.read_text()) for path in args.table}))
        return
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    report = measured(args)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    print(tables(report))
    if args.conf_sweep:
        print(sweep_tables(report))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="weight file, or a shipped model's name")
    parser.add_argument("--data", type=Path, help="folder of the annotated sets")
    parser.add_argument("--table", type=Path, nargs="+", help="compare what --json wrote")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    parser.add_argument("--quick", action="store_true", help="a part of the data")
    parser.add_argument("--moving", type=int, default=20, help="moving clips of each source")
    parser.add_argument("--conf", type=float, default=PredictConfig().conf, help="of predict")
    parser.add_argument("--conf-sweep", action="store_true", help="print precision and recall")
    add_settings(parser)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if not args.table and not (args.model and args.data):
        parser.error("--model and --data are needed, or --table")
    return args


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of a model."""
    began = time.perf_counter()
    loaded = load(args)
    config = loaded.model.config
    classes = trained_classes(loaded.header)
    still, moving = picture_sets(loaded, args, classes)
    sequences = davis_sequences(loaded, args.data, classes, quick=args.quick)
    composites = composite_cases(loaded, args.data, classes, quick=args.quick)
    report = {
        "model": str(loaded.header.path),
        "sha256": loaded.sha256,
        "steps": loaded.header.metadata.get("steps", "?"),
        "quick": args.quick,
        "settings": {
            "size": config.test_short_side,
            "clip_length": config.clip_length,
            "clip_stride": config.clip_stride,
            "scoring": config.scoring,
            "conf": args.conf,
            "moving": args.moving,
        },
        "pictures": score_sets(still, classes),
        "moving": score_sets(moving, classes) if moving else None,
        "davis": davis(sequences, tuple(classes)),
        "composites": score_composites(composites, classes, args.conf),
    }
    single = [s.case for s in sequences if not s.merged and s.label is not None]
    groups = {
        **still,
        "all pictures": everything(still),
        "moving clips": everything(moving),
        "videos": [*composites, *single],
    }
    shown = {name: [likeliest(case) for case in cases] for name, cases in groups.items()}
    videos = {name: compared(cases) for name, cases in shown.items() if cases}
    report["sweep"] = {name: confidence_sweep(v, len(classes)) for name, v in videos.items()}
    report["errors"] = {name: errors(v, len(classes), args.conf) for name, v in videos.items()}
    report["seconds"] = round(time.perf_counter() - began, 1)
    return report


def picture_sets(
    loaded: LoadedModel, args: argparse.Namespace, classes: Classes
) -> tuple[dict[str, list[Case]], dict[str, list[Case]]]:
    """Of every source, its pictures as they are, and moving clips of some."""
    still, moving = {}, {}
    for source in PICTURE_SETS:
        pictures = read_pictures(args.data, source, classes, quick=args.quick)
        still[source] = picture_cases(loaded, pictures, source)
        if args.moving:
            moving[source] = moving_cases(loaded, pictures, args.moving, source)
    return still, moving


def score_sets(sets: dict[str, list[Case]], classes: Classes) -> dict[str, Any]:
    names = tuple(classes)
    rows = {source: precision(compared(cases), names) for source, cases in sets.items()}
    whole = precision(compared(everything(sets)), names)
    return {"sets": rows, "all": whole, "classes": whole["classes"]}


def everything(sets: dict[str, list[Case]]) -> list[Case]:
    return [case for cases in sets.values() for case in cases]


def score_composites(cases: list[Case], classes: Classes, conf: float) -> dict[str, Any]:
    videos, shown = compared(cases), compared([likeliest(case) for case in cases])
    return {
        **precision(videos, tuple(classes)),
        "tracking": [tracking(videos, shown, min_score) for min_score in (0.0, conf)],
    }


if __name__ == "__main__":
    main()
