"""The `vistool` program: all commands, and the options that they share."""

from __future__ import annotations

import io
import os
import sys
import warnings
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
from vistool.errors import OutOfMemoryError
from vistool.signals import ended_by_signals

DEBUG = "--debug"
# Bytes of address space. With less, the process ends when torch or OpenCV is loaded. On CPUs,
# `predict` needed 1.2 GB with one thread and 1.5 GB with two.
LEAST_MEMORY = 1_500_000_000
# Hints to reduce memory, by command.
LESS_MEMORY = {
    "predict": "a smaller --size, --clip-length or --batch needs less",
    "eval": "fewer --workers, or a smaller --size or --batch, need less",
    "train": "a smaller batch, with accumulate for the rest, or recompute = true needs less",
    "bench": "a smaller --size or --clip-length needs less",
    "visualize": "fewer frames or videos at a time need less",
    "data": "a part of the data set at a time needs less",
}


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
        command = next((word for word in words if not word.startswith("-")), "")
        warnings.filterwarnings("ignore", module="PIL")  # damaged pictures: we print our own line
        with friendly_errors(
            debug=DEBUG in options,
            less_memory=LESS_MEMORY.get(command, "close other programs, or take a smaller input"),
        ):
            if words and not {"-h", "--help", "--version"}.intersection(words):
                _refuse_too_little_memory()
            code = super().main(words, *rest, **{**extra, "standalone_mode": False})
        raise SystemExit(code)

    def invoke(self, ctx: Any) -> Any:
        """Run the command and report an interruption, which typer would turn into an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            report_interrupt(interrupt)


def _refuse_too_little_memory() -> None:
    """Raises: OutOfMemoryError if libraries would crash while they are loaded."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY and allowed < LEAST_MEMORY:
        raise OutOfMemoryError(
            f"this process may have {allowed // 1_000_000} MB of address space; vistool needs "
            f"{LEAST_MEMORY // 1_000_000} at least",
            hint="raise the limit, as by `ulimit -v unlimited`",
        )


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
    _open_standard_streams()
    with ended_by_signals():
        app()


def _open_standard_streams() -> None:
    """Open missing standard streams on the null device.

    Otherwise the next opened file would get the number of a stream, and the messages written to it.
    """
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))
