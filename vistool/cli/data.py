"""`vistool data`: check, split and convert annotated data sets."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vistool.cli.console import progress, say
from vistool.cli.options import Frames, Quiet, Replace
from vistool.errors import DataError, UsageError, first_few, visible
from vistool.formats.files import encode_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vistool.annotations.check import SetSummary
    from vistool.annotations.problems import Problem

data = typer.Typer(help="Check, split and convert annotated data sets.")

SET_HELP = "YouTube-VIS or COCO JSON, a folder with one, or a DAVIS or MOTS folder."
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON with every problem.")]


class SourceKind(StrEnum):
    """The formats that can be read."""

    YOUTUBE_VIS = "youtube-vis"
    COCO = "coco"
    COCO_VIDEO = "coco-video"
    DAVIS = "davis"
    MOTS = "mots"


class Target(StrEnum):
    """The formats that can be written."""

    YOUTUBE_VIS = "youtube-vis"
    DAVIS = "davis"
    MOTS = "mots"


@data.command("check")
def check(
    dataset: Annotated[Path | None, typer.Argument(metavar="DATASET", help=SET_HELP)] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Check this results file (.json or .zip) instead: against DATASET if given, "
            "otherwise by itself."
        ),
    ] = None,
    frames: Frames = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find faults before a training, or before a submission to a server.

    Reads every annotation and decodes every picture. Input that would be refused is an error (exit
    code 3), unusual input a warning. The first 20 are printed; --json prints all.

    \b
    Examples:
      vistool data check data/train.json
      vistool data check valid.json --results results.json
      vistool data check --results submission.zip
    """
    from vistool.annotations.check import check_dataset
    from vistool.annotations.problems import errors_of
    from vistool.annotations.read import read_dataset
    from vistool.annotations.results_check import problems_in_results

    summary = None
    if results is not None:
        truth = None if dataset is None else read_dataset(dataset, frames=frames, masks=False)
        with progress(quiet=quiet, unit="results") as show:
            problems: Sequence[Problem] = problems_in_results(results, truth, on_progress=show)
        problems = sorted(problems, key=lambda problem: problem.severity)  # errors first
    elif dataset is not None:
        with progress(quiet=quiet, unit="pictures") as show:
            checked = check_dataset(dataset, frames=frames, on_progress=show)
        problems, summary = checked.problems, checked.summary
    else:
        raise UsageError("nothing to check", hint="give a DATASET, or --results FILE, or both")
    errors = len(errors_of(problems))
    if as_json:
        _print_json(problems, errors, summary)
    else:
        _print_findings(problems, summary)
        say(f"{errors} errors, {len(problems) - errors} warnings")
    if errors:
        raise typer.Exit(DataError.exit_code)


@data.command("split")
def split(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="YouTube-VIS or COCO JSON.")],
    fraction: Annotated[float, typer.Option(help="Share of the videos to hold out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Chooses which videos are held out.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for the two files. [that of DATASET]"),
    ] = None,
    frames: Frames = None,
    exist_ok: Replace = False,
    quiet: Quiet = False,
) -> None:
    """Hold out whole videos, or pictures, for validation.

    Writes NAME-train.json and NAME-val.json; all ids stay the same. Every category that occurs in
    two or more videos is on both sides if possible. Frames below the output folder are not touched;
    others get a hard link there, or a copy on another disk.

    Example: vistool data split data/train.json --fraction 0.1 --seed 0
    """
    from vistool.annotations.split import split_dataset

    with progress(quiet=quiet) as show:
        made = split_dataset(
            *(dataset, fraction, seed, output),
            frames=frames,
            exist_ok=exist_ok,
            on_progress=show,
        )
    if made.one_sided:
        say(f"warning: on one side only: {visible(', '.join(made.one_sided))}")
    if made.missing_files:
        say(f"warning: {made.missing_files} frames are missing; their names are kept")
    for path, number in ((made.kept, made.num_kept), (made.held_out, made.num_held_out)):
        say(f"{number} videos or pictures in {path}")
        typer.echo(path)


@data.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help=SET_HELP)],
    target: Annotated[Target, typer.Option("--to", help="Format to write.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="New folder; for youtube-vis also a .json file."),
    ],
    kind: Annotated[
        SourceKind | None, typer.Option("--from", help="Format of SOURCE. [recognised]")
    ] = None,
    frames: Frames = None,
    quiet: Quiet = False,
) -> None:
    """Convert a data set into another format, with exact masks.

    youtube-vis is one JSON. davis is JPEGImages/480p, Annotations/480p and ImageSets/2017/val.txt.
    mots is images, instances_txt, instances (16-bit PNG) and categories.json. Frames get a hard
    link in the new folder, or a copy on another disk; for youtube-vis, frames below the new JSON
    are not touched.

    DAVIS has no categories, and DAVIS and MOTS have no overlapping masks: the smaller mask keeps
    shared pixels, whose number is printed.

    \b
    Examples:
      vistool data convert DAVIS --to youtube-vis -o davis.json
      vistool data convert export.json --from coco-video --to youtube-vis -o data/mine
      vistool data convert data/train.json --to mots -o train-mots
    """
    from vistool.annotations.convert import convert as convert_dataset

    with progress(quiet=quiet) as show:
        made = convert_dataset(
            source,
            output,
            target.value,
            kind=None if kind is None else kind.value,
            frames=frames,
            on_progress=show,
        )
    if made.missing_files:
        say(f"warning: {made.missing_files} frames are missing")
    if made.overlapping:
        say(f"warning: {made.overlapping} pixels are in several masks; the smaller mask keeps them")
    say(f"{made.kind}: {made.videos} videos, {made.frames} frames, {made.tracks} tracks")
    typer.echo(made.path)


def _print_findings(problems: Sequence[Problem], summary: SetSummary | None) -> None:
    """Print the first problems, and a summary. A hint is printed once in a row of problems."""
    from vistool.annotations.problems import SHOWN

    hint, texts = "", []
    for problem in problems:
        texts.append(f"{problem.severity}: {problem}")
        if problem.hint and problem.hint != hint:
            hint = problem.hint
            texts[-1] += f"\n  hint: {hint}"
    for text in first_few(texts, SHOWN, " (--json lists all)"):
        typer.echo(text)
    if summary is not None:
        typer.echo(_table(summary))


def _table(summary: SetSummary) -> str:
    lengths = f"{summary.shortest} to {summary.longest}, half of them up to {summary.median:g}"
    rows = [("category", "instances", "videos", "masks")]
    rows += [(c.name, str(c.instances), str(c.videos), str(c.masks)) for c in summary.categories]
    width = max(len(row[0]) for row in rows)
    lines = [
        f"{summary.path}: {summary.videos} videos or pictures, {summary.frames} frames "
        f"({lengths}), {summary.instances} instances, {summary.crowds} crowds",
        *(f"  {a:{width}}  {b:>9}  {c:>7}  {d:>7}" for a, b, c, d in rows),
    ]
    return "\n".join(visible(line).rstrip() for line in lines)


def _print_json(problems: Sequence[Problem], errors: int, summary: SetSummary | None) -> None:
    import msgspec

    facts: dict[str, Any] = {
        "errors": errors,
        "warnings": len(problems) - errors,
        "summary": None if summary is None else msgspec.to_builtins(summary),
        "problems": [
            {**msgspec.to_builtins(problem), "place": dict(problem.place)} for problem in problems
        ],
    }
    typer.echo(encode_json(facts, indented=True))
