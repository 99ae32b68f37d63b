"""How good a weight file is on the development data: pictures, DAVIS sequences, composites.

    python benchmarks/dev_quality.py --model FILE --data FOLDER [--quick] [--json]

--quick takes every second picture and the first 20 frames of each video: for a look at a training
that is still running.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from vistool.config import PredictConfig, TrainConfig, from_json
from vistool.data.annotations import LabelledVideo, read_annotations
from vistool.engine.predict import predict_video
from vistool.engine.render import RESULTS
from vistool.errors import WeightsError
from vistool.evaluation.davis import region_similarity
from vistool.evaluation.overlaps import TruthTrack
from vistool.evaluation.partial_labels import scorable
from vistool.evaluation.video_ap import evaluate_tracks
from vistool.formats.results import read_results
from vistool.formats.rle import encode_masks
from vistool.formats.video import FOLDER_FPS
from vistool.models.weights import LoadedModel, WeightsHeader, load_model
from vistool.ops.masks import resize_masks
from vistool.ops.pixels import input_size, normalise, resize
from vistool.structures import RLE, Size, TrackSegmentation
from vistool.tracking.postprocess import clip_prediction

PICTURE_SETS = ("cats", "coco", "coco-traffic", "coco-person")
QUICK_FRAMES = 20
QUICK_PICTURES = 2  # every second
MIN_SCORE = 0.05  # tracks below it are not looked at
OBJECT = 1000  # the category of what is not a single COCO category

# A set to be scored: its videos (a picture is a video of one frame), labels in place of ids.
Scored = list[tuple[list[TruthTrack], list[TrackSegmentation]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="weight file, or a shipped model's name")
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    parser.add_argument("--quick", action="store_true", help="a part of the data")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)

    began = time.perf_counter()
    loaded = load_model(args.model)
    classes = trained_classes(loaded.header)
    report = {
        "model": str(loaded.header.path),
        "sha256": loaded.sha256,
        "steps": loaded.header.metadata.get("steps", "?"),
        "quick": args.quick,
        "pictures": score_pictures(loaded, args.data, classes, quick=args.quick),
        "davis": score_davis(loaded, args.data / "davis", classes, quick=args.quick),
        "composites": score_composites(loaded, args.data, classes, quick=args.quick),
    }
    report["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(report, indent=1) if args.json else tables(report))


def trained_classes(header: WeightsHeader) -> dict[str, tuple[str, ...]]:
    """The model's classes with the category names that each stands for in the data."""
    settings = header.metadata.get("training")
    if settings is None:
        raise WeightsError(f"{header.path}: its header does not say how it was trained")
    classes: dict[str, tuple[str, ...]] = from_json(settings, TrainConfig, where="header").classes
    assert tuple(classes) == header.config.class_names
    return classes


# --- pictures -------------------------------------------------------------------------------------


def score_pictures(
    loaded: LoadedModel, data: Path, classes: Mapping[str, Sequence[str]], *, quick: bool
) -> dict[str, Any]:
    sets: dict[str, Scored] = {}
    for name in PICTURE_SETS:
        pictures = read_annotations(data / name / "dev.json", classes)
        sets[name] = [
            with_predictions(picture, predict_picture(loaded, picture))
            for picture in pictures[:: QUICK_PICTURES if quick else 1]
        ]
    everything = [picture for pictures in sets.values() for picture in pictures]
    return {
        "sets": {name: average_precision(pictures) for name, pictures in sets.items()},
        "all": average_precision(everything),
        "classes": by_class(everything, tuple(classes)),
    }


@torch.inference_mode()
def predict_picture(loaded: LoadedModel, picture: LabelledVideo) -> list[TrackSegmentation]:
    """Every instance as its most likely class; labels in place of category ids."""
    config = loaded.model.config
    image = cv2.cvtColor(cv2.imread(str(picture.files[0])), cv2.COLOR_BGR2RGB)
    size = Size(*image.shape[:2])
    assert size == picture.size, picture.files[0]
    target = input_size(size, config.test_short_side, config.test_long_side, config.pixels)
    pixels = resize(image, target)
    features = loaded.model.encode_frames(normalise(pixels[None], config.pixels))
    output = loaded.model.decode_clips(features, 1)
    clip = clip_prediction(output, (0,), scoring=config.scoring)
    scores, labels = clip.class_probs.max(-1)
    masks = encode_masks((resize_masks(clip.mask_logits[:, 0], size) > 0).numpy())
    return [
        {"video_id": 0, "category_id": label, "score": score, "segmentations": [mask]}
        for label, score, mask in zip(labels.tolist(), scores.tolist(), masks, strict=True)
    ]


