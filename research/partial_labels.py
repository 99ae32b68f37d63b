"""Measure whether a model forgets a class that is visible but not labelled in further training.

    OMP_NUM_THREADS=1 python research/partial_labels.py

All trainings start from the same weights, trained on balls, crates and tents. They continue with
new videos of examples/make_dataset.py, which are small, and with a frozen backbone, to save time:

* `crates unlabelled, said so`: crates are visible, but not labelled, and the data set states it
  (`exhaustive: false`, and the ids of the others as `exhaustive_category_ids`);
* `no crate to be seen`: only the videos without crates, completely labelled. A loss here comes from
  training on other classes only;
* `in every other`: crates are unlabelled in every other video;
* `crates unlabelled, not said`: the data set wrongly states that all objects are labelled;
* `all labelled`: the upper bound.

The output, after three minutes on one CPU core:

    training                         AP  shown  as other  others: AP  shown
    before                        0.714   0.80      0.05       0.823   0.89
    crates unlabelled, said so    0.797   0.70      0.25       0.846   0.94
    no crate to be seen           0.430   0.00      0.95       0.715   0.94
    in every other, said so       0.774   0.75      0.20       0.822   0.85
    in every other, not said      0.823   0.80      0.20       0.830   0.91
    crates unlabelled, not said   0.205   0.00      0.15       0.801   0.85
    all labelled                  0.772   0.85      0.30       0.849   0.94

AP and recall of crates are measured on other, completely labelled videos. "shown" is the recall of
tracks that score high enough for `vistool predict`; "as other" is the share of crates on which such
a track of another class is shown. The last two columns are for the other classes.
"""

from __future__ import annotations

import argparse
import json
import runpy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vistool.annotations.dataset import AnnotatedTrack
from vistool.config import PredictConfig, TrainConfig, from_mapping
from vistool.data.labelled import read_annotations
from vistool.engine.device import choose_device
from vistool.engine.train.fine_tune import fine_tuning
from vistool.engine.train.train import train
from vistool.engine.train.validate import tracks_of
from vistool.metrics.ap import VideoAP, average_precision
from vistool.metrics.overlaps import overlaps_of_videos
from vistool.models.checkpoints.files import load_model
from vistool.structures import TrackSegmentation

MAKER = Path(__file__).resolve().parent.parent / "examples" / "make_dataset.py"
HIDDEN = "crate"
SHOWN = PredictConfig().conf  # score of tracks that `predict` shows
# The size of the videos, the short side of the model's input, and the size of training clips.
PICTURE, SHORT_SIDE, CANVAS = (120, 160), 128, (96, 128)
FROZEN = 16  # all blocks of the backbone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--init", default="ifc-lite")
    parser.add_argument("--steps", type=int, default=300, help="of the first training")
    parser.add_argument("--further", type=int, default=120, help="steps of each further training")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), args.init, args.steps, args.further)


def compare(folder: Path, init: str, steps: int, further: int) -> None:
    make_set = partial(runpy.run_path(str(MAKER))["make_set"], folder, frames=2, size=PICTURE)
    everything = make_set("everything", videos=100, seed=1)
    more = make_set("more", videos=100, seed=2)
    valid = make_set("valid", videos=40, seed=3)
    print(f"{'training':28}{'AP':>7}{'shown':>7}{'as other':>10}{'others: AP':>12}{'shown':>7}")
    before = tuned(folder / "before", everything, init, steps)
    report("before", before, valid)
    for name, dataset in (
        (f"{HIDDEN}s unlabelled, said so", without_labels(more, "said")),
        (f"no {HIDDEN} to be seen", without_objects(more)),
        ("in every other, said so", without_labels(more, "half", every=2)),
        ("in every other, not said", without_labels(more, "half-lie", every=2, honest=False)),
        (f"{HIDDEN}s unlabelled, not said", without_labels(more, "not-said", honest=False)),
        ("all labelled", more),
    ):
        report(name, tuned(folder / f"run-{dataset.stem}", dataset, str(before), further), valid)


