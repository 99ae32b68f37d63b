"""Training: one loop from annotated pictures and videos to a weight file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from vistool.config import TrainConfig
from vistool.criterion.class_term import Counts
from vistool.criterion.vistr_criterion import VisTRCriterion
from vistool.data.batches import Batch, Share, loader
from vistool.engine.device import autocast, choose_device, choose_dtype
from vistool.engine.distributed import Processes
from vistool.engine.train.checkpoint import (
    TrainingState,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from vistool.engine.train.failures import MOST_NAMED, broken_clips, broken_terms, failures_in_words
from vistool.engine.train.log import RunLog, curve_writer, note_start
from vistool.engine.train.schedule import parameter_groups, set_rates
from vistool.engine.train.setup import (
    SETTINGS,
    averaging,
    card,
    fresh_model,
    held_out,
    recompute_activations,
    settle,
    training_batches,
    training_criterion,
    with_classes,
)
from vistool.engine.train.validate import validate
from vistool.errors import UsageError, VistoolError, first_few
from vistool.models.checkpoints.files import save_model
from vistool.models.ifc import IFC
from vistool.models.vistr import VisTR
from vistool.signals import StopWish, stop_wish
from vistool.structures import ClipTarget

WEIGHTS = "weights.safetensors"
BEST = "best.safetensors"
# Step just done, steps in all, and the line of the log: loss terms, rate, seconds...
StepCallback = Callable[[int, int, Mapping[str, Any]], None]


class _Callbacks(NamedTuple):
    step: StepCallback
    validation: Callable[[int, int], None]
    scores: Callable[[int, Mapping[str, float]], None]


def train(
    config: TrainConfig,
    run: Path,
    *,
    processes: Processes | None = None,
    on_step: StepCallback = lambda step, steps, line: None,
    on_validation: Callable[[int, int], None] = lambda done, total: None,
    on_scores: Callable[[int, Mapping[str, float]], None] = lambda step, scores: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> Path:
    """Train a model, or go on where `run` stopped; returns the weight file.

    The run folder gets `config.json`, `starts.jsonl` (with what code and on what it was started),
    `log.jsonl` (one line a step, and one a validation), and every `save_every` steps
    `checkpoint.pt`, with the one before it, and the averaged weights so far as
    `weights.safetensors`; with a validation, `best.safetensors`. Killed at any moment, a run that
    is started again has the losses of one that was not: a step depends on the seed, its number and
    the weights alone.

    Args:
        run: the run folder; with a checkpoint in it, training resumes from there.
        processes: that train together, each calling this; None: this one alone.
        on_validation: told how many of this process's videos are scored, and how many there are.
        on_scores: told what a validation gave, `val_AP`..., after which step.

    Raises: DataError for unusable annotations, UsageError for settings that do not fit the model,
        the processes or `run`; nothing is written by then. VistoolError if the loss is no longer a
        number, or another process has died; OutOfMemoryError; KeyboardInterrupt after Ctrl-C or
        SIGTERM, when the step is done and saved. Where one of several processes fails, the first
        one raises its error, and the others exit with its code.
    """
    everyone = processes or Processes(choose_device(config.device))
    with _no_empty_folder(run), failures_in_words(f"go on with: vistool train --resume {run}"):
        job = everyone.together(lambda: _Job(with_classes(config), run, everyone))
        everyone.together(lambda: job.take_up(on_warning))
        job.connect()
        _loop(job, _Callbacks(on_step, on_validation, on_scores))
    return run / WEIGHTS


@contextmanager
def _no_empty_folder(run: Path) -> Iterator[None]:
    """Leave no folder behind that a run has put nothing into."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            run.rmdir()
        raise


