"""`vistool render`: saved results -> an overlay video, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vistool.cli.console import progress
from vistool.cli.options import Quiet, Replace
from vistool.config import OverlayStyle


def render(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Video file, or folder of frames.")
    ],
    results: Annotated[
        Path,
        typer.Argument(metavar="RESULTS", help="results.json, or the folder that holds it."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The mp4 to write. [overlay.mp4 beside the results; with --video, "
            "overlay-SOURCE.mp4; with -2, -3... if that is there already]",
        ),
    ] = None,
    video: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Which video's results to draw, if there are those of several; its name does, "
            "too, with --annotations.",
        ),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Data set whose names the classes and videos have.")
    ] = None,
    conf: Annotated[
        float, typer.Option(min=0, max=1, help="Draw tracks with at least this score.")
    ] = 0.0,
    alpha: Annotated[
        float,
        typer.Option(min=0, max=1, help="Strength of the masks' colour: 0 none, 1 opaque."),
    ] = OverlayStyle().alpha,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Class, id and score on every mask.")
    ] = True,
    scores: Annotated[
        bool, typer.Option("--scores/--no-scores", help="The score as part of the label.")
    ] = True,
    exist_ok: Replace = False,
    quiet: Quiet = False,
) -> None:
    """Draw saved results on their video.

    Example: vistool render street.mp4 runs/predict/street --alpha 0.3 --no-scores

    Of several videos: vistool render JPEGImages/deer results.json --video deer --annotations
    valid.json
    """
    from vistool.engine.read_video import load
    from vistool.engine.writers import require_mp4
    from vistool.formats.files import free_path, refuse_existing
    from vistool.formats.results.files import OVERLAY
    from vistool.formats.video.sources import source_name

    if output is None:
        name = OVERLAY if video is None else f"overlay-{source_name(source)}.mp4"
        folder = results if results.is_dir() else results.parent
        output = free_path(folder / name, exist_ok=exist_ok)
    require_mp4(output)  # before anything is read
    refuse_existing(output, exist_ok=exist_ok)
    with (
        progress(quiet=quiet) as show,
        load(results, source=source, video=video, annotations=annotations) as tracked,
    ):
        tracked.render(
            output,
            conf=conf,
            exist_ok=exist_ok,
            on_progress=show,
            alpha=alpha,
            labels=labels,
            scores=scores,
        )
    typer.echo(output)
