"""Average the weights of trainings and write the weight file for release.

    python research/release_weights.py OUTPUT WEIGHTS... --data FOLDER [--prior 0.25]

Weights of successive trainings are averaged, tensor by tensor, which reduces the influence of the
last steps of each. With --prior, class scores are corrected for the class frequencies in the
training data, which differ from those in other videos (Menon et al., "Long-tail learning via logit
adjustment"). The bias of a class is reduced by `prior` times the logarithm of its number of
pictures and videos, relative to the mean over the classes. Configuration and card are those of the
first file.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import msgspec
import torch

from vistool.config import TrainConfig, from_json
from vistool.data.labelled import read_annotations
from vistool.models.checkpoints.files import load_model, save_model

CLASS_BIAS = "class_head."  # the last of these that ends in .bias


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("weights", nargs="+", help="weight files of one model, averaged")
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    parser.add_argument("--prior", type=float, default=0.0, help="0: no correction")
    parser.add_argument("--short-side", type=int, default=288, help="for prediction, pixels")
    parser.add_argument("--clip-length", type=int, default=8, help="for prediction")
    parser.add_argument("--clip-stride", type=int, default=4, help="for prediction")
    parser.add_argument("--score", default="", help="scores as text, for the card")
    args = parser.parse_args()

    first = load_model(args.weights[0])
    states = [load_model(name).model.state_dict() for name in args.weights]
    mean = {key: sum(state[key] for state in states) / len(states) for key in states[0]}
    training: TrainConfig = from_json(
        first.header.metadata["training"], TrainConfig, where="header"
    )
    bias = [key for key in mean if key.startswith(CLASS_BIAS) and key.endswith(".bias")][-1]
    release = (
        f"mean of {len(states)} files' weights" if len(states) > 1 else "one training's weights"
    )
    if args.prior:
        shifts = centred_logs(pictures_by_class(training, args.data))
        mean[bias] = mean[bias] - args.prior * shifts
        for name, shift in zip(training.classes, shifts, strict=False):
            print(f"{name:16} bias {-args.prior * shift:+.2f}")
        release += (
            f"; class biases less {args.prior:g} times the logarithm of the training pictures of "
            "each class"
        )

    model = first.model
    model.load_state_dict(mean)
    model.config = msgspec.structs.replace(
        model.config,
        scoring="mask-aware",
        test_short_side=args.short_side,
        clip_length=args.clip_length,
        clip_stride=args.clip_stride,
    )
    card = {
        **first.header.metadata,
        "score": args.score,
        "release": release,
    }
    save_model(model, args.output, card, half=True)


def pictures_by_class(training: TrainConfig, data: Path) -> list[int]:
    """The number of pictures and videos that show each class."""
    counts = [0] * len(training.classes)
    for source in training.sources:
        for video in read_annotations(data / source.annotations, training.classes):
            for label in {track.label for track in video.tracks}:
                counts[label] += 1
    return counts


def centred_logs(counts: list[int]) -> torch.Tensor:
    """The logarithm of every class's count minus their mean: [K + 1], 0 for "no object"."""
    logs = [math.log(max(1, count)) for count in counts]
    mean = sum(logs) / len(logs)
    return torch.tensor([*(log - mean for log in logs), 0.0])


if __name__ == "__main__":
    main()
