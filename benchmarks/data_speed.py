"""Training clips a second that one process makes, and where its time goes.

python benchmarks/data_speed.py CONFIG.toml --data FOLDER [--clip-lengths 1 2 5] [--seconds 5]
    [--set augment.paste_chance=0]

One thread, as in a training's worker. Compare with the clips a second that the training takes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from pathlib import Path

import cv2
import numpy as np

from vistool.config import TrainConfig, apply_overrides, from_mapping, load_toml
from vistool.data.annotations import read_annotations
from vistool.data.clips import ClipMaker
from vistool.data.sampling import ClipSampler
from vistool.structures import Size

SHOWN = 8  # functions with the most time of their own


def clip_maker(config: TrainConfig, clip_length: int) -> ClipMaker:
    """As a training makes it."""
    sources = [
        (read_annotations(Path(config.data) / source.annotations, config.classes), source.weight)
        for source in config.sources
    ]
    sampler = ClipSampler(sources, len(config.classes))
    return ClipMaker(sampler, clip_length, config.augment)


def draw(maker: ClipMaker, canvas: Size, seed: int) -> None:
    maker.draw(canvas, np.random.default_rng((seed, 0)))


def measure(maker: ClipMaker, canvas: Size, seconds: float) -> tuple[int, float]:
    """Clips and the processor time they took; the same clips whatever the machine does."""
    begun, count = time.process_time(), 0
    while time.process_time() - begun < seconds:
        draw(maker, canvas, count)
        count += 1
    return count, time.process_time() - begun


def where_time_goes(maker: ClipMaker, canvas: Size, count: int) -> list[str]:
    """Lines of share and name, of the functions with the most time of their own."""
    profile = cProfile.Profile()
    profile.enable()
    for seed in range(count):
        draw(maker, canvas, seed)
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
    parser.add_argument("--canvas", type=int, nargs=2, default=[192, 256])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    cv2.setNumThreads(0)
    values = apply_overrides(load_toml(options.config), options.overrides)
    values["data"] = str(options.data)
    config = from_mapping(values, TrainConfig, where=str(options.config))
    canvas = Size(*options.canvas)
    for clip_length in options.clip_lengths:
        maker = clip_maker(config, clip_length)
        draw(maker, canvas, 0)
        count, seconds = measure(maker, canvas, options.seconds)
        print(
            f"T={clip_length}: {count / seconds:.1f} clips/s, "
            f"{1000 * seconds / count:.1f} ms a clip, "
            f"{clip_length * count / seconds:.0f} pictures/s"
        )
        print("\n".join(where_time_goes(maker, canvas, min(count, 60))), flush=True)


if __name__ == "__main__":
    main()
