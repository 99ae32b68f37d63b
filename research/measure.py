"""How good a weight file is on each half of the development data, with bootstrap intervals.

    python research/measure.py --model FILE --data FOLDER [--json FILE]
    python research/measure.py --table FILE.json...

Every set is measured on the halves of `split.json`. Predictions are mapped onto the ten
classes that the first weights had, so that models of other classes compare; what is of none of them
is left out. Of the model's own classes, AP50 on pictures is printed beside these. An interval holds
95 % of the samples of the pictures or videos.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from dev_data import (
    OBJECT,
    Case,
    Classes,
    Followed,
    add_settings,
    composite_cases,
    davis_sequences,
    likeliest,
    load,
    picture_cases,
    trained_classes,
)
from dev_scores import compared, confidence_sweep
from split import PICTURES, SPLIT

from vistool.data.labelled import read_annotations
from vistool.metrics.ap import APBuilder
from vistool.metrics.bootstrap import Measure, ap_measure, hota_measure
from vistool.metrics.davis import region_similarity
from vistool.metrics.hota import hota_of_video
from vistool.metrics.overlaps import VideoOverlaps, shared_pixels
from vistool.metrics.tracking_measures import TrackingResult
from vistool.structures import RLE, TrackSegmentation

TEN: dict[str, tuple[str, ...]] = {
    "person": ("person",),
    "bicycle": ("bicycle",),
    "motorcycle": ("motorcycle",),
    "car": ("car",),
    "large vehicle": ("bus", "train", "truck"),
    "bird": ("bird",),
    "cat": ("cat",),
    "dog": ("dog",),
    "hoofed animal": ("horse", "sheep", "cow", "zebra", "giraffe"),
    "other animal": ("elephant", "bear", "rhino"),
}
SAMPLES = 1000
FOUND = 0.5  # IoU
Values = dict[str, Any]


def main() -> None:
    args = parsed()
    if args.table:
        print(table({path.stem: json.loads(path.read_text()) for path in args.table}))
        return
    for constant in args.constant:
        set_constant(constant)
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    report = measured(args)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table({report["name"]: report}))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="weight file, or a shipped model's name")
    parser.add_argument("--data", type=Path, help="folder of the annotated sets")
    parser.add_argument("--table", type=Path, nargs="+", help="compare what --json wrote")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    parser.add_argument("--sets", nargs="+", choices=[*PICTURES, "davis", "composites"])
    parser.add_argument(
        "--constant",
        action="append",
        default=[],
        metavar="MODULE.NAME=NUMBER",
        help="of a rule, as vistool.tracking.postprocess.SIZE_EXPONENT=0",
    )
    add_settings(parser)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if not args.table and not (args.model and args.data):
        parser.error("--model and --data are needed, or --table")
    return args


def set_constant(text: str) -> None:
    """Another value for a constant that was fitted, to see what it does."""
    place, _, number = text.partition("=")
    module_name, _, name = place.rpartition(".")
    module = importlib.import_module(module_name)
    setattr(module, name, type(getattr(module, name))(float(number)))


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of a model: {set: {half: {measure: [value, low, high]}}}."""
    began = time.perf_counter()
    loaded = load(args)
    own = trained_classes(loaded.header)
    split = json.loads(SPLIT.read_text())
    asked = args.sets or [*PICTURES, "davis", "composites"]
    sets: dict[str, Any] = {}
    own_cases: dict[str, list[Case]] = {"choose": [], "report": []}
    shown: dict[str, list[Case]] = {"choose": [], "report": []}  # as `vistool predict` shows them
    for source in [name for name in PICTURES if name in asked]:
        path = args.data / source / "dev.json"
        pictures = read_annotations(path, TEN)
        objects = nameless(path)
        cases = picture_cases(loaded, pictures, source)
        cases = [replace(c, ignored=objects.get(c.video.files[0].name, ())) for c in cases]
        # The same finds, of the model's own classes.
        labels = read_annotations(path, own)
        of_own = [replace(c, video=v) for c, v in zip(cases, labels, strict=True)]
        sets[source] = {}
        for half, names in split["pictures"][source].items():
            chosen = [case for case in cases if case.video.files[0].name in names]
            own_cases[half] += [case for case in of_own if case.video.files[0].name in names]
            sets[source][half] = picture_values([as_ten(case, own) for case in chosen])
            shown[half] += [as_ten(likeliest(case), own) for case in chosen]
    if "davis" in asked:
        followed = davis_sequences(loaded, args.data, TEN)
        sets["davis"] = by_half(followed, split["videos"]["davis"], own)
    if "composites" in asked:
        cases = [as_ten(c, own) for c in composite_cases(loaded, args.data, TEN)]
        sets["composites"] = composites_by_half(cases, split["videos"]["composites"])
    return {
        "name": loaded.header.path.stem,
        "sha256": loaded.sha256,
        "steps": loaded.header.metadata.get("steps", "?"),
        "sets": sets,
        "sweep": {h: confidence_sweep(compared(cases), len(TEN)) for h, cases in shown.items()},
        "classes": {half: by_class(cases, tuple(own)) for half, cases in own_cases.items()},
        "seconds": round(time.perf_counter() - began, 1),
    }


