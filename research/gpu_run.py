"""Run tests, benchmarks of all models and a training on a GPU within a time limit.

    python research/gpu_run.py --pack PACK.tar.xz --start START.safetensors --output $OUT
    python research/gpu_run.py ... --device cpu --minutes 3 --tiny      # to try it without a GPU

--output gets `tests.txt` (`pytest -m gpu`), `bench.jsonl` (one line per model and precision) and
`training/` (weights in half precision, log and settings); each file is smaller than 16 MiB. A
failing part does not stop the next one. The training takes the remaining time, with the largest
batch that fits the memory, and the rate decreases to zero within that time. PACK was written by
`data_pack`, START by `start_classes` or by a training with the same classes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from vistool.config import PredictConfig, TrainConfig, apply_overrides, from_mapping, load_toml
from vistool.engine.bench import bench
from vistool.engine.train.log import LOG
from vistool.engine.train.setup import SETTINGS
from vistool.engine.train.train import WEIGHTS, train
from vistool.errors import VistoolError
from vistool.models import build_model
from vistool.models.checkpoints.files import LoadedModel, WeightsHeader, available_weights
from vistool.models.checkpoints.presets import PRESETS, preset
from vistool.structures import Size

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "ifc-lite-more.toml"
SPARE = 45  # seconds reserved for saving and copying results
TRIAL = 8  # steps for measuring the time per step; the first few start the workers
LARGEST_BATCH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True, help="weights to train from")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.5, help="for all parts")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small pictures, batches and models")
    args = parser.parse_args()
    args.end = time.monotonic() + 60 * args.minutes
    args.output.mkdir(parents=True, exist_ok=True)
    for part in (run_tests, run_benches, run_training):
        try:
            part(args)
        except (VistoolError, RuntimeError, OSError, subprocess.SubprocessError):
            (args.output / f"{part.__name__}-failed.txt").write_text(traceback.format_exc())
            print(f"{part.__name__} failed", flush=True)


def left(args: argparse.Namespace) -> float:
    """The remaining time in seconds."""
    return float(args.end - time.monotonic())


def run_tests(args: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/test_gpu.py", "-q", "-rA"]
    with (args.output / "tests.txt").open("w") as file:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "VISTOOL_TEST_DEVICE": args.device},
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=left(args) / 4,
            check=False,
        )
    print(f"tests: exit code {done.returncode}", flush=True)


# --- speed ----------------------------------------------------------------------------------------


def run_benches(args: argparse.Namespace) -> None:
    """Measure every model in both precisions, within a quarter of the remaining time."""
    names = [path.stem for path in available_weights()] + ([] if args.tiny else list(PRESETS))
    precisions = ("fp32",) if args.tiny else ("fp32", "bf16")
    end = time.monotonic() + left(args) / 4
    frame = Size(90, 160) if args.tiny else Size(720, 1280)
    with (args.output / "bench.jsonl").open("w") as file:
        for name in names:
            for precision in precisions:
                if time.monotonic() > end:
                    print(f"bench: no time left for {name} in {precision}", flush=True)
                    continue
                model: str | LoadedModel = name
                if name in PRESETS:
                    config = preset(name)
                    header = WeightsHeader(Path(name), config, {})
                    model = LoadedModel(build_model(config).eval(), header, "random weights")
                settings = PredictConfig(device=args.device, precision=precision)
                report = bench(model, settings, frame=frame, seconds=1.0 if args.tiny else 3.0)
                file.write(json.dumps({"name": name, **msgspec.to_builtins(report)}) + "\n")
                file.flush()
                print(f"{name} {precision}: {report.frames_per_second:.1f} frames/s", flush=True)


# --- training -------------------------------------------------------------------------------------


def run_training(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with tarfile.open(args.pack) as archive:
            archive.extractall(folder / "data", filter="data")
        batch, seconds = largest_batch(args, folder)
        steps = max(1, int((left(args) - SPARE) / seconds))
        print(f"training: {steps} steps of {batch} clips, {seconds:.2f} s each", flush=True)
        config = settings(args, folder, batch=batch, steps=steps)
        train(config, folder / "run", on_step=tell)
        (args.output / "training").mkdir(exist_ok=True)
        for name in (WEIGHTS, LOG, SETTINGS):
            shutil.copyfile(folder / "run" / name, args.output / "training" / name)


def largest_batch(args: argparse.Namespace, folder: Path) -> tuple[int, float]:
    """The largest batch that fits the memory, found by doubling, and the seconds of a step.

    Doubling stops when the clips per second increase by less than 5 %.
    """
    best: tuple[int, float] | None = None
    batch = 2 if args.tiny else 8
    while batch <= (4 if args.tiny else LARGEST_BATCH):
        run = folder / f"trial-{batch}"
        try:
            train(settings(args, folder, batch=batch, steps=TRIAL), run)
        except VistoolError as error:
            if best is None:
                raise
            print(f"batch {batch}: {error}", flush=True)
            break
        lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
        seconds = sorted(line["seconds"] for line in lines)[TRIAL // 2]
        print(f"batch {batch}: {batch / seconds:.1f} clips/s", flush=True)
        if best is not None and batch / seconds < 1.05 * best[0] / best[1]:
            break
        best, batch = (batch, seconds), 2 * batch
        if left(args) < 3 * SPARE:
            break
    assert best is not None
    return best


def settings(args: argparse.Namespace, folder: Path, *, batch: int, steps: int) -> TrainConfig:
    """The training settings of the released weights; rates grow with the root of the batch."""
    overrides = [
        f"init={args.start}",
        f"data={folder / 'data'}",
        f"device={args.device}",
        f"batch={batch}",
        f"steps={steps}",
        f"warmup_steps={min(60, steps // 10)}",
        f"learning_rate={min(8e-4, 2e-4 * (batch / 4) ** 0.5):g}",
        f"backbone_rate={min(1.6e-4, 4e-5 * (batch / 4) ** 0.5):g}",
        f"precision={'fp32' if args.tiny else 'bf16'}",
        f"workers={1 if args.tiny else max(1, (os.cpu_count() or 2) - 1)}",
        "save_every=1000000",
        "canvases=" + ("[[64,96]]" if args.tiny else "[[192,256],[256,192],[224,288],[224,224]]"),
    ]
    values = apply_overrides(load_toml(CONFIG), overrides)
    config: TrainConfig = from_mapping(values, TrainConfig, where=str(CONFIG))
    return config


def tell(step: int, steps: int, line: Mapping[str, Any]) -> None:
    if step % max(1, steps // 20) == 0:
        print(f"step {step} of {steps}, loss {line['loss']:.3f}", flush=True)


if __name__ == "__main__":
    main()
