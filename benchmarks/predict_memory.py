"""Peak memory of `vistool predict` on a short and a long video; it must not grow with the length.

python benchmarks/predict_memory.py [--model FILE | --random PRESET] [--frames 200 2000]
    [-- MORE PREDICT OPTIONS]

--random uses a published architecture, such as vistr-r50, with random weights, so that nothing must
be downloaded; its masks are meaningless. Without --model and --random, a small random model is used
whose queries mostly predict an instance. It has many masks and many short tracks, the hard case.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vistool.formats.video.writer import VideoWriter
from vistool.structures import Size

SIZE = Size(360, 640)
ALLOWED = 60  # MB between the two


def make_video(path: Path, length: int) -> None:
    """Write squares that move over noise; H.264, 25 frames per second."""
    noise = np.random.default_rng(0).integers(0, 120, (*SIZE, 3), dtype=np.uint8)
    with VideoWriter(path, SIZE, fps=25.0) as writer:
        for frame in range(length):
            image = np.roll(noise, frame, axis=1)
            for k in range(4):
                left = (frame * (k + 1) + 150 * k) % (SIZE.width - 80)
                image[80 * k + 10 : 80 * k + 70, left : left + 80] = (250, 60 * k, 100)
            writer.write(image, frame / 25)


def make_model(path: Path, name: str | None) -> None:
    """Write random weights of a preset, or of a small IFC whose masks jump from clip to clip."""
    import torch

    from vistool.config import IFCConfig, ResNetConfig
    from vistool.models import build_model
    from vistool.models.checkpoints.files import save_model
    from vistool.models.checkpoints.presets import preset

    torch.manual_seed(0)
    if name is not None:
        save_model(build_model(preset(name)), path, {})
        return
    config = IFCConfig(
        class_names=tuple(f"class{k}" for k in range(40)),
        backbone=ResNetConfig(stem_channels=8, bottleneck_channels=8),
        hidden_dim=32,
        num_heads=4,
        feedforward_dim=64,
        encoder_layers=1,
        decoder_layers=1,
        num_queries=12,
        test_short_side=96,
    )
    model = build_model(config)
    torch.nn.init.normal_(model.mask_kernel.layers[-1].weight, std=2.0)
    save_model(model, path, {})


def peak_memory(command: list[str]) -> float:
    """The peak resident memory of a command, in MB; exits if the command fails."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--random", metavar="PRESET")
    parser.add_argument("--frames", type=int, nargs=2, default=[200, 2000])
    parser.add_argument("options", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or str(folder / "random.safetensors")
        if not arguments.model:
            make_model(Path(model), arguments.random)
        peaks = []
        for length in arguments.frames:
            video = folder / f"{length}.mp4"
            make_video(video, length)
            run = [sys.executable, "-m", "vistool", "predict", str(video), "-m", model]
            run += ["-o", str(folder), "--quiet", "--conf", "0", *arguments.options]
            start = time.perf_counter()
            peaks.append(peak_memory(run))
            seconds = time.perf_counter() - start
            size = (folder / str(length) / "results.json").stat().st_size / 2**20
            print(
                f"{length} frames: {peaks[-1]:.0f} MB peak memory, {seconds:.0f} s, "
                f"results.json {size:.1f} MB",
                flush=True,
            )
    print(f"difference: {peaks[1] - peaks[0]:+.0f} MB (allowed: {ALLOWED})")
    if peaks[1] - peaks[0] > ALLOWED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