# --- videos ---------------------------------------------------------------------------------------


def predict_frames(loaded: LoadedModel, folder: Path, *, quick: bool) -> list[TrackSegmentation]:
    """Tracks of a folder of frames, the best first, as `vistool predict` finds them."""
    end = QUICK_FRAMES / FOLDER_FPS if quick else None
    config = PredictConfig(conf=MIN_SCORE, overlay=False, end=end)
    label_of = {id_: label for label, id_ in enumerate(loaded.header.config.ids_of_classes())}
    with tempfile.TemporaryDirectory() as output:
        predict_video(loaded, folder, output, config)
        tracks = list(read_results(Path(output) / RESULTS))
    for track in tracks:
        track["category_id"] = label_of[track["category_id"]]
    return sorted(tracks, key=lambda track: -track["score"])


def score_davis(
    loaded: LoadedModel, folder: Path, classes: Mapping[str, Sequence[str]], *, quick: bool
) -> dict[str, Any]:
    """How well one track follows the one labelled object of each sequence."""
    data = json.loads((folder / "val-dev.json").read_text())
    facts = json.loads((folder / "val-dev-sequences.json").read_text())["sequences"]
    truth = {a["video_id"]: a["segmentations"] for a in data["annotations"]}
    label_of = {name: i for i, names in enumerate(classes.values()) for name in names}
    names = tuple(classes)
    sequences: dict[str, dict[str, Any]] = {}
    for video in data["videos"]:
        fact = facts[video["name"]]
        tracks = predict_frames(loaded, folder / "val-dev" / video["name"], quick=quick)
        row = follow(tracks, truth[video["id"]][: QUICK_FRAMES if quick else None], names)
        row["merged"] = len(fact["coco_parts_in_mask"]) > 1
        if fact["category"] in label_of:
            expected = names[label_of[fact["category"]]]
            row["right"] = {which: row[which]["class"] == expected for which in ("best", "top")}
        sequences[video["name"]] = row
    single = [row for row in sequences.values() if not row["merged"]]
    merged = [row for row in sequences.values() if row["merged"]]
    return {
        "single": mean_row(single),
        "merged": mean_row(merged),
        "sequences": sequences,
    }


def follow(
    tracks: Sequence[TrackSegmentation], truth: Sequence[RLE | None], names: Sequence[str]
) -> dict[str, Any]:
    """J of the top-scored track and of the one that fits best."""
    if not tracks:
        nothing = {"J": 0.0, "score": 0.0, "class": None}
        return {"tracks": 0, "best": nothing, "top": nothing, "followed": 0.0}
    overlaps = [region_similarity(track["segmentations"], truth) for track in tracks]
    best = max(range(len(tracks)), key=lambda i: overlaps[i].mean())

    def facts(i: int) -> dict[str, Any]:
        return {
            "J": round(float(overlaps[i].mean()), 4),
            "score": round(tracks[i]["score"], 3),
            "class": names[tracks[i]["category_id"]],
        }

    followed = round(float((overlaps[best] > 0.5).mean()), 3)
    return {"tracks": len(tracks), "best": facts(best), "top": facts(0), "followed": followed}


def mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, float | str]:
    def mean(values: Sequence[float]) -> float:
        return round(sum(values) / len(values), 4)

    known = [row["right"] for row in rows if "right" in row]
    return {
        "best_J": mean([row["best"]["J"] for row in rows]),
        "top_J": mean([row["top"]["J"] for row in rows]),
        "followed": mean([row["followed"] for row in rows]),
        "best_right": f"{sum(right['best'] for right in known)}/{len(known)}",
        "top_right": f"{sum(right['top'] for right in known)}/{len(known)}",
    }


def score_composites(
    loaded: LoadedModel, data: Path, classes: Mapping[str, Sequence[str]], *, quick: bool
) -> dict[str, Any]:
    path = data / "composites" / "dev.json"
    content = json.loads(path.read_text())
    videos: Scored = []
    for entry, video in zip(content["videos"], read_annotations(path, classes), strict=True):
        tracks = predict_frames(loaded, video.files[0].parent, quick=quick)
        length = QUICK_FRAMES if quick else len(video.files)
        objects = [
            a["segmentations"][:length]
            for a in content["annotations"]
            if a["video_id"] == entry["id"] and a["category_id"] == OBJECT
        ]
        videos.append(with_predictions(video, tracks, length=length, ignored=objects))
    return {**average_precision(videos), "classes": by_class(videos, tuple(classes))}