# --- labels ---------------------------------------------------------------------------------------


def nameless(path: Path) -> dict[str, tuple[list[Any], ...]]:
    """By file name, the masks of objects of no COCO category: finds on them do not count."""
    content = json.loads(path.read_text())
    files = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
    masks: dict[str, tuple[list[Any], ...]] = {}
    for a in content["annotations"]:
        if a["category_id"] == OBJECT:
            name = files[a["image_id"]]
            masks[name] = (*masks.get(name, ()), [a["segmentation"]])
    return masks


def as_ten(case: Case, own: Classes) -> Case:
    """With what is found as one of the ten classes; of a track's several, the best score."""
    places = [
        next((i for i, ten in enumerate(TEN.values()) if set(ten) & set(names)), None)
        for names in own.values()
    ]
    best: dict[tuple[int, int], TrackSegmentation] = {}
    for track in case.found:  # the best first
        label = places[track["category_id"]]
        if label is not None:
            known = TrackSegmentation(**{**track, "category_id": label})
            best.setdefault((id(track["segmentations"]), label), known)
    return replace(case, found=list(best.values()))


# --- pictures -------------------------------------------------------------------------------------


def picture_values(cases: Sequence[Case]) -> Values:
    videos = compared(cases)
    values = intervals(ap50(videos, len(TEN)), len(videos))
    values["instances"] = sum(not t.is_crowd for video in videos for t in video.truth)
    confused, seen = pet_confusion(cases)
    if seen:
        values["confused"] = [round(confused / seen, 4), confused, seen]
    return values


def ap50(videos: Sequence[VideoOverlaps], num_classes: int) -> Measure:
    builder = APBuilder(range(num_classes))
    for video in videos:
        builder.add(video)
    outcomes = builder.outcomes()
    whole = ap_measure(outcomes, range(num_classes))
    return lambda drawn: {name: whole(drawn)[name] for name in ("AP50", "AP")}


def by_class(cases: Sequence[Case], names: Sequence[str]) -> Values:
    """AP50 of each of the model's own classes on pictures, and how many are labelled."""
    builder = APBuilder(range(len(names)))
    videos = compared(cases)
    for video in videos:
        builder.add(video)
    rows = builder.result().by_category()
    labels = [t.category_id for video in videos for t in video.truth if not t.is_crowd]
    return {
        name: [round(rows[label]["AP50"], 4), labels.count(label)]
        for label, name in enumerate(names)
        if label in labels
    }


def pet_confusion(cases: Sequence[Case]) -> tuple[int, int]:
    """Cats whose best find is a dog, and the other way round; and all cats and dogs found."""
    names = list(TEN)
    pets = {names.index("cat"), names.index("dog")}
    confused = seen = 0
    for case in map(likeliest, cases):
        for track in case.video.tracks:
            hits = [
                found["category_id"]
                for found in case.found
                if frame_overlaps(found["segmentations"], track.segmentations)[0] >= FOUND
            ]
            if track.label in pets and hits:
                seen += 1
                confused += hits[0] in pets - {track.label}
    return confused, seen


# --- videos ---------------------------------------------------------------------------------------


def by_half(followed: Sequence[Followed], halves: Mapping[str, Any], own: Classes) -> Values:
    """J of the best and of the top-scored track on the videos with one object."""
    rows = {f.case.name: j_of(replace(f, case=as_ten(f.case, own))) for f in followed}
    single = {f.case.name for f in followed if not f.merged}
    parts = {
        half: np.array([rows[name]["J"] for name in names if name in single])
        for half, names in halves.items()
    }
    measures = {half: means(values) for half, values in parts.items()}
    sizes = {half: len(values) for half, values in parts.items()}
    return {**on_halves(measures, sizes), "videos": rows}


def frame_overlaps(track: Sequence[RLE | None], truth: Sequence[RLE | None]) -> np.ndarray:
    """J of a track on every frame: [F]."""
    return region_similarity(*shared_pixels([track], [truth]))[:, 0, 0]


