"""`vistool bench`: measure the speed of a model on this machine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, cast

import typer

from vistool.cli.console import progress
from vistool.cli.options import (
    ClipStride,
    DeviceName,
    FrameBatch,
    InputSize,
    PrecisionName,
    Quiet,
)
from vistool.cli.predict import parse_clip_length
from vistool.config import Precision, PredictConfig
from vistool.errors import UsageError
from vistool.formats.files import encode_json

if TYPE_CHECKING:
    from vistool.engine.bench import BenchReport
    from vistool.structures import Size


def bench(
    model: Annotated[
        str, typer.Option("-m", "--model", help="Name of shipped weights, or a .safetensors file.")
    ] = "ifc-lite",
    video: Annotated[
        str, typer.Option(metavar="WIDTHxHEIGHT", help="Size of the frames of the video.")
    ] = "1280x720",
    clip_length: Annotated[
        str | None, typer.Option(help="Frames that the model sees at once. [the model's]")
    ] = None,
    clip_stride: ClipStride = None,
    size: InputSize = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    batch: FrameBatch = None,
    seconds: Annotated[float, typer.Option(help="Duration of the measurement.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Quiet = False,
) -> None:
    """Measure the speed and memory of a model on this machine.

    Prints frames per second from decoded frames to tracks (without decoding and drawing), the time
    of the backbone and of a clip, memory, parameters, and operations (multiply-adds).

    Example: vistool bench --size 224 --precision bf16
    """
    from vistool.engine.bench import bench as run

    config = PredictConfig(
        clip_length=parse_clip_length(clip_length),
        clip_stride=clip_stride,
        size=size,
        device=device,
        precision=cast("Precision", precision),
        batch=batch,
    )
    with progress(quiet=quiet, unit="seconds") as show:
        report = run(model, config, frame=_frame(video), seconds=seconds, on_progress=show)
    typer.echo(_as_json(report) if as_json else _as_text(report))


def _frame(text: str) -> Size:
    """The size that a text such as `1280x720` means. Raises: UsageError for other texts."""
    from vistool.structures import Size

    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if match is None:
        raise UsageError(f"--video {text}: not of the form WIDTHxHEIGHT", hint="--video 1280x720")
    width, height = map(int, match.groups())
    return Size(height, width)


def _as_json(report: BenchReport) -> str:
    import msgspec

    facts = {**msgspec.to_builtins(report), "operations_per_frame": report.operations_per_frame}
    for name in ("frame", "seen"):
        height, width = facts[name]
        facts[name] = {"width": width, "height": height}
    return encode_json(facts, indented=True).decode()


def _as_text(report: BenchReport) -> str:
    def giga(operations: int) -> str:
        return f"{operations / 1e9:.2f} G operations"

    memory = "not known" if report.memory_mb is None else f"{report.memory_mb:.0f} MB at its peak"
    frame, seen = report.frame, report.seen
    rows = {
        "model": f"{report.model}, {report.parameters / 1e6:.2f} M parameters",
        "on": f"{report.device}, {report.threads} threads, {report.precision}, "
        f"torch {report.torch}",
        "video": f"{frame.width}x{frame.height}, input {seen.width}x{seen.height}; "
        f"clips of {report.clip_length} frames, {report.clip_stride} from one to the next",
        "speed": f"{report.frames_per_second:.2f} frames/s, over {report.frames} frames",
        "per frame": f"{report.encode_ms:.1f} ms, {giga(report.encode_operations)}",
        "per clip": f"{report.decode_ms:.1f} ms, {giga(report.decode_operations)}",
        "total": f"{giga(report.operations_per_frame)} per frame",
        "memory": memory,
    }
    return "\n".join(f"{name:10}{text}" for name, text in rows.items())
