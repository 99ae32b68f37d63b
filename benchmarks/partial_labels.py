"""Is an object that nobody labelled unlearned? One training told the truth, one told a lie.

    python benchmarks/partial_labels.py

Both start from the same weights, which know balls, crates and tents, and go on with videos made
anew by examples/make_dataset.py. There, crates are to be seen, and are not labelled. One set says
so (`exhaustive: false`, and the ids of the others as `exhaustive_category_ids`), the other claims
that everything is labelled. AP and recall of crates are measured on videos that no training saw,
where everything is labelled; recall at the score from which on `vistool predict` shows a track.
"""

from __future__ import annotations

import argparse
import json
import runpy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from vistool.config import TrainConfig, from_mapping
from vistool.data.annotations import read_annotations
from vistool.engine.device import choose_device
from vistool.engine.fine_tune import fine_tuning
from vistool.engine.train import train
from vistool.engine.validate import tracks_of
from vistool.evaluation.overlaps import TruthTrack
from vistool.evaluation.video_ap import evaluate_tracks
from vistool.models.weights import load_model

MAKER = Path(__file__).resolve().parent.parent / "examples" / "make_dataset.py"
HIDDEN = "crate"
SHOWN = 0.5  # score of tracks that `predict` shows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--init", default="ifc-lite")
    parser.add_argument("--steps", type=int, default=300, help="with all labels")
    parser.add_argument("--further", type=int, default=150, help="steps without crates' labels")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), args.init, args.steps, args.further)


def compare(folder: Path, init: str, steps: int, further: int) -> None:
    make_set = runpy.run_path(str(MAKER))["make_set"]
    everything = make_set(folder, "everything", videos=24, frames=4, seed=1)
    more = make_set(folder, "more", videos=24, frames=4, seed=2)
    valid = make_set(folder, "valid", videos=12, frames=4, seed=3)
    print(f"{'training':28}{HIDDEN + ' AP':>9}{'recall':>8}{'others: AP':>12}{'recall':>8}")
    before = tuned(folder / "before", everything, init, steps)
    report("labelled completely", before, valid)
    for name, honest in (
        (f"{HIDDEN}s unlabelled, said so", True),
        (f"{HIDDEN}s unlabelled, not said", False),
    ):
        dataset = without_labels(more, honest=honest)
        after = tuned(folder / dataset.stem, dataset, str(before), further)
        report(name, after, valid)


def without_labels(path: Path, *, honest: bool) -> Path:
    """The set without the hidden class' labels, beside the set itself."""
    content = json.loads(path.read_text())
    ids = {category["name"]: category["id"] for category in content["categories"]}
    hidden = ids.pop(HIDDEN)
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != hidden]
    if honest:
        for video in content["videos"]:
            video |= {"exhaustive": False, "exhaustive_category_ids": list(ids.values())}
    for video in content["videos"]:
        video["file_names"] = [f"{path.stem}/{name}" for name in video["file_names"]]
    result = path.with_name(f"{path.stem}-{'honest' if honest else 'wrong'}.json")
    result.write_text(json.dumps(content))
    return result


def tuned(run: Path, dataset: Path, init: str, steps: int) -> Path:
    changes: dict[str, Any] = {"steps": steps, "clip_length": 1, "save_every": steps}
    values = {**fine_tuning(dataset, init), **changes}
    return train(from_mapping(values, TrainConfig, where="the benchmark"), run)


def report(name: str, weights: Path, valid: Path) -> None:
    """Print a line of what a model makes of the hidden class, and of the others."""
    device = choose_device("auto")
    model = load_model(str(weights)).model.to(device)
    classes = {name: (name,) for name in model.config.class_names}
    videos = read_annotations(valid, classes)
    truth, tracks = [], []
    for index, video in enumerate(videos):
        truth += [TruthTrack(index, t.label, t.segmentations) for t in video.tracks]
        tracks += tracks_of(model, video, index, device)
    shown = [track for track in tracks if track["score"] >= SHOWN]
    hidden = list(classes).index(HIDDEN)
    ids = {"video_ids": range(len(videos)), "category_ids": range(len(classes))}
    precision = evaluate_tracks(truth, tracks, **ids).by_category()
    recall = evaluate_tracks(truth, shown, **ids).recall[0, :, 0, -1]  # at overlap 0.5
    others = [label for label in range(len(classes)) if label != hidden]
    print(
        f"{name:28}{precision[hidden]['AP']:9.3f}{recall[hidden]:8.2f}"
        f"{np.mean([precision[label]['AP'] for label in others]):12.3f}"
        f"{np.mean(recall[others]):8.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