def _loop(job: _Job, told: _Callbacks) -> None:
    """The steps that are left, and the validations between them."""
    with job.log() as log, stop_wish() as wish:
        while True:
            # Before the next step and not after the last: a run that is stopped in a validation has
            # saved the step before it, and resumes with the validation.
            if job.awaits_validation():
                scores = job.validate(told.validation, wish)
                if log is not None:
                    log.write(job.state.step, scores)
                if not job.state.skipped_in_a_row:
                    job.save()
                told.scores(job.state.step, scores)
            if job.state.step == job.config.steps:
                return
            _step(job, log, wish, told.step)


def _step(job: _Job, log: RunLog | None, wish: StopWish, on_step: StepCallback) -> None:
    config, state = job.config, job.state
    optimizer, scaler = state.optimizer, state.scaler
    begun = time.perf_counter()
    parts = job.next_parts()
    waited = time.perf_counter() - begun
    torch.manual_seed(_seed(config.seed, state.step, job.processes.rank))  # of dropout
    rate = set_rates(optimizer, config, state.step)

    optimizer.zero_grad()
    terms = job.gradients(parts, job.counts(parts))
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(job.model.parameters(), config.max_norm or math.inf)
    values, stop = job.shared({**terms, "gradient_norm": norm}, wish.expressed)

    # All processes see the same numbers, and decide the same.
    broken = broken_terms(values)
    if broken is None:
        scaler.step(optimizer)
        state.averaged.update_parameters(job.model)
    line: dict[str, Any] = {name: _written(value) for name, value in values.items()}
    if broken is not None:
        line["skipped"] = job.note_skipped(broken, parts)
    else:
        state.skipped_in_a_row = 0
    scaler.update()
    state.step += 1

    seconds = time.perf_counter() - begun
    line |= {"learning_rate": rate, "seconds": seconds, "data_seconds": waited}
    if log is not None:
        log.write(state.step, line)
    job.stop_if_hopeless(line.get("skipped"))
    # On the way, weights that may be at fault do not replace good ones.
    due = state.step % config.save_every == 0 or job.awaits_validation()
    if stop or state.step == config.steps or (due and not state.skipped_in_a_row):
        job.save()
    on_step(state.step, config.steps, line)
    if stop and (state.step < config.steps or job.awaits_validation()):
        raise KeyboardInterrupt


