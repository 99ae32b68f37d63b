"""`vistool train`: annotated pictures and videos -> a weight file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from vistool.cli.console import answer, progress, say
from vistool.config import TrainConfig, apply_overrides, from_mapping, load_toml
from vistool.errors import DataError, UsageError
from vistool.progress import OnProgress

FADE = 0.95  # of the means that progress shows, a step


def train(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATASET|CONFIG",
            help="A labelled set to fine-tune --init on, or settings as .toml; not with --resume.",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Weights to start from, a name or a file [a DATASET's: ifc-lite]."),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="With a DATASET: a held-out set, scored five times.")
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(help="With a DATASET: folder of the file names in it. [found by itself]"),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="With a CONFIG: the folder that its paths are relative to.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Run folder [runs/train/NAME].")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder, exactly.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: --set steps=2000 --set augment.scale=[1,2]"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train a model on annotated pictures (COCO) and videos (YouTube-VIS).

    Example: vistool train own/train.json --init ifc-lite --validation own/valid.json
    """
    if resume is not None and (config or output or init or validation or frames):
        raise UsageError(
            "--resume goes on with a run's own settings, in its own folder",
            hint=f"vistool train --resume {resume}, or a configuration for a new run",
        )
    values, where = _settings(config, resume, init, validation, frames, data)
    values = apply_overrides(values, overrides or [])
    if data is not None:
        values["data"] = str(data)
    settings: TrainConfig = from_mapping(values, TrainConfig, where=where)

    from vistool.engine.distributed import joined
    from vistool.engine.train import train as run_training

    with joined(settings.device) as processes:
        folder = resume or processes.agree(lambda: _folder(output, config))
        speaks = processes.is_first
        if speaks:
            say(f"run folder: {folder}")
        with (
            _epilogue(folder) if speaks else nullcontext(),
            progress(quiet=quiet or not speaks, unit="steps") as show,
        ):
            told = _Told(settings, show, speaks=speaks)
            weights = run_training(
                settings,
                folder,
                processes=processes,
                on_step=told.step,
                on_validation=told.validation,
                on_scores=told.scores,
                on_warning=told.warning,
            )
        if speaks:
            answer(str(weights))


@contextmanager
def _epilogue(run: Path) -> Iterator[None]:
    """Of a training that is cut short: says how it goes on, or leaves no empty folder behind."""
    from vistool.engine.checkpoint import has_checkpoint

    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            run.rmdir()  # only if nothing was written
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
) -> tuple[dict[str, Any], str]:
    """The settings as plain values, and where they come from."""
    if resume is not None:
        import msgspec

        from vistool.engine.train_setup import started_with

        values: dict[str, Any] = msgspec.to_builtins(started_with(resume))
        return values, str(resume)
    if config is None:
        raise UsageError(
            "nothing to train", hint="give a data set or a configuration, or --resume RUN"
        )
    if config.suffix != ".toml":
        if data is not None:
            raise UsageError(
                f"{config}: --data goes with a configuration, not with a data set",
                hint="where its frames are not found by themselves, name their folder: --frames",
            )
        from vistool.engine.fine_tune import DEFAULT_INIT, fine_tuning

        return fine_tuning(config, init or DEFAULT_INIT, validation, frames), str(config)
    for name, value in {"validation": validation, "frames": frames}.items():
        if value is not None:
            raise UsageError(
                f"{config}: --{name} goes with a data set, not with a configuration",
                hint="name it there: [validation] annotations, or frames of one of the [[sources]]",
            )
    return load_toml(config) | ({"init": init} if init else {}), str(config)


def _folder(output: Path | None, config: Path | None) -> Path:
    """Raises: UsageError for a folder with something in it, which would be mixed up."""
    from vistool.formats.results import new_run_folder

    assert config is not None
    if output is None:
        return new_run_folder(Path("runs/train"), config.resolve().stem, exist_ok=False)
    if output.is_dir() and any(output.iterdir()):
        raise UsageError(
            f"{output}: has something in it already",
            hint=f"to go on with a run: vistool train --resume {output}; else choose another -o",
        )
    return output


class _Told:
    """What progress shows of a training: running means of loss, clips a second and waiting."""

    def __init__(self, settings: TrainConfig, show: OnProgress, *, speaks: bool) -> None:
        self._say: Callable[[str], None] = say if speaks else lambda text: None
        self._clips = settings.batch * settings.accumulate
        self._steps = settings.steps
        self._show = show
        self._done = 0
        self._means: dict[str, float] = {}

    def step(self, step: int, steps: int, line: Mapping[str, Any]) -> None:
        """A step is done."""
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
        """Some of the videos that are held out are scored."""
        self._show(f"validating, video {done} of {total}", self._done, self._steps)

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """The held-out set was scored."""
        self._say(f"step {step}: AP {scores['val_AP']:.3f}, AP50 {scores['val_AP50']:.3f}")

    def warning(self, text: str) -> None:
        """Something is odd about the run."""
        self._say(f"warning: {text}")

    def _mean(self, name: str, value: float) -> float:
        self._means[name] = FADE * self._means.get(name, value) + (1 - FADE) * value
        return self._means[name]
