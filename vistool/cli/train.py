"""`vistool train`: train on annotated pictures and videos, and write a weight file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from vistool.cli.console import answer, progress, say
from vistool.config import TrainConfig, parse_overrides
from vistool.errors import DataError, UsageError
from vistool.progress import OnProgress

FADE = 0.95  # decay per step of the running means that progress shows


def train(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATASET|CONFIG",
            help="Labelled data set to fine-tune --init on, or a TOML file; not with --resume.",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Initial weights: a name or a file. [for a DATASET: ifc-lite]"),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="With a DATASET: held-out data set, scored five times.")
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            help="With a DATASET: folder that its file names are relative to. [searched for]"
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="With a CONFIG: folder that its paths are relative to.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Run folder. [runs/train/NAME]")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Resume the run in this folder exactly.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: --set steps=2000 --set augment.scale=[1,2]"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Train a model on annotated pictures (COCO) and videos (YouTube-VIS).

    Example: vistool train own/train.json --init ifc-lite --validation own/valid.json
    """
    if resume is not None and (config or output or init or validation or frames):
        raise UsageError(
            "--resume uses the settings and the folder of the resumed run",
            hint=f"vistool train --resume {resume}, or a configuration for a new run",
        )
    settings = _settings(config, resume, init, validation, frames, data, overrides or [])

    from vistool.engine.distributed import joined
    from vistool.engine.train.fine_tune import training_folder
    from vistool.engine.train.train import train as run_training

    with joined(settings.device) as processes:
        folder = resume or processes.agree(lambda: training_folder(output, config or ""))
        prints = processes.is_first
        if prints:
            say(f"run folder: {folder}")
        with (
            _hint_to_resume(folder) if prints else nullcontext(),
            progress(quiet=quiet or not prints, unit="steps") as show,
        ):
            report = _Report(settings, show, prints=prints)
            weights = run_training(
                settings,
                folder,
                processes=processes,
                on_step=report.step,
                on_validation=report.validation,
                on_scores=report.scores,
                on_warning=report.warning,
            )
        if prints:
            answer(str(weights))


@contextmanager
def _hint_to_resume(run: Path) -> Iterator[None]:
    """Print the command that resumes the run, if the training ends early."""
    from vistool.engine.train.checkpoint import has_checkpoint

    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | DataError | OSError) and has_checkpoint(run):
            say(f"go on with: vistool train --resume {run}")
        raise


def _settings(
    config: Path | None,
    resume: Path | None,
    init: str | None,
    validation: Path | None,
    frames: Path | None,
    data: Path | None,
    overrides: list[str],
) -> TrainConfig:
    """The settings of the resumed run, or of a new one."""
    changes = parse_overrides(overrides)
    if resume is not None:
        from vistool.engine.train.setup import started_with

        moved = {} if data is None else {"data": str(data)}
        return started_with(resume, {**changes, **moved})
    if config is None:
        raise UsageError(
            "nothing to train", hint="give a data set or a configuration, or --resume RUN"
        )
    from vistool.engine.train.fine_tune import training_settings

    return training_settings(
        config, init=init, validation=validation, frames=frames, data=data, changes=changes
    )


class _Report:
    """Progress and messages of a training; loss, speed and waiting are running means."""

    def __init__(self, settings: TrainConfig, show: OnProgress, *, prints: bool) -> None:
        self._say: Callable[[str], None] = say if prints else lambda text: None
        self._clips = settings.batch * settings.accumulate
        self._steps = settings.steps
        self._show = show
        self._done = 0
        self._means: dict[str, float] = {}

    def step(self, step: int, steps: int, line: Mapping[str, Any]) -> None:
        """Show a finished step."""
        self._done = step
        if "skipped" in line:
            self._say(f"warning: step {step} skipped: {line['skipped']}")
            return
        seconds = self._mean("seconds", line["seconds"])
        waiting = self._mean("waiting", line["data_seconds"]) / seconds
        self._show(
            f"loss {self._mean('loss', line['loss']):.3f}, rate {line['learning_rate']:.1e}, "
            f"{self._clips / seconds:.1f} clips/s ({waiting:.0%} waiting for data)",
            step,
            steps,
        )

    def validation(self, done: int, total: int) -> None:
        """Show how many of the held-out videos are scored."""
        self._show(f"validating, video {done} of {total}", self._done, self._steps)

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Print the scores on the held-out set."""
        self._say(f"step {step}: AP {scores['val_AP']:.3f}, AP50 {scores['val_AP50']:.3f}")

    def warning(self, text: str) -> None:
        """Print a warning about the run."""
        self._say(f"warning: {text}")

    def _mean(self, name: str, value: float) -> float:
        self._means[name] = FADE * self._means.get(name, value) + (1 - FADE) * value
        return self._means[name]
