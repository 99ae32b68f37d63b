"""Evaluation speed of vistool and of plain loops over pycocotools, at YouTube-VIS 2021's size.

    python -m benchmarks.eval_speed                 20 synthetic videos, half a minute
    python -m benchmarks.eval_speed --videos 421    full size, minutes, mostly for the loops

The videos have 30 frames of 1280x720, 1 to 6 objects, and 10 to 100 predicted tracks, near objects
or anywhere. Outlines are wavy like those of real masks. At most 40 videos are different; others
repeat them. Both programs read the same files in separate processes and compute AP. Measured are:

* reading: reading the JSON files, and for vistool the check of every mask in them;
* AP: from masks in memory to the precision array; the loops compare pairs of the same category
  only, like the official evaluator;
* every pair: the overlaps of all predictions with all objects, needed for HOTA, the error
  breakdown and vistool's AP.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from tests.pairwise_ap import PairwiseAP, pair_iou
from vistool.annotations.dataset import AnnotatedTrack
from vistool.annotations.read import read_dataset
from vistool.annotations.results_check import check_results
from vistool.metrics.ap import average_precision
from vistool.metrics.overlaps import overlaps_of_videos

HEIGHT, WIDTH, FRAMES, CATEGORIES = 720, 1280, 30, 40
SHAPES = 6  # number of outlines in a track; each one moves for some frames
DIFFERENT = 40  # videos; more videos repeat them under other ids
TRUTH, RESULTS = "truth.json", "results.json"
VIDEOS_IN_VAL = 421


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # a separate process
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(SIDES[args.side](args.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="eval-speed-") as name:
        folder = Path(name)
        counts = make_files(folder, args.videos)
        measured = {side: run_side(side, folder) for side in SIDES}
    report = {"made": counts, "cores": os.cpu_count(), **measured}
    difference = np.abs(np.subtract(measured["ours"].pop("ap"), measured["loops"].pop("ap"))).max()
    report["largest_difference"] = float(difference)
    print(json.dumps(report, indent=1) if args.json else table(report, args.videos))


def run_side(side: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.eval_speed", "--side", side]
    done = subprocess.run([*command, "--folder", str(folder)], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def table(report: dict[str, Any], videos: int) -> str:
    lines = [
        f"{videos} videos, {report['made']['predictions']} predicted and "
        f"{report['made']['truth']} labelled tracks, {report['made']['megabytes']:.0f} MB of "
        f"results, {report['cores']} cores",
        f"{'':12}{'loops':>16}{'vistool':>18}{'ratio':>15}",
        f"{'':12}{'wall / CPU s':>16}{'wall / CPU s':>18}{'wall / CPU':>15}",
    ]
    sums: dict[str, list[float]] = {"loops": [0, 0], "ours": [0, 0]}
    for stage in ("reading", "AP", "every pair", "reading + AP"):
        times = {}
        for side, total in sums.items():
            if stage == "reading + AP":
                times[side] = total
            else:
                times[side] = [report[side][stage]["wall"], report[side][stage]["cpu"]]
                if stage != "every pair":
                    sums[side] = [a + b for a, b in zip(total, times[side], strict=True)]
        loops, ours = times["loops"], times["ours"]
        lines.append(
            f"{stage:12}{loops[0]:8.2f} /{loops[1]:6.2f}{ours[0]:10.3f} /{ours[1]:6.3f}"
            f"{loops[0] / ours[0]:8.1f} /{loops[1] / ours[1]:5.1f}"
        )
    scale = VIDEOS_IN_VAL / videos
    lines += [
        f"start (imports, compiled loops): {report['ours']['start']:.2f} s, not in the table",
        f"peak memory: loops {report['loops']['peak_mb']:.0f} MB, "
        f"vistool {report['ours']['peak_mb']:.0f} MB",
        f"largest difference in precision and recall: {report['largest_difference']:.1e}",
    ]
    if videos != VIDEOS_IN_VAL:
        lines.append(
            f"extrapolated, not measured, to {VIDEOS_IN_VAL} videos, AP: "
            f"loops {report['loops']['AP']['wall'] * scale:.0f} s, "
            f"vistool {report['ours']['AP']['wall'] * scale:.1f} s"
        )
    return "\n".join(lines)


# --- the two programs -----------------------------------------------------------------------------


def ours(folder: Path) -> dict[str, Any]:
    began = time.perf_counter()
    nothing = 1, [AnnotatedTrack(1, 1, [blank()])], [{**PREDICTION, "segmentations": [blank()]}]
    average_precision(overlaps_of_videos([nothing]), category_ids=[1])
    start = time.perf_counter() - began
    with Timer() as reading:
        dataset = read_dataset(folder / TRUTH)
        results = check_results(folder / RESULTS, dataset).results
    categories = [category.id for category in dataset.categories]
    by_video: dict[int, tuple[list[Any], list[Any]]] = {v.id: ([], []) for v in dataset.videos}
    for track in dataset.tracks:
        by_video[track.video_id][0].append(replace(track, areas=None))
    for result in results:
        by_video[result["video_id"]][1].append(result)
    with Timer() as scoring:
        compared = overlaps_of_videos((v, *tracks) for v, tracks in by_video.items())
        ap = average_precision(compared, category_ids=categories)
    peak = peak_mb()
    with Timer() as pairs:
        for _ in overlaps_of_videos((v, *tracks) for v, tracks in by_video.items()):
            pass
    return {
        "start": start,
        "reading": reading.seconds,
        "AP": scoring.seconds,
        "every pair": pairs.seconds,
        "peak_mb": peak,
        "ap": [*ap.precision.ravel(), *ap.recall.ravel()],
    }


def loops(folder: Path) -> dict[str, Any]:
    with Timer() as reading:
        truth = json.loads((folder / TRUTH).read_text())
        results = json.loads((folder / RESULTS).read_text())
    ids = [video["id"] for video in truth["videos"]]
    categories = [category["id"] for category in truth["categories"]]
    with Timer() as scoring:
        ap = PairwiseAP(truth["annotations"], results, ids, categories)
    peak = peak_mb()
    with Timer() as pairs:
        for video in ids:
            labelled = [a for a in truth["annotations"] if a["video_id"] == video]
            for result in (r for r in results if r["video_id"] == video):
                for annotation in labelled:
                    pair_iou(result["segmentations"], annotation["segmentations"])
    return {
        "reading": reading.seconds,
        "AP": scoring.seconds,
        "every pair": pairs.seconds,
        "peak_mb": peak,
        "ap": [*ap.precision.ravel(), *ap.recall.ravel()],
    }


SIDES: dict[str, Callable[[Path], dict[str, Any]]] = {"loops": loops, "ours": ours}
PREDICTION = {"video_id": 1, "category_id": 1, "score": 0.5}


class Timer:
    """Measures wall-clock time and the processor time of all threads."""

    def __enter__(self) -> Timer:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *exception: object) -> None:
        wall, cpu = self._began
        self.seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def blank() -> dict[str, Any]:
    return compressed([HEIGHT * WIDTH])


# --- synthetic videos -----------------------------------------------------------------------------


def make_files(folder: Path, videos: int) -> dict[str, Any]:
    """Write truth.json and results.json. Returns: the numbers of tracks, and the size in MB."""
    annotations: list[dict[str, Any]] = []
    predictions = 0
    with (folder / RESULTS).open("w") as file:
        different = [make_video(np.random.default_rng(n)) for n in range(min(videos, DIFFERENT))]
        for video in range(1, videos + 1):
            labelled, predicted = different[video % len(different)]
            for annotation in labelled:
                annotations.append({"id": len(annotations) + 1, "video_id": video, **annotation})
            for prediction in predicted:
                file.write(",\n" if predictions else "[")
                file.write(json.dumps({"video_id": video, **prediction}))
                predictions += 1
        file.write("]\n")
    entries = [
        {
            "id": video,
            "width": WIDTH,
            "height": HEIGHT,
            "length": FRAMES,
            "file_names": [f"{video}/{frame:05}.jpg" for frame in range(FRAMES)],
        }
        for video in range(1, videos + 1)
    ]
    categories = [{"id": k, "name": f"category {k}"} for k in range(1, CATEGORIES + 1)]
    truth = {"videos": entries, "annotations": annotations, "categories": categories}
    (folder / TRUTH).write_text(json.dumps(truth))
    size = (folder / RESULTS).stat().st_size
    return {"truth": len(annotations), "predictions": predictions, "megabytes": size / 2**20}


def make_video(rng: np.random.Generator) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tracks of 1 to 6 objects, and predictions, three fifths of which are near an object."""
    kinds = rng.integers(1, CATEGORIES + 1, 1 + (rng.random() < 0.3))
    objects = [Blob(rng) for _ in range(min(6, 1 + rng.poisson(1.6)))]
    labels = rng.choice(kinds, len(objects))
    labelled = []
    for blob, label in zip(objects, labels, strict=True):
        masks = blob.track(rng)
        areas = [float(coco.area(mask)) for mask in masks]
        labelled.append(entry(label, masks) | {"areas": areas, "iscrowd": 0})
    predicted = []
    for _ in range(rng.integers(10, 101)):
        if rng.random() < 0.6:
            place = rng.integers(len(objects))
            blob, label = objects[place].perturbed(rng), labels[place]
        else:
            blob, label = Blob(rng), rng.choice(kinds)
        if rng.random() < 0.3:
            label = rng.integers(1, CATEGORIES + 1)
        masks = [mask if rng.random() < 0.9 else None for mask in blob.track(rng)]
        predicted.append(entry(label, masks) | {"score": round(rng.random(), 6)})
    return labelled, predicted