class _Job:
    """What the loop works with, and the parts of a step that take many lines."""

    def __init__(self, config: TrainConfig, run: Path, processes: Processes) -> None:
        """All that may be refused is read here, and nothing written."""
        config.check(processes.count)
        if config.tensorboard:
            curve_writer()
        self.config, self.run, self.processes = config, run, processes
        self.dtype = choose_dtype(config.precision, processes.device)
        torch.manual_seed(config.seed)
        self.model = fresh_model(config, resumes=has_checkpoint(run)).to(processes.device)
        self.model.train()
        self.criterion = training_criterion(self.model.config, config.loss)
        share = Share(processes.rank, processes.count, config.accumulate)
        self._source = training_batches(config, self.model.config.pixels, share)
        self.held_out = held_out(config)
        self.state = TrainingState(
            self.model,
            AveragedModel(self.model, multi_avg_fn=averaging(config.ema_decay)).eval(),
            AdamW(parameter_groups(self.model, config), weight_decay=config.weight_decay),
            GradScaler(processes.device.type, enabled=self.dtype == torch.float16),
        )

    def take_up(self, on_warning: Callable[[str], None]) -> None:
        """Make the run folder, or go on from the checkpoint in it."""
        if self.processes.is_first:
            self.run.mkdir(parents=True, exist_ok=True)
            for torn in self.run.glob(".*.part.*"):  # of a run that was killed amid saving
                torn.unlink(missing_ok=True)
            settle(self.run / SETTINGS, self.config)
        for problem in load_checkpoint(self.run, self.state):
            on_warning(f"{problem}; going on from the one before it, of step {self.state.step}")

    def connect(self) -> None:
        """Bind the processes together, and start to load data."""
        state = self.state
        _check_agreement(self.processes.gather((state.step, state.validated)), self.run)
        if self.config.recompute:
            recompute_activations(self.model)
        self.network = self.processes.share(self.model)
        self.call: Callable[..., Any] = self.network
        if self.config.compile:
            self.call = torch.compile(self.network)
        pin = self.processes.device.type == "cuda"
        workers = self.config.workers
        self._batches = loader(self._source, self.state.step, workers, pin_memory=pin)

    def log(self) -> AbstractContextManager[RunLog | None]:
        """The log, which only the first process writes."""
        if not self.processes.is_first:
            return nullcontext()
        device, count = str(self.processes.device), self.processes.count
        log = RunLog(self.run, self.state.step, tensorboard=self.config.tensorboard)
        note_start(self.run, self.state.step, device=device, processes=count)
        return log

    def next_parts(self) -> list[Batch]:
        """This process's batches of a step.

        Raises: DataError where some process's cannot be made; what is done by then is saved.
        """
        error: VistoolError | None = None
        parts: list[Batch] = []
        try:
            parts = list(islice(self._batches, self.config.accumulate))
        except VistoolError as failure:
            error = failure
        if self.processes.any(error is not None):
            if self.state.step:
                self.save()
            self.processes.end_on(error)
        return [_moved(part, self.processes.device) for part in parts]

    def counts(self, parts: Sequence[Batch]) -> Counts:
        """What the losses of a step are divided by, whoever takes which part of it.

        The mean over the processes, since their gradients will be averaged.
        """
        targets = [target for part in parts for target in part.targets]
        mine = self.criterion.counts(targets, self.model.config.num_queries)
        tensor = torch.tensor(mine, dtype=torch.float64, device=self.processes.device)
        return Counts(*self.processes.mean(tensor).tolist())

    def gradients(self, parts: Sequence[Batch], counts: Counts) -> dict[str, Tensor]:
        """Forward and backward pass of a step; returns the loss and its terms, in this process."""
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            with nullcontext() if last else self.processes.keep_apart(self.network):
                terms = self.criterion(self._predict(part), part.targets, counts)
                loss = self.criterion.total(terms)
                self.state.scaler.scale(loss).backward()
            for name, value in {"loss": loss, **terms}.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        return sums

    def shared(self, values: Mapping[str, Tensor], wish: bool) -> tuple[dict[str, float], bool]:
        """The mean of some values over all processes, and whether any of them wishes to stop."""
        mine = torch.stack([*values.values(), torch.tensor(float(wish)).to(self.processes.device)])
        *numbers, wishes = self.processes.mean(mine).tolist()  # the one wait for a GPU in a step
        return dict(zip(values, numbers, strict=True)), wishes > 0

    def note_skipped(self, broken: str, parts: Sequence[Batch]) -> str:
        """Count a step without usable gradients; says what was no number, and in which clips."""
        state, scale = self.state, self.state.scaler.get_scale()
        if broken == "gradient_norm" and state.scaler.is_enabled() and scale > 1:
            # As float16 goes: the scale of the losses is too large, and will be halved.
            return f"gradients beyond float16 at scale {scale:g}"
        state.skipped_in_a_row += 1
        found = [
            origin for part in parts for origin in broken_clips(part, self._predict, self.criterion)
        ]
        clips = [origin for some in self.processes.gather(found) for origin in some]
        where = ", ".join(first_few(clips, MOST_NAMED)) or "no single clip"  # but the whole step
        return f"not finite: {broken}; in {where}"

    def stop_if_hopeless(self, skipped: str | None) -> None:
        """Raises: VistoolError after several steps in a row that had to be skipped."""
        if self.state.skipped_in_a_row < self.config.max_skipped:
            return
        saved = self.run / WEIGHTS
        start = f"start again from {saved} (init)" if saved.exists() else "start a new run"
        raise VistoolError(
            f"step {self.state.step}: {self.state.skipped_in_a_row} steps in a row had to be "
            f"skipped, this one for what is no longer a number ({skipped})",
            hint=f'{start} with a lower learning_rate, or with precision = "fp32"; if the clips '
            "are always the same, look at them",
        )

    def awaits_validation(self) -> bool:
        """Whether the averaged weights are to be scored as they are now, and have not been yet."""
        plan, state = self.config.validation, self.state
        due = plan is not None and (state.step % plan.every == 0 or state.step == self.config.steps)
        return due and state.validated < state.step

    def validate(self, on_video: Callable[[int, int], None], wish: StopWish) -> dict[str, float]:
        """Score the averaged weights on the set that is held out, and keep the best.

        Raises: KeyboardInterrupt as soon as a video is done, if any process wishes to stop.
        """
        state, plan = self.state, self.config.validation
        assert plan is not None
        begun = time.perf_counter()
        model = _averaged(state)
        scores = validate(
            model, self.held_out, self.processes, on_video=on_video, stopped=lambda: wish.expressed
        )
        if scores is None:
            self.save()
            raise KeyboardInterrupt
        if state.best_score is None or scores[plan.measure] > state.best_score:
            state.best_score = scores[plan.measure]
            if self.processes.is_first:
                told = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
                about = {"validation": f"{told} on {Path(plan.annotations).name}"}
                self._write_weights(BEST, about)
        state.validated = state.step
        seconds = time.perf_counter() - begun
        return {f"val_{name}": x for name, x in scores.items()} | {"val_seconds": seconds}

    def save(self) -> None:
        """Weights, then the checkpoint: whoever finds the latter has the former."""
        if self.processes.is_first:
            self._write_weights(WEIGHTS, {})
            save_checkpoint(self.run, self.state)
        self.processes.gather(None)  # nobody leaves, and has the others ended, before it is done

    def _write_weights(self, name: str, about: Mapping[str, str]) -> None:
        metadata = {**card(self.config, self.state.step), **about}
        save_model(_averaged(self.state), self.run / name, metadata, half=True)

    def _predict(self, part: Batch) -> Any:
        wanted: dict[str, Any] = {"auxiliary": True}
        # What is compiled is compiled for shapes, and should not meet new ones every step.
        if isinstance(self.criterion, VisTRCriterion) and not self.config.compile:
            wanted["choose"] = partial(self.criterion.chosen, targets=part.targets)
        with autocast(self.processes.device, self.dtype):
            return self.call(part.pixels, part.padded, **wanted)


