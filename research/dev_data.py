"""The development data and a model's predictions on it, for `measure` and `dev_sheets`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, get_args

import msgspec
import numpy as np
import torch

import vistool
from vistool.config import PredictConfig, Scoring, TrainConfig, from_json
from vistool.data.labelled import LabelledTrack, LabelledVideo, read_annotations
from vistool.engine.predict.segment import clip_settings
from vistool.engine.train.validate import tracks_of
from vistool.errors import WeightsError
from vistool.models.checkpoints.files import LoadedModel, WeightsHeader, load_model
from vistool.structures import RLE, Size, TrackSegmentation

MIN_SCORE = 0.05  # lower-scoring tracks of DAVIS sequences are left out
OBJECT = 1000  # the category of objects without a single COCO category

Classes = Mapping[str, Sequence[str]]  # class of the model -> its category names in the data
Item = TypeVar("Item")
Masks = Sequence[RLE | None]  # of a track: one entry per frame


@dataclass(frozen=True, slots=True)
class Case:
    """A labelled video with a model's predictions; a picture is a video of one frame."""

    name: str
    video: LabelledVideo
    # By decreasing score, with labels instead of category ids. A track may have several classes.
    found: list[TrackSegmentation]
    ignored: tuple[Masks, ...] = ()  # predictions on these objects are ignored


@dataclass(frozen=True, slots=True)
class Followed:
    """A DAVIS sequence with its one object, of any class, and a model's predictions."""

    case: Case  # has a labelled track only if the object belongs to one class of the model
    masks: Masks
    merged: bool  # the mask has several objects, such as rider and horse
    label: int | None  # None: the model does not have its class


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that `load` reads."""
    parser.add_argument("--size", type=int, help="short side of the model's input")
    parser.add_argument("--clip-length", type=int, help="frames per clip, T")
    parser.add_argument("--clip-stride", type=int, help="frames between the starts of clips")
    parser.add_argument("--scoring", choices=get_args(Scoring), help="of tracks")


def load(args: argparse.Namespace) -> LoadedModel:
    """The model of --model, with the settings of `add_settings` that were given.

    Raises: UsageError for a clip length that does not fit the weights.
    """
    loaded = load_model(args.model)
    config = loaded.model.config
    asked = PredictConfig(clip_length=args.clip_length, clip_stride=args.clip_stride)
    length, stride = clip_settings(config, asked)
    loaded.model.config = msgspec.structs.replace(
        config,
        clip_length=length,
        clip_stride=stride,
        test_short_side=args.size or config.test_short_side,
        scoring=args.scoring or config.scoring,
    )
    loaded.model.eval()
    return loaded


def trained_classes(header: WeightsHeader) -> dict[str, tuple[str, ...]]:
    """The model's classes, each with its category names in the data."""
    settings = header.metadata.get("training")
    if settings is None:
        raise WeightsError(f"{header.path}: its header does not have the training settings")
    classes: dict[str, tuple[str, ...]] = from_json(settings, TrainConfig, where="header").classes
    assert tuple(classes) == header.config.class_names
    return classes


# --- pictures -------------------------------------------------------------------------------------


def read_pictures(data: Path, source: str, classes: Classes) -> list[LabelledVideo]:
    """The development pictures of a source."""
    return read_annotations(data / source / "dev.json", classes)


def picture_cases(loaded: LoadedModel, pictures: Sequence[LabelledVideo], what: str) -> list[Case]:
    """Pictures with predictions, each one as a clip of one frame."""
    tell(f"{len(pictures)} pictures of {what}")
    return [Case(p.files[0].stem, p, predict(loaded, p)) for p in pictures]


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of the items, evenly spread."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places]


def predict(loaded: LoadedModel, video: LabelledVideo) -> list[TrackSegmentation]:
    """The predicted tracks of a labelled video, as in `vistool eval`, by decreasing score."""
    tracks = tracks_of(loaded.model, video, 0, torch.device("cpu"))
    return sorted(tracks, key=lambda track: -track["score"])


def likeliest(case: Case) -> Case:
    """The case with every track as its most likely class only, as in `vistool predict`."""
    # All entries of a track share one list of masks.
    first = {id(track["segmentations"]): track for track in reversed(case.found)}
    return replace(case, found=[t for t in case.found if first[id(t["segmentations"])] is t])


# --- videos ---------------------------------------------------------------------------------------


def predict_frames(loaded: LoadedModel, folder: Path) -> list[TrackSegmentation]:
    """The predicted tracks of a folder of frames, as in `vistool eval`, by decreasing score."""
    label_of = {id_: label for label, id_ in enumerate(loaded.header.config.ids_of_classes())}
    with vistool.predict(
        folder, model=loaded, conf=MIN_SCORE, max_overlap=1.0, device="cpu"
    ) as video:
        tracks = list(video.entries())
    for track in tracks:
        track["category_id"] = label_of[track["category_id"]]
    return sorted(tracks, key=lambda track: -track["score"])


def davis_sequences(loaded: LoadedModel, data: Path, classes: Classes) -> list[Followed]:
    """The sequences of `davis/val-dev`."""
    folder = data / "davis"
    content = json.loads((folder / "val-dev.json").read_text())
    facts = json.loads((folder / "val-dev-sequences.json").read_text())["sequences"]
    truth = {a["video_id"]: a["segmentations"] for a in content["annotations"]}
    label_of = {name: i for i, names in enumerate(classes.values()) for name in names}
    sequences = []
    for entry in content["videos"]:
        name, fact = entry["name"], facts[entry["name"]]
        tell(f"davis: {name}")
        masks = truth[entry["id"]]
        label = label_of.get(fact["category"])
        video = LabelledVideo(
            files=tuple(folder / f for f in entry["file_names"]),
            size=Size(entry["height"], entry["width"]),
            tracks=() if label is None else (LabelledTrack(label, tuple(masks)),),
            exhaustive=(label is not None and fact["exhaustive_coco"],) * len(classes),
        )
        found = predict_frames(loaded, folder / "val-dev" / name)
        merged = len(fact["coco_parts_in_mask"]) > 1
        sequences.append(Followed(Case(name, video, found), masks, merged, label))
    return sequences


def composite_cases(loaded: LoadedModel, data: Path, classes: Classes) -> list[Case]:
    """The synthetic videos of `composites/dev`."""
    path = data / "composites" / "dev.json"
    content = json.loads(path.read_text())
    cases = []
    for entry, video in zip(content["videos"], read_annotations(path, classes), strict=True):
        objects = tuple(
            a["segmentations"]
            for a in content["annotations"]
            if a["video_id"] == entry["id"] and a["category_id"] == OBJECT
        )
        name = video.files[0].parent.name
        tell(f"composites: {name}")
        cases.append(Case(name, video, predict(loaded, video), objects))
    return cases


def tell(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)
