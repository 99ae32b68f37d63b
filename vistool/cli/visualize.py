"""`vistool visualize`: training clips, labelled videos or results -> figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vistool.cli.console import answer, progress
from vistool.cli.options import Quiet, Replace
from vistool.config import TrainConfig, apply_overrides, from_mapping, load_toml
from vistool.errors import UsageError

FIGURES = Path("runs/visualize")


# The options of every kind of input.
OPTIONS = {
    "training clips": {"CONFIG", "--count", "--data", "--set", "--seed"},
    "labelled sets": {"--count", "--videos", "--seed"},
    "results": {"--count", "--source", "--conf", "--html"},
}


def visualize(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="`train` with a configuration; an annotation file or its folder; or the folder "
            "that `predict` wrote, or its results.json.",
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Argument(help="With `train`: settings as TOML, or the folder of a run."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="A .png, or a folder for one .png per row; for results a .png or .html. "
            "[runs/visualize/NAME.png; for results tracks.png in their folder; with -2, -3... if "
            "that exists already]",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Number of clips or videos [8], or of frames of results [12]."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="For training clips: folder that the sources' paths are relative to."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting of the training.")
    ] = None,
    videos: Annotated[
        list[str] | None,
        typer.Option(help="Names or ids of the labelled videos; may be repeated. [the first]"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Show other training clips, or random labelled videos.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="The video of the results, if it has been moved.")
    ] = None,
    conf: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="For results: tracks with at least this score. [all]"),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="For results: write a self-contained page.")
    ] = False,
    exist_ok: Replace = False,
    quiet: Quiet = False,
) -> None:
    """Draw training clips, labelled videos or results as a contact sheet.

    Example: vistool visualize train configs/ifc-lite.toml --data data/ -o clips.png
    """
    from vistool.engine.draw import results_sheet as of_results
    from vistool.engine.draw import sheets as job

    values = {
        "CONFIG": config, "--count": count, "--data": data, "--set": overrides,
        "--videos": videos, "--seed": seed, "--source": source, "--conf": conf,
        "--html": html or None,
    }  # fmt: skip
    given = [name for name, value in values.items() if value not in (None, [])]
    with progress(quiet=quiet) as show:
        if what == "train":
            require_options("training clips", given)
            if config is None:
                raise UsageError("train: which one?", hint="name a configuration or a run's folder")
            output = _place(output, FIGURES / f"{config.stem}.png", exist_ok, *job.SHEET_SUFFIXES)
            from vistool.engine.train.sheet import training_sheet

            settings = training_settings(config, data, overrides or [], seed)
            sheet = training_sheet(settings, count or 8)
            written = job.save_sheet(sheet, output, exist_ok=exist_ok)
        elif results := of_results.results_file(Path(what)):
            require_options("results", given)
            usual = results.with_name("tracks.html" if html else "tracks.png")
            suffixes = (".html",) if html else of_results.RESULTS_SUFFIXES
            output = _place(output, usual, exist_ok, *suffixes)
            view = of_results.view_results(
                results, source=source, count=count or 12, conf=conf or 0.0, on_progress=show
            )
            written = [of_results.save_results(view, output, exist_ok=exist_ok)]
        else:
            require_options("labelled sets", given)
            if videos and (count or seed is not None):
                raise UsageError("--videos names videos; --count and --seed choose from all")
            path = Path(what)
            output = _place(output, FIGURES / f"{path.stem}.png", exist_ok, *job.SHEET_SUFFIXES)
            sheet = job.dataset_sheet(path, videos=videos or (), count=count or 8, seed=seed)
            written = job.save_sheet(sheet, output, exist_ok=exist_ok)
    for path in written:
        answer(str(path))


def _place(named: Path | None, usual: Path, exist_ok: bool, *suffixes: str) -> Path:
    """The path of a figure. Raises: UsageError, before anything is read."""
    from vistool.engine.draw.sheets import require_suffix
    from vistool.formats.files import free_path, refuse_existing

    place = named or free_path(usual, exist_ok=exist_ok)
    require_suffix(place, *suffixes)
    if place.suffix:
        refuse_existing(place, exist_ok=exist_ok)
    return place


def require_options(subject: str, given: Sequence[str]) -> None:
    """Raises: UsageError for an option that does not apply to this kind of input."""
    for option in given:
        if option not in OPTIONS[subject]:
            others = [name for name, known in OPTIONS.items() if option in known]
            raise UsageError(
                f"{option}: does not apply to {subject}",
                hint=f"it is for {' and '.join(others)}",
            )


def training_settings(
    config: Path, data: Path | None, overrides: list[str], seed: int | None
) -> TrainConfig:
    """Settings from a TOML file, or from the folder of a run."""
    if config.is_dir():
        import msgspec

        from vistool.engine.train.setup import started_with

        values = msgspec.to_builtins(started_with(config))
    else:
        values = load_toml(config)
    values = apply_overrides(values, overrides)
    if data is not None:
        values["data"] = str(data)
    if seed is not None:
        values["seed"] = seed
    settings: TrainConfig = from_mapping(values, TrainConfig, where=str(config))
    return settings
