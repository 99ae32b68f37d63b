"""Write initial weights for a training with another list of classes.

    python research/start_classes.py OUTPUT --weights ifc-lite --config configs/ifc-lite-more.toml

A class of the new list begins as the old ones that have a category in common with it: their mean,
as likely as all of them together. Where several new ones share an old one, its probability is
shared among them. What is new altogether begins with small random numbers and the smallest bias of
the others.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from dev_data import trained_classes

from vistool.config import TrainConfig, from_mapping, load_toml, to_json
from vistool.models import build_model
from vistool.models.checkpoints.files import load_model, save_model

CLASS_LAYER = "class_head."  # the last of these


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--weights", default="ifc-lite", help="file or shipped model's name")
    parser.add_argument("--config", type=Path, required=True, help="training with the new classes")
    args = parser.parse_args()
    config: TrainConfig = from_mapping(load_toml(args.config), TrainConfig, where=str(args.config))
    write_start(args.output, args.weights, config.classes)


def write_start(output: Path, weights: str, classes: Mapping[str, Sequence[str]]) -> None:
    """Write a model for these classes, made from a model for other classes."""
    loaded = load_model(weights)
    old = trained_classes(loaded.header)
    sources = [_classes_with(old, names) for names in classes.values()]
    model = build_model(msgspec.structs.replace(loaded.model.config, class_names=tuple(classes)))
    given, own = loaded.model.state_dict(), model.state_dict()
    layer = max(key.rpartition(".")[0] for key in given if key.startswith(CLASS_LAYER))
    for part in ("weight", "bias"):
        key = f"{layer}.{part}"
        given[key] = _rows(own[key], given[key], [*sources, [len(old)]])
    model.load_state_dict(given)
    training = msgspec.json.decode(loaded.header.metadata["training"])
    card = {**loaded.header.metadata, "training": _with_classes(training, classes)}
    save_model(model, output, card)


def _classes_with(old: Mapping[str, Sequence[str]], names: Sequence[str]) -> list[int]:
    """The places of the old classes that have one of the categories."""
    return [i for i, has in enumerate(old.values()) if set(has) & set(names)]


def _rows(fresh: torch.Tensor, given: torch.Tensor, sources: Sequence[list[int]]) -> torch.Tensor:
    """The rows of a layer's weight or bias."""
    sharing = Counter(source for some in sources for source in some)
    is_bias = fresh.ndim == 1
    rows = fresh.clone()
    for row, some in enumerate(sources):
        if some:
            rows[row] = given[some].mean(0)
            if is_bias:
                rows[row] += math.log(sum(1 / sharing[source] for source in some))
        elif is_bias:
            rows[row] = given[:-1].min()
    return rows


def _with_classes(training: dict[str, object], classes: Mapping[str, Sequence[str]]) -> str:
    known = {**training, "classes": {name: list(names) for name, names in classes.items()}}
    return to_json(from_mapping(known, TrainConfig, where="header"))


if __name__ == "__main__":
    main()
