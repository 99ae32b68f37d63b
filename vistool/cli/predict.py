"""`vistool predict`: videos -> masks with identities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from vistool.cli.console import answer, progress, report_failure, say
from vistool.cli.options import (
    ClipStride,
    DeviceName,
    FrameBatch,
    InputSize,
    PrecisionName,
    Quiet,
)
from vistool.config import Precision, PredictConfig
from vistool.errors import UsageError


def predict(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Video files, folders of frames, TIFFs whose pages are frames, folders of videos, "
            "or globs."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="Where the folder of every source goes; -: JSON lines on stdout instead, a frame "
            "as soon as it is final.",
        ),
    ] = Path("runs/predict"),
    model: Annotated[
        str, typer.Option("-m", "--model", help="Name of shipped weights, or a .safetensors file.")
    ] = "ifc-lite",
    conf: Annotated[
        float, typer.Option(help="Report tracks with at least this score, 0 to 1.")
    ] = PredictConfig().conf,
    classes: Annotated[
        list[str] | None,
        typer.Option(help="Report these classes only: --classes person,car; may be repeated."),
    ] = None,
    max_overlap: Annotated[
        float | None,
        typer.Option(
            help="Report one of two tracks whose masks overlap by more than this IoU over the "
            "video, and no part of one; 1: all. [0.5 for shipped weights, 1 for imported ones]",
        ),
    ] = None,
    clip_length: Annotated[
        str | None,
        typer.Option(
            help="Frames that the model sees at once; `all`: the whole video as one clip, which "
            "keeps the features of every frame in memory. [the model's]",
        ),
    ] = None,
    clip_stride: ClipStride = None,
    frame_stride: Annotated[
        int, typer.Option(help="2: the model sees every other frame; the others get no masks.")
    ] = PredictConfig().frame_stride,
    start: Annotated[float | None, typer.Option(help="Begin here, in seconds.")] = None,
    end: Annotated[float | None, typer.Option(help="End here, in seconds.")] = None,
    stream: Annotated[
        int | None,
        typer.Option(
            help="Number of the video stream, of several in a file. [the default one, or else the "
            "largest]"
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(help="Frames per second of frames that are kept as pictures. [10]"),
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="LOW,HIGH",
            help="Values that become black and white, of pictures with more than 8 bits. [the "
            "lowest and the highest of the sequence]",
        ),
    ] = None,
    size: InputSize = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    batch: FrameBatch = None,
    overlay: Annotated[
        bool, typer.Option("--overlay/--no-overlay", help="Draw the tracks on the video.")
    ] = True,
    save: Annotated[
        list[str] | None,
        typer.Option(
            help="Write more: csv and jsonl (the masks of every frame), mots, davis (label "
            "pictures), cutouts (transparent PNGs)...; --save csv,davis; may be repeated.",
        ),
    ] = None,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="Write into a folder that is there already.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Segment, classify and track every instance in SOURCES.

    Writes results.json, meta.json and overlay.mp4 into a folder for every source, and prints the
    path of that folder.

    Example: vistool predict street.mp4 --conf 0.8 --classes person,car
    """
    from vistool.formats.video.sources import expand_sources

    paths = expand_sources(sources)  # before torch is loaded: they may not be there
    from vistool.engine.distributed import joined
    from vistool.engine.predict.sources import predict_videos
    from vistool.engine.tracked_video import TrackedVideo

    config = PredictConfig(
        conf=conf,
        classes=_listed(classes),
        max_overlap=max_overlap,
        clip_length=parse_clip_length(clip_length),
        clip_stride=clip_stride,
        frame_stride=frame_stride,
        size=size,
        start=start,
        end=end,
        stream=stream,
        fps=fps,
        range=parse_range(value_range),
        device=device,
        precision=cast("Precision", precision),
        batch=batch,
        overlay=overlay,
        save=_listed(save),
    )

    if output == Path("-"):
        if save or exist_ok:
            raise UsageError("-o - writes no files, so there is nothing to --save or to replace")
        print_frames(model, paths, config, quiet=quiet)
        return

    def on_done(video: TrackedVideo, folder: Path) -> None:
        for warning in video.warnings:
            say(f"warning: {warning}")
        if not quiet:
            say(f"{video.reader.path}: {len(video.frames)} frames, {len(video.tracks)} tracks")
        answer(str(folder))

    with (
        joined(device) as processes,
        progress(quiet=quiet or not processes.is_first) as show,
    ):
        predict_videos(
            model,
            paths,
            output,
            config,
            exist_ok=exist_ok,
            processes=processes,
            on_progress=show,
            on_done=on_done,
            on_failure=lambda _, error: report_failure(error),
        )


def print_frames(
    model: str, sources: Sequence[Path], config: PredictConfig, *, quiet: bool
) -> None:
    """Print one JSON line per frame on stdout, with the classes and scores known so far."""
    from vistool.engine.distributed import joined
    from vistool.engine.predict.sources import stream_videos
    from vistool.engine.tracked_video import TrackedFrame
    from vistool.formats.files import path_as_text

    with (
        joined(config.device) as processes,
        progress(quiet=quiet) as show,
    ):
        if processes.count > 1:
            raise UsageError("-o - is for one process: several would write into each other")
        done = count(1)

        def on_frame(source: Path, frame: TrackedFrame) -> None:
            line = {"source": path_as_text(source), **frame.as_dict()}
            answer(json.dumps(line, separators=(",", ":")))  # ASCII, as any stdout can take
            show("segmenting", next(done), None)

        stream_videos(
            model,
            sources,
            config,
            on_frame=on_frame,
            on_warning=lambda warning: say(f"warning: {warning}"),
            on_failure=lambda _, error: report_failure(error),
        )


def parse_range(text: str | None) -> tuple[float, float] | None:
    """Two numbers with a comma between them. Raises: UsageError for anything else."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"--range {text}: not two numbers, as in --range 0,4095") from None
    return low, high


def _listed(parts: list[str] | None) -> tuple[str, ...]:
    """The names in `a,b` and `c`, as --option a,b --option c gives them."""
    return tuple(name.strip() for part in parts or [] for name in part.split(",") if name.strip())


def parse_clip_length(text: str | None) -> int | Literal["all"] | None:
    """A number of frames, or `all`. Raises: UsageError for anything else."""
    if text is None or text == "all":
        return text  # type: ignore[return-value]  # mypy does not narrow a str by comparison
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--clip-length {text}: neither a number of frames nor `all`") from None
