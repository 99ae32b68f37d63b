"""From the weights of one or more trainings to the file that is released.

    python research/release_weights.py OUTPUT WEIGHTS... --data FOLDER [--prior 0.25]

Weights of trainings that went on from one another are averaged, tensor by tensor: it evens out what
either learnt last. With --prior the class scores are relieved of the training set's frequencies:
they have nothing to do with the videos to come (Menon et al., "Long-tail learning via logit
adjustment"). The bias of a class falls by `prior` times the logarithm of the number of pictures and
videos that show it, relative to the mean class. Configuration and card are those of the first file.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import msgspec
import torch

from vistool.config import TrainConfig, from_json
from vistool.data.annotations import read_annotations
from vistool.models.weights import load_model, save_model

CLASS_BIAS = "class_head."  # the last of these that ends in .bias


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("weights", nargs="+", help="weight files of one model, averaged")
    parser.add_argument("--data", type=Path, required=True, help="folder of the annotated sets")
    parser.add_argument("--prior", type=float, default=0.0, help="0: class biases stay")
    parser.add_argument("--short-side", type=int, default=288, help="to predict at, pixels")
    parser.add_argument("--clip-length", type=int, default=8, help="to predict with")
    parser.add_argument("--clip-stride", type=int, default=4, help="to predict with")
    parser.add_argument("--score", default="", help="a word on how good it is, for the card")
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
    """How many pictures and videos show each class."""
    counts = [0] * len(training.classes)
    for source in training.sources:
        for video in read_annotations(data / source.annotations, training.classes):
            for label in {track.label for track in video.tracks}:
                counts[label] += 1
    return counts


def centred_logs(counts: list[int]) -> torch.Tensor:
    """Of every class, their mean taken off; and 0 for "no object"."""
    logs = [math.log(max(1, count)) for count in counts]
    mean = sum(logs) / len(logs)
    return torch.tensor([*(log - mean for log in logs), 0.0])


if __name__ == "__main__":
    main()
