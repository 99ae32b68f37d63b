"""`vistool weights`: list and show weight files, and import the papers' checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vistool.cli.console import say
from vistool.errors import UsageError, first_few, visible
from vistool.formats.files import encode_json

if TYPE_CHECKING:
    from vistool.models.checkpoints.files import WeightsHeader
    from vistool.models.checkpoints.importing import ImportedModel, ImportReport

COLUMNS = ("name", "MB", "architecture", "classes", "license", "score")
# Free text in the header; `vistool train` copies it from the [card] of its configuration.
LICENSE, SCORE = "license", "score"
FIRST_FEW = 5  # tensors that are listed without --verbose

weights = typer.Typer(help="List, show and import weight files.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@weights.command("list")
def list_weights(as_json: AsJson = False) -> None:
    """List the weights that come with vistool, for `predict --model NAME`.

    Example: vistool weights list
    """
    from vistool.models.checkpoints.files import available_weights

    print_weights(available_weights(), as_json=as_json)


def print_weights(paths: list[Path], *, as_json: bool) -> None:
    """Print one row per weight file, as a table or as JSON; warn about unreadable files."""

    from vistool.errors import WeightsError
    from vistool.models.checkpoints.files import read_header

    rows = []
    for path in paths:
        try:
            rows.append(_summary(read_header(path)))
        except WeightsError as error:
            say(f"warning: {error}")
    if as_json:
        typer.echo(encode_json(rows, indented=True))
    elif rows:
        typer.echo(_table(rows))
    else:
        say("no weights come with this installation; `predict --model` also accepts a file")


@weights.command("show")
def show_weights(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of shipped weights, or a .safetensors file.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show the whole header of a weight file, and its SHA-256.

    Example: vistool weights show ifc-lite
    """
    import msgspec

    from vistool.formats.files import sha256_of
    from vistool.models.checkpoints.files import find_weights, read_header

    header = read_header(find_weights(name))
    facts = {
        **_summary(header),
        "file": str(header.path),
        "bytes": header.path.stat().st_size,
        "sha256": sha256_of(header.path),
        "config": msgspec.to_builtins(header.config),
        "metadata": header.metadata,
    }
    if as_json:
        typer.echo(encode_json(facts, indented=True))
        return
    facts["classes"] = ", ".join(header.config.class_names)
    metadata, config = facts.pop("metadata"), facts.pop("config")
    for key, value in {**facts, **metadata}.items():
        typer.echo(_printable(f"{key:14}{value}"))
    typer.echo(_printable("config\n" + encode_json(config, indented=True).decode()))


@weights.command("import")
def import_weights(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A published checkpoint: .pth (torch) or .pkl (NumPy)."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The weight file to write. [FILE's name.safetensors]"),
    ] = None,
    init_of: Annotated[
        str | None,
        typer.Option(
            help="Import FILE as initial weights for training this published model, without a "
            "class head: ifc-r50, ifc-r101, vistr-r50, vistr-r101.",
        ),
    ] = None,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="Replace an existing weight file.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="List every tensor and what was done with it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Convert a published checkpoint of VisTR or IFC into a weight file.

    Model and size are recognised from the names and shapes of the tensors. With --init-of,
    backbones trained on ImageNet (torchvision, detectron2), DETR trained on COCO, and models for
    other classes become initial weights for training.

    No code in FILE is executed. If a tensor is missing or has a wrong shape, nothing is written.

    Example: vistool weights import vistr_r50.pth -o vistr-r50.safetensors
    """
    from vistool.models.checkpoints.importing import import_checkpoint, save_imported

    target = output or file.with_suffix(".safetensors")
    if target.exists() and not exist_ok:
        raise UsageError(
            f"{target}: exists already", hint="--exist-ok replaces it, -o names another"
        )
    imported = import_checkpoint(file, init_of)
    _say_report(imported.report, verbose=verbose)
    if as_json:
        typer.echo(_report_as_json(imported))
    save_imported(imported, target)
    if not as_json:
        typer.echo(target)


def _say_report(report: ImportReport, *, verbose: bool) -> None:
    """Print the number of tensors by outcome, and the first few that were not taken."""
    say(_printable(f"{report.source}: {report.recognised}"))
    for outcome, number in report.count().items():
        say(f"  {number} {outcome}")
        if outcome in ("taken", "renamed") and not verbose:
            continue
        texts = [
            " -> ".join(name for name in (key.published, key.ours) if name)
            + (f": {key.note}" if key.note else "")
            for key in report.of(outcome)
        ]
        for text in first_few(texts, number if verbose else FIRST_FEW, " (--verbose)"):
            say(_printable(f"    {text}"))


def _report_as_json(imported: ImportedModel) -> str:

    report = imported.report
    facts = {
        "source": report.source,
        "sha256": report.sha256,
        "recognised": report.recognised,
        "start_of": report.start_of,
        "config": imported.config,
        "counts": report.count(),
        "keys": [key._asdict() for key in report.keys],
    }
    return encode_json(facts, indented=True).decode()


def _summary(header: WeightsHeader) -> dict[str, Any]:
    """The columns of `weights list` for one file."""
    config = header.config
    return {
        "name": header.name,
        "MB": f"{header.path.stat().st_size / 1e6:.1f}",
        "architecture": f"{config.__struct_config__.tag}, {config.backbone.__struct_config__.tag}",
        "classes": len(config.class_names),
        LICENSE: header.metadata.get(LICENSE, "not said"),
        SCORE: header.metadata.get(SCORE, "not said"),
    }


def _table(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned columns, with a header."""
    lines = [COLUMNS, *(tuple(str(row[column]) for column in COLUMNS) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        _printable("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)))
        for line in lines
    )


def _printable(text: str) -> str:
    """Text from a file with control characters replaced, for the terminal."""
    return "\n".join(map(visible, text.split("\n"))).rstrip()