# --- scores ---------------------------------------------------------------------------------------


def with_predictions(
    video: LabelledVideo,
    predictions: Sequence[TrackSegmentation],
    *,
    length: int = 1,
    ignored: Sequence[Sequence[RLE | None]] = (),
) -> tuple[list[TruthTrack], list[TrackSegmentation]]:
    """The first frames of a labelled video with what can be held against the model there."""
    truth = [TruthTrack(0, t.label, t.segmentations[:length]) for t in video.tracks]
    exhaustive = [label for label, complete in enumerate(video.exhaustive) if complete]
    return truth, scorable(predictions, truth, exhaustive=exhaustive, ignored=ignored)


def _evaluated(videos: Scored, num_classes: int) -> Any:
    truth, predictions = [], []
    for index, (tracks, found) in enumerate(videos):
        truth += [TruthTrack(index, t.category_id, t.segmentations) for t in tracks]
        predictions += [TrackSegmentation(**{**p, "video_id": index}) for p in found]
    return evaluate_tracks(
        truth, predictions, video_ids=range(len(videos)), category_ids=range(num_classes)
    )


def average_precision(videos: Scored) -> dict[str, float]:
    labels = {t.category_id for truth, _ in videos for t in truth}
    summary = _evaluated(videos, max(labels) + 1).summary()
    chosen = {name: round(summary[name], 4) for name in ("AP", "AP50", "AR10")}
    return {"videos": len(videos), "instances": sum(len(t) for t, _ in videos), **chosen}


def by_class(videos: Scored, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """AP and AP50 of the classes that are there."""
    counts = [
        sum(t.category_id == i for truth, _ in videos for t in truth) for i in range(len(names))
    ]
    found = _evaluated(videos, len(names)).by_category()
    return {
        name: {
            "instances": counts[i],
            "AP": round(found[i]["AP"], 4),
            "AP50": round(found[i]["AP50"], 4),
        }
        for i, name in enumerate(names)
        if counts[i]
    }


def tables(report: Mapping[str, Any]) -> str:
    pictures, davis, composites = report["pictures"], report["davis"], report["composites"]
    lines = [f"{report['model']}  step {report['steps']}  {report['seconds']} s", ""]
    lines.append(f"{'':22}{'videos':>8}{'instances':>11}{'AP':>8}{'AP50':>8}{'AR10':>8}")
    rows = {**pictures["sets"], "all pictures": pictures["all"], "composites": composites}
    for name, row in rows.items():
        numbers = "".join(f"{row[key]:8.3f}" for key in ("AP", "AP50", "AR10"))
        lines.append(f"{name:22}{row['videos']:8}{row['instances']:11}{numbers}")
    for title, classes in (
        ("pictures", pictures["classes"]),
        ("composites", composites["classes"]),
    ):
        cells = [f"{name} {row['AP50']:.2f} ({row['instances']})" for name, row in classes.items()]
        lines += ["", f"AP50 in {title} (instances): {', '.join(cells)}"]
    lines += ["", f"{'DAVIS':16}{'best J':>8}{'> 0.5':>7}  {'class':24}{'top J':>8}  class"]
    for name, row in sorted(davis["sequences"].items(), key=lambda item: item[1]["merged"]):
        cells = {}
        for which in ("best", "top"):
            verdict = {True: "", False: " (wrong)", None: " (-)"}[row.get("right", {}).get(which)]
            cells[which] = f"{row[which]['class']} {row[which]['score']:.2f}{verdict}"
        lines.append(
            f"{name:16}{row['best']['J']:8.3f}{row['followed']:7.2f}  {cells['best']:24}"
            f"{row['top']['J']:8.3f}  {cells['top']}{'  [merged]' if row['merged'] else ''}"
        )
    for title in ("single", "merged"):
        mean = davis[title]
        lines.append(
            f"{'mean ' + title:16}{mean['best_J']:8.3f}{mean['followed']:7.2f}  "
            f"{mean['best_right'] + ' right':24}{mean['top_J']:8.3f}  {mean['top_right']} right"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