def entry(label: int, masks: list[Any]) -> dict[str, Any]:
    return {"category_id": int(label), "segmentations": masks}


class Blob:
    """A wavy outline that moves and changes a little."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.radius = np.exp(rng.uniform(np.log(30), np.log(200)))
        self.centre = rng.uniform([0.25 * WIDTH, 0.3 * HEIGHT], [0.75 * WIDTH, 0.7 * HEIGHT])
        self.speed = rng.normal(0, 6, 2)
        self.waves = np.arange(2, 14)
        self.heights = rng.exponential(0.15, len(self.waves)) / self.waves
        self.phases = rng.uniform(0, 2 * np.pi, len(self.waves))

    def perturbed(self, rng: np.random.Generator) -> Blob:
        """A prediction of this object."""
        other = Blob(rng)
        other.radius = self.radius * np.exp(rng.normal(0, 0.1))
        other.centre = self.centre + rng.normal(0, 0.1 * self.radius, 2)
        other.speed, other.heights = self.speed, self.heights
        other.phases = self.phases + rng.normal(0, 0.4, len(self.phases))
        return other

    def track(self, rng: np.random.Generator) -> list[dict[str, Any]]:
        angles = np.linspace(0, 2 * np.pi, 120, endpoint=False)
        masks = []
        for shape in range(SHAPES):
            phases = self.phases + rng.normal(0, 0.1, len(self.phases))
            waves = np.cos(self.waves[:, None] * angles + phases[:, None])
            radius = self.radius * (1 + self.heights @ waves)
            outline = self.centre[:, None] + radius * np.stack([np.cos(angles), np.sin(angles)])
            for frame in range(shape * FRAMES // SHAPES, (shape + 1) * FRAMES // SHAPES):
                moved = outline + (self.speed * frame)[:, None]
                moved = np.clip(moved, 0, [[WIDTH], [HEIGHT]]).T.ravel().tolist()
                rle = coco.frPyObjects([moved], HEIGHT, WIDTH)[0]
                masks.append({"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode("ascii")})
        return masks


def compressed(runs: list[int]) -> dict[str, Any]:
    code = coco.frPyObjects({"size": [HEIGHT, WIDTH], "counts": runs}, HEIGHT, WIDTH)
    return {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode("ascii")}


if __name__ == "__main__":
    main()