def j_of(sequence: Followed) -> Values:
    tracks = sequence.case.found
    if not tracks:
        return {"J": [0.0, 0.0], "class": None}
    overlaps = [frame_overlaps(t["segmentations"], sequence.masks).mean() for t in tracks]
    best = int(np.argmax(overlaps))
    names = list(TEN)
    return {
        "J": [round(float(overlaps[best]), 4), round(float(overlaps[0]), 4)],
        "class": names[tracks[best]["category_id"]],
        "right": sequence.label is None or tracks[best]["category_id"] == sequence.label,
    }


def means(values: np.ndarray) -> Measure:
    """values: [V, 2], J of the best and of the top-scored track."""

    def measure(drawn: np.ndarray) -> dict[str, np.ndarray]:
        best, top = (drawn @ values / drawn.sum(1)[:, None]).T
        return {"J best": best, "J top": top}

    return measure


def composites_by_half(cases: Sequence[Case], halves: Mapping[str, Any]) -> Values:
    measures, sizes = {}, {}
    for half, names in halves.items():
        videos = compared([case for case in cases if case.name in names])
        measures[half], sizes[half] = tracking(videos), len(videos)
    return on_halves(measures, sizes)


def tracking(videos: Sequence[VideoOverlaps]) -> Measure:
    """AP50, and HOTA's parts of all tracks, each as every likely class."""
    ap = ap50(videos, len(TEN))
    counts = TrackingResult(tuple((video.video_id, hota_of_video(video)) for video in videos))
    hota = hota_measure(counts, [video.video_id for video in videos])
    return lambda drawn: {**ap(drawn), **hota(drawn)}


# --- intervals ------------------------------------------------------------------------------------


def intervals(measure: Measure, count: int) -> Values:
    """Every number on all videos, with the interval of 95 % of the samples."""
    return spread(lambda draw: measure(draw(count)))


def on_halves(measures: Mapping[str, Measure], sizes: Mapping[str, int]) -> Values:
    """The numbers of each half, and the mean of both."""
    values = {half: intervals(measures[half], sizes[half]) for half in measures}

    def both(draw: Callable[[int], np.ndarray]) -> dict[str, np.ndarray]:
        parts = [measures[half](draw(sizes[half])) for half in measures]
        return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}

    return {**values, "mean": spread(both)}


def spread(measure: Callable[[Callable[[int], np.ndarray]], dict[str, np.ndarray]]) -> Values:
    rng = np.random.default_rng(0)
    whole = measure(lambda count: np.ones((1, count), np.int64))
    sampled = measure(lambda count: rng.multinomial(count, np.full(count, 1 / count), size=SAMPLES))
    values = {}
    for name, value in whole.items():
        known = sampled[name][sampled[name] >= 0]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (-1.0, -1.0)
        values[name] = [round(float(x), 4) for x in (value[0], low, high)]
    return values


# --- tables ---------------------------------------------------------------------------------------


def table(reports: Mapping[str, Any]) -> str:
    """Markdown: a line a measure of a half, a column a model."""
    lines = ["| set | half | measure | " + " | ".join(reports) + " |"]
    lines.append("| --- | --- | --- |" + " --- |" * len(reports))
    first = next(iter(reports.values()))
    for source, halves in first["sets"].items():
        shown = ("J best", "J top", "AP50", "AssA", "HOTA") if "mean" in halves else ("AP50",)
        for half, values in halves.items():
            for name in [n for n in (*shown, "confused") if n in values]:
                cells = [cell(r["sets"][source][half].get(name), name) for r in reports.values()]
                lines.append(f"| {source} | {half} | {name} | " + " | ".join(cells) + " |")
    for name, report in reports.items():
        lines += ["", f"{name}: AP50 (instances) on the pictures of each half"]
        lines += [
            f"* {half}: " + ", ".join(f"{c} {ap:.2f} ({n})" for c, (ap, n) in rows.items())
            for half, rows in report["classes"].items()
        ]
        lines += [
            f"* {half}, precision / recall from a score: "
            + ", ".join(f"{r['conf']}: {r['precision']:.2f} / {r['recall']:.2f}" for r in rows)
            for half, rows in report["sweep"].items()
        ]
        if "davis" in report["sets"]:
            rows = report["sets"]["davis"]["videos"]
            lines.append(f"* J best, top, class: {json.dumps(rows)}")
    return "\n".join(lines)


def cell(value: Sequence[float] | None, name: str) -> str:
    if value is None:
        return ""
    if name == "confused":
        return f"{value[1]} of {value[2]}"
    return "{:.3f} ({:.2f} to {:.2f})".format(*value)


if __name__ == "__main__":
    main()
