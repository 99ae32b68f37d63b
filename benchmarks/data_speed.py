"""Training clips per second from one process, and the functions that take the most time.

python benchmarks/data_speed.py CONFIG.toml --data FOLDER [--clip-lengths 1 2 5] [--seconds 5]
    [--set augment.paste_chance=0]

One thread is used, as in a training's worker. Compare with the clips per second of the training.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from pathlib import Path

import cv2
import torch
from msgspec.structs import replace

from vistool.config import TrainConfig, apply_overrides, from_mapping, load_toml
from vistool.data.batches import TrainingBatches
from vistool.engine.train.setup import training_batches

SHOWN = 8  # functions in the list


def draw(batches: TrainingBatches, number: int) -> None:
    """Make one clip as a worker does: normalised, with its masks."""
    batches.make(number, range(1))


def measure(batches: TrainingBatches, seconds: float) -> tuple[int, float]:
    """The number of clips made and their processor time, about `seconds`."""
    begun, count = time.process_time(), 0
    while time.process_time() - begun < seconds:
        draw(batches, count)
        count += 1
    return count, time.process_time() - begun


def where_time_goes(batches: TrainingBatches, count: int) -> list[str]:
    """One line per function with the most own time: share, calls per clip, name."""
    profile = cProfile.Profile()
    profile.enable()
    for number in range(count):
        draw(batches, number)
    profile.disable()
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in stats.values())
    largest = sorted(stats.items(), key=lambda item: -item[1][2])[:SHOWN]
    return [
        f"    {own / total:5.0%}  {calls / count:6.1f} calls  {name}"
        for (_, _, name), (_, calls, own, _, _) in largest
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clip-lengths", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    values = apply_overrides(load_toml(options.config), options.overrides)
    values["data"] = str(options.data)
    config = from_mapping(values, TrainConfig, where=str(options.config))
    pixels = config.model_config().pixels
    for clip_length in options.clip_lengths:
        batches = training_batches(replace(config, clip_length=clip_length), pixels)
        draw(batches, 0)
        count, seconds = measure(batches, options.seconds)
        print(
            f"T={clip_length}: {count / seconds:.1f} clips/s, "
            f"{1000 * seconds / count:.1f} ms per clip, "
            f"{clip_length * count / seconds:.0f} pictures/s"
        )
        print("\n".join(where_time_goes(batches, min(count, 60))), flush=True)


if __name__ == "__main__":
    main()
