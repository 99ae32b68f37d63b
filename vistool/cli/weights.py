"""`vistool weights`: which models are at hand, and what a weight file says about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vistool.cli.console import say

if TYPE_CHECKING:
    from vistool.models.weights import WeightsHeader

COLUMNS = ("name", "MB", "architecture", "classes", "license", "score")
# Free text in the header; `vistool train` copies them from the [card] of its configuration.
LICENSE, SCORE = "license", "score"

weights = typer.Typer(help="The models at hand.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@weights.command("list")
def list_weights(as_json: AsJson = False) -> None:
    """List the weights that come with vistool, for `predict --model NAME`.

    Example: vistool weights list
    """
    import msgspec

    from vistool.errors import WeightsError
    from vistool.models.weights import available_weights, read_header

    rows = []
    for path in available_weights():
        try:
            rows.append(_summary(read_header(path)))
        except WeightsError as error:
            say(f"warning: {error}")
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(rows)))
    elif rows:
        typer.echo(_table(rows))
    else:
        say("no weights come with this installation; `predict --model` takes a file as well")


@weights.command("show")
def show_weights(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of shipped weights, or a .safetensors file.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show all that a weight file says about itself, and its SHA-256.

    Example: vistool weights show ifc-lite
    """
    import msgspec

    from vistool.models.weights import find_weights, read_header, sha256_of

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
        typer.echo(msgspec.json.format(msgspec.json.encode(facts)))
        return
    facts["classes"] = ", ".join(header.config.class_names)
    metadata, config = facts.pop("metadata"), facts.pop("config")
    for key, value in {**facts, **metadata}.items():
        typer.echo(_printable(f"{key:14}{value}"))
    typer.echo(_printable("config\n" + msgspec.json.format(msgspec.json.encode(config)).decode()))


def _summary(header: WeightsHeader) -> dict[str, Any]:
    """What tells weights apart, by column."""
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
    """Rows as aligned columns under their names."""
    lines = [COLUMNS, *(tuple(str(row[column]) for column in COLUMNS) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        _printable("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)))
        for line in lines
    )


def _printable(text: str) -> str:
    """Text from a file without what could command the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text).rstrip()