def without_labels(path: Path, name: str, *, honest: bool = True, every: int = 1) -> Path:
    """The data set without the labels of the hidden class in one of `every` videos.

    Args: honest: state in the data set that these labels are missing.
    """
    content, hidden = read_set(path)
    videos = content["videos"][::every]
    concerned = {video["id"] for video in videos}
    content["annotations"] = [
        a
        for a in content["annotations"]
        if a["category_id"] != hidden or a["video_id"] not in concerned
    ]
    if honest:
        others = [c["id"] for c in content["categories"] if c["id"] != hidden]
        for video in videos:
            video |= {"exhaustive": False, "exhaustive_category_ids": others}
    return write_beside(path, name, content)


def without_objects(path: Path) -> Path:
    """The videos of the data set without objects of the hidden class."""
    content, hidden = read_set(path)
    seen = {a["video_id"] for a in content["annotations"] if a["category_id"] == hidden}
    content["videos"] = [v for v in content["videos"] if v["id"] not in seen]
    content["annotations"] = [a for a in content["annotations"] if a["video_id"] not in seen]
    return write_beside(path, "absent", content)


def read_set(path: Path) -> tuple[dict[str, Any], int]:
    """The contents of an annotation file, and the id of the hidden class."""
    content = json.loads(path.read_text())
    return content, next(c["id"] for c in content["categories"] if c["name"] == HIDDEN)


def write_beside(path: Path, name: str, content: dict[str, Any]) -> Path:
    """Write another data set with the same pictures."""
    for video in content["videos"]:
        video["file_names"] = [f"{path.stem}/{file}" for file in video["file_names"]]
    result = path.with_name(f"{name}.json")
    result.write_text(json.dumps(content))
    return result


def tuned(run: Path, dataset: Path, init: str, steps: int) -> Path:
    values = fine_tuning(dataset, init)
    values["model"]["test_short_side"] = SHORT_SIDE
    values |= {"canvases": [CANVAS], "frozen_blocks": FROZEN, "clip_length": 1}
    values |= {"steps": steps, "warmup_steps": 20, "save_every": steps}
    return train(from_mapping(values, TrainConfig, where="the benchmark"), run)


def report(name: str, weights: Path, valid: Path) -> None:
    """Print a line with a model's scores for the hidden class and for the others."""
    device = choose_device("auto")
    model = load_model(str(weights)).model.to(device)
    classes = {name: (name,) for name in model.config.class_names}
    videos = read_annotations(valid, classes)
    truth = [
        [AnnotatedTrack(index, t.label, t.segmentations) for t in video.tracks]
        for index, video in enumerate(videos)
    ]
    tracks = [
        track
        for index, video in enumerate(videos)
        for track in tracks_of(model, video, index, device)
    ]
    hidden = list(classes).index(HIDDEN)
    others = [label for label in range(len(classes)) if label != hidden]

    def score(tracks: list[TrackSegmentation]) -> VideoAP:
        compared = overlaps_of_videos(
            (index, labelled, [t for t in tracks if t["video_id"] == index])
            for index, labelled in enumerate(truth)
        )
        return average_precision(compared, category_ids=range(len(classes)))

    def found(tracks: list[TrackSegmentation]) -> Any:
        return score(tracks).recall[0, :, 0, -1]  # [K], at overlap 0.5

    by_category = score(tracks).by_category()
    precision = [by_category[label]["AP"] for label in range(len(classes))]
    shown = [track for track in tracks if track["score"] >= SHOWN]
    renamed: list[TrackSegmentation] = [
        {**t, "category_id": hidden} for t in shown if t["category_id"] != hidden
    ]
    print(
        f"{name:28}{precision[hidden]:7.3f}{found(shown)[hidden]:7.2f}"
        f"{found(renamed)[hidden]:10.2f}{np.mean([precision[n] for n in others]):12.3f}"
        f"{np.mean(found(shown)[others]):7.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
