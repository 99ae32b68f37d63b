"""The `vistool` program: all commands, and the options that they share."""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vistool.cli.bench import bench
from vistool.cli.console import friendly_errors, report_interrupt
from vistool.cli.data import data
from vistool.cli.eval import evaluate
from vistool.cli.predict import predict
from vistool.cli.render import render
from vistool.cli.train import train
from vistool.cli.visualize import visualize
from vistool.cli.weights import weights
from vistool.signals import ended_by_signals

DEBUG = "--debug"


class Commands(TyperGroup):
    """All commands; failures of every command are reported in the same way."""

    def main(self, args: Any = None, *rest: Any, **extra: Any) -> Any:
        """Run one command and exit with its exit code."""
        words = list(sys.argv[1:] if args is None else args)
        options = words[: words.index("--")] if "--" in words else words
        # Users add --debug at the end of a command that failed, so it is accepted anywhere.
        words = [word for word in options if word != DEBUG] + words[len(options) :]
        if isinstance(sys.stdout, io.TextIOWrapper):  # file names may not be valid UTF-8
            sys.stdout.reconfigure(errors="backslashreplace")
        with friendly_errors(debug=DEBUG in options):
            code = super().main(words, *rest, **{**extra, "standalone_mode": False})
        raise SystemExit(code)

    def invoke(self, ctx: Any) -> Any:
        """Run the command and report an interruption, which typer would turn into an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            report_interrupt(interrupt)


EXAMPLES = """\b
Examples:
  vistool predict street.mp4                       masks, tracks and an overlay
  vistool render street.mp4 runs/predict/street    draw saved results in another style
  vistool eval valid.json -p results.json          AP, HOTA, J and F of saved results
  vistool train configs/ifc-lite.toml --data DATA  train a model for other classes
  vistool visualize runs/predict/street            an overview of the tracks as a picture
  vistool data check data/train.json               find faults before training
  vistool weights list                             list the available models
  vistool bench                                    measure the speed of a model
"""

# Help is printed without rich, since importing it would double the time of `vistool --help`.
app = typer.Typer(
    name="vistool",
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"vistool {version('vistool')}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog=EXAMPLES)
def vistool(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
    _debug: Annotated[  # read in Commands.main; declared so that --help shows it
        bool, typer.Option(DEBUG, help="Show the traceback of an error; accepted anywhere.")
    ] = False,
) -> None:
    """Segment, classify and track every object instance in a video."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command()(predict)
app.command()(render)
app.command("eval")(evaluate)
app.command()(train)
app.command()(visualize)
app.command()(bench)
app.add_typer(data, name="data")
app.add_typer(weights, name="weights")


def main() -> None:
    """The entry point of the `vistool` command."""
    with ended_by_signals():
        app()