def _averaged(state: TrainingState) -> IFC | VisTR:
    assert isinstance(state.averaged.module, IFC | VisTR)
    return state.averaged.module


def _check_agreement(found: list[tuple[int, int]], run: Path) -> None:
    """Raises: UsageError if the processes have not resumed from the same checkpoint.

    Args: found: steps done, and the step of the last validation.
    """
    if len(set(found)) > 1:
        steps = ", ".join(f"{step} (validated: {validated})" for step, validated in found)
        raise UsageError(
            f"{run}: the processes found checkpoints of steps {steps}",
            hint="the run folder must be on storage that all machines share",
        )


def _seed(*numbers: int) -> int:
    """A seed that has nothing to do with that of other numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _written(value: float) -> float | None:
    """With all digits that a float32 has; JSON knows nothing but finite numbers."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _moved(batch: Batch, device: torch.device) -> Batch:
    return batch._replace(
        pixels=batch.pixels.to(device, non_blocking=True),
        padded=None if batch.padded is None else batch.padded.to(device, non_blocking=True),
        targets=[_moved_target(target, device) for target in batch.targets],
    )


def _moved_target(target: ClipTarget, device: torch.device) -> ClipTarget:
    parts = {field.name: getattr(target, field.name) for field in fields(target)}
    return replace(target, **{k: v.to(device) for k, v in parts.items() if v is not None})
