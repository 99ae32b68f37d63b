"""Options that several commands share, with the same name and meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Replace = Annotated[bool, typer.Option("--exist-ok", help="Replace existing files of that name.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]

Frames = Annotated[
    Path | None,
    typer.Option(help="Folder that file names in the JSON are relative to. [searched for]"),
]

# Settings of the model.
ClipStride = Annotated[
    int | None,
    typer.Option(help="Frames from one clip to the next; at most the clip length. [the model's]"),
]
InputSize = Annotated[
    int | None, typer.Option(help="Shorter side of the model's input, in pixels. [the model's]")
]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
PrecisionName = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16; auto is fp32 on CPUs.")]
FrameBatch = Annotated[
    int | None,
    typer.Option(help="Frames that the network processes together. [1 on CPUs, 16 on GPUs]"),
]
