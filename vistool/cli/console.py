"""Output of the commands: results on stdout; messages, errors and progress on stderr."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import typer

from vistool.errors import (
    OutOfMemoryError,
    UsageError,
    VistoolError,
    is_out_of_memory,
    visible,
)
from vistool.progress import OnProgress, silent
from vistool.signals import INTERRUPTED

# Options of other programs, and hints to the ones of vistool.
OTHER_NAMES = {
    "--epochs": "a training is counted in steps: --set steps=2000",
    "--lr": "the learning rate: --set learning_rate=1e-4",
    "--batch-size": "--set batch=8 for `train`, --batch for `predict`",
    "--weights": "weights are named by -m, --model",
    "--source": "the sources are given without an option",
}
NO_UNITS: Mapping[str, str] = {}
SECONDS_BETWEEN_LINES = 5.0  # of progress, if stderr is not a terminal

# The option parser's error class; its package differs between versions of typer.
ParserError: type[Exception] = typer.BadParameter.__mro__[1]


@contextmanager
def friendly_errors(*, debug: bool = False, less_memory: str = "") -> Iterator[None]:
    """Print an expected failure as an `error:` and a `hint:` line, and exit with its exit code.

    Any other exception is a bug and keeps its traceback. Typer handles a closed pipe (`| head`).

    Args:
        debug: show the traceback of expected failures as well.
        less_memory: a hint to reduce memory.
    """
    try:
        yield
    except VistoolError as error:
        _fail(error, debug)
    except ParserError as error:
        message, hint = _parser_message(error)
        _fail(UsageError(message, hint=hint), debug)
    except (KeyboardInterrupt, typer.Abort) as interrupt:
        report_interrupt(interrupt)
    except Exception as error:
        if is_out_of_memory(error):
            full = OutOfMemoryError("this computer's memory is full", hint=less_memory)
            _fail(full.with_notes_of(error), debug)
        if isinstance(error, OSError):
            _fail(VistoolError.of_system(error), debug)
        raise


def report_failure(error: VistoolError) -> None:
    """Print the error, its notes (such as what was saved) and its hint."""
    say(f"error: {error}")
    _say_notes(error)
    if error.hint:
        say(f"hint: {error.hint}")


def report_interrupt(interrupt: BaseException) -> NoReturn:
    """Print the notes of an interruption (such as what was saved); exit with code 130."""
    _say_notes(interrupt)
    say("interrupted")
    raise SystemExit(INTERRUPTED)


def say(text: str) -> None:
    """Print one line on stderr, above the progress bar; control characters become ?."""
    sys.stderr.write("\n".join(map(visible, text.split("\n"))) + "\n")


def answer(text: str) -> None:
    """Print one line on stdout; above the progress bar if both are on the terminal."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextmanager
def progress(
    *,
    quiet: bool = False,
    unit: str = "frames",
    units: Mapping[str, str] = NO_UNITS,
    pause: float = SECONDS_BETWEEN_LINES,
) -> Iterator[OnProgress]:
    """A callback that shows stage, bar, count, speed and remaining time; on a file, plain lines.

    A new stage begins when `done` decreases; the name of a stage may change, to show a number.

    Args:
        unit: the unit that `done` counts.
        units: stage -> its unit, for stages that count something else.
        pause: least time between plain lines, in seconds.
    """
    if quiet:
        yield silent
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(unit, units) as callback:
            yield callback
    else:
        yield _lines(unit, units, pause)


@contextmanager
def _bar(unit: str, units: Mapping[str, str]) -> Iterator[OnProgress]:
    """A live progress bar, removed when the command ends."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[counted]}", markup=False),
    )
    pace = _Pace()
    with Progress(
        *columns,
        console=Console(stderr=True, soft_wrap=True),  # keeps long messages on one line
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # results in a file must not go to stderr
    ) as display:
        task = display.add_task("starting", total=None, counted="")

        def callback(stage: str, done: int, total: int | None) -> None:
            counted = _counted(done, total, pace.speed(done), units.get(stage, unit))
            display.update(task, description=stage, completed=done, total=total, counted=counted)

        yield callback


def _lines(unit: str, units: Mapping[str, str], pause: float) -> OnProgress:
    """A plain line every `pause` seconds, for logs."""
    pace = _Pace()
    printed = time.monotonic()

    def callback(stage: str, done: int, total: int | None) -> None:
        nonlocal printed
        speed = pace.speed(done)
        if time.monotonic() - printed >= pause:
            printed = time.monotonic()
            say(f"{stage}: {_counted(done, total, speed, units.get(stage, unit))}")

    return callback


class _Pace:
    """Measures the speed of a stage, with a clock in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = self._last = 0
        self._clock = clock
        self._begun = clock()

    def speed(self, done: int) -> float:
        """Units per second since the stage's first call; 0 at that call."""
        now = self._clock()
        if done < self._last or self._last == 0:  # a new stage; a resumed one starts above 0
            self._first, self._begun = done, now
        self._last = done
        seconds = now - self._begun
        return (done - self._first) / seconds if seconds > 0 else 0.0


def _counted(done: int, total: int | None, speed: float, unit: str) -> str:
    """Count, speed and remaining time as text.

    >>> _counted(120, 600, 12.0, "frames")
    '120/600 frames, 12.0/s, 0:40 left'
    >>> _counted(120, None, 12.0, "frames")
    '120 frames, 12.0/s'
    """
    parts = [f"{done}/{total} {unit}" if total else f"{done} {unit}"]
    if speed:
        parts.append(f"{speed:.1f}/s" if speed >= 1 else f"{speed:.2f}/s")
        if total:
            parts.append(f"{_clock((total - done) / speed)} left")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    """Seconds as H:MM:SS or M:SS.

    >>> _clock(3725.0), _clock(9.6)
    ('1:02:05', '0:10')
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _parser_message(error: Exception) -> tuple[str, str]:
    """Message and hint for an error of the option parser."""
    message = str(getattr(error, "format_message", error.__str__)())
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "vistool"
    hint = OTHER_NAMES.get(str(getattr(error, "option_name", "")))
    return message.rstrip("."), hint or f"{command} --help lists commands and options"


def _say_notes(error: BaseException) -> None:
    for note in getattr(error, "__notes__", ()):
        say(note)


def _fail(error: VistoolError, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    report_failure(error)
    raise SystemExit(error.exit_code)
