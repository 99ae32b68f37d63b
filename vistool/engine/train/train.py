"""The training loop, from annotated pictures and videos to a weight file."""

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
from vistool.engine.train.failures import MOST_NAMED, broken_clips, broken_terms, explained_failures
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
from vistool.signals import StopRequest, stop_request
from vistool.structures import ClipTarget

WEIGHTS = "weights.safetensors"
BEST = "best.safetensors"
# Called with the step just done, the number of steps, and the log line (loss terms, rate, seconds).
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
    """Train a model, or resume the training in `run`. Returns: the weight file.

    The run folder gets `config.json`, `starts.jsonl` (code and machine of every start) and
    `log.jsonl` (one line per step and per validation). Every `save_every` steps it gets
    `checkpoint.pt`, besides the one before it, and the averaged weights as `weights.safetensors`.
    With a validation, it gets `best.safetensors`. A run that was killed and resumed has the same
    losses as an uninterrupted one, because a step depends only on the seed, its number and the
    weights.

    Args:
        run: the run folder; if it has a checkpoint, training resumes from it.
        processes: that train together, each calling this function; None: only this process.
        on_step: see `StepCallback`.
        on_validation: called with the number of videos that this process has scored, and its total.
        on_scores: called with the step and the scores of its validation, `val_AP` and others.
        on_warning: called with a message about a damaged checkpoint.

    Raises: DataError for unusable annotations, UsageError for settings that do not fit the model,
        the processes or `run`, both before anything is written. VistoolError if the loss stays NaN
        or infinite, or another process has died; OutOfMemoryError; KeyboardInterrupt after Ctrl-C
        or SIGTERM, once the step is done and saved. If one of several processes fails, the first
        one raises the error, and the others exit with its code.
    """
    everyone = processes or Processes(choose_device(config.device))
    with _no_empty_folder(run), explained_failures(f"go on with: vistool train --resume {run}"):
        job = everyone.together(lambda: _Job(with_classes(config), run, everyone))
        everyone.together(lambda: job.open_run(on_warning))
        job.connect()
        _loop(job, _Callbacks(on_step, on_validation, on_scores))
    return run / WEIGHTS


@contextmanager
def _no_empty_folder(run: Path) -> Iterator[None]:
    """Remove the run folder after a failure if it is empty."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            run.rmdir()
        raise


def _loop(job: _Job, callbacks: _Callbacks) -> None:
    """The remaining steps, and the validations between them."""
    with job.log() as log, stop_request() as request:
        while True:
            # Validation comes before the next step instead of after the last one: a run that is
            # stopped in a validation has saved the last step, and resumes with the validation.
            if job.awaits_validation():
                scores = job.validate(callbacks.validation, request)
                if log is not None:
                    log.write(job.state.step, scores)
                if not job.state.skipped_in_a_row:
                    job.save()
                callbacks.scores(job.state.step, scores)
            if job.state.step == job.config.steps:
                return
            _step(job, log, request, callbacks.step)


def _step(job: _Job, log: RunLog | None, request: StopRequest, on_step: StepCallback) -> None:
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
    values, stop = job.shared({**terms, "gradient_norm": norm}, request.made)

    # All processes have the same values here, and take the same decisions.
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
    # During the run, weights after a skipped step, which may be the cause, do not replace others.
    due = state.step % config.save_every == 0 or job.awaits_validation()
    if stop or state.step == config.steps or (due and not state.skipped_in_a_row):
        job.save()
    on_step(state.step, config.steps, line)
    if stop and (state.step < config.steps or job.awaits_validation()):
        raise KeyboardInterrupt


class _Job:
    """The objects of a training, and the longer parts of a step."""

    def __init__(self, config: TrainConfig, run: Path, processes: Processes) -> None:
        """Read and check everything that may be refused; nothing is written."""
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

    def open_run(self, on_warning: Callable[[str], None]) -> None:
        """Create the run folder, or load the checkpoint in it."""
        if self.processes.is_first:
            self.run.mkdir(parents=True, exist_ok=True)
            for incomplete in self.run.glob(".*.part.*"):  # of a run that was killed while saving
                incomplete.unlink(missing_ok=True)
            settle(self.run / SETTINGS, self.config)
        for problem in load_checkpoint(self.run, self.state):
            on_warning(f"{problem}; resuming from the one before it, of step {self.state.step}")

    def connect(self) -> None:
        """Connect the processes, and start to load data."""
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

        Raises: DataError if any process cannot make its batches; finished steps are saved before.
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
        """The divisors of the losses of a step, the same in all processes.

        They are means over the processes, whose gradients are averaged.
        """
        targets = [target for part in parts for target in part.targets]
        mine = self.criterion.counts(targets, self.model.config.num_queries)
        tensor = torch.tensor(mine, dtype=torch.float64, device=self.processes.device)
        return Counts(*self.processes.mean(tensor).tolist())

    def gradients(self, parts: Sequence[Batch], counts: Counts) -> dict[str, Tensor]:
        """Forward and backward pass of a step. Returns: this process's loss and its terms."""
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            with nullcontext() if last else self.processes.unsynchronised(self.network):
                terms = self.criterion(self._predict(part), part.targets, counts)
                loss = self.criterion.total(terms)
                self.state.scaler.scale(loss).backward()
            for name, value in {"loss": loss, **terms}.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        return sums

    def shared(self, values: Mapping[str, Tensor], stop: bool) -> tuple[dict[str, float], bool]:
        """The means of values over all processes, and whether any process was asked to stop."""
        mine = torch.stack([*values.values(), torch.tensor(float(stop)).to(self.processes.device)])
        *numbers, stops = self.processes.mean(mine).tolist()  # the only wait for the GPU in a step
        return dict(zip(values, numbers, strict=True)), stops > 0

    def note_skipped(self, broken: str, parts: Sequence[Batch]) -> str:
        """Count a step without finite gradients.

        Returns: which terms are NaN or infinite, and in which clips.
        """
        state, scale = self.state, self.state.scaler.get_scale()
        if broken == "gradient_norm" and state.scaler.is_enabled() and scale > 1:
            # Normal in float16: the scale of the losses is too large and will be halved.
            return f"gradients beyond float16 at scale {scale:g}"
        state.skipped_in_a_row += 1
        found = [
            origin for part in parts for origin in broken_clips(part, self._predict, self.criterion)
        ]
        clips = [origin for some in self.processes.gather(found) for origin in some]
        # "no single clip": only the losses of the whole batch are NaN or infinite
        where = ", ".join(first_few(clips, MOST_NAMED)) or "no single clip"
        return f"not finite: {broken}; in {where}"

    def stop_if_hopeless(self, skipped: str | None) -> None:
        """Raises: VistoolError after `max_skipped` skipped steps in a row."""
        if self.state.skipped_in_a_row < self.config.max_skipped:
            return
        saved = self.run / WEIGHTS
        start = f"start again from {saved} (init)" if saved.exists() else "start a new run"
        raise VistoolError(
            f"step {self.state.step}: {self.state.skipped_in_a_row} steps in a row were skipped, "
            f"this one for NaN or infinite values ({skipped})",
            hint=f'{start} with a lower learning_rate, or with precision = "fp32"; if the clips '
            "are always the same, check them",
        )

    def awaits_validation(self) -> bool:
        """Whether a validation is due at this step and has not been done yet."""
        plan, state = self.config.validation, self.state
        due = plan is not None and (state.step % plan.every == 0 or state.step == self.config.steps)
        return due and state.validated < state.step

    def validate(
        self, on_video: Callable[[int, int], None], request: StopRequest
    ) -> dict[str, float]:
        """Score the averaged weights on the held-out set, and save them if they are the best.

        Raises: KeyboardInterrupt after the current video, if any process was asked to stop.
        """
        state, plan = self.state, self.config.validation
        assert plan is not None
        begun = time.perf_counter()
        model = _averaged(state)
        scores = validate(
            model, self.held_out, self.processes, on_video=on_video, stopped=lambda: request.made
        )
        if scores is None:
            self.save()
            raise KeyboardInterrupt
        if state.best_score is None or scores[plan.measure] > state.best_score:
            state.best_score = scores[plan.measure]
            if self.processes.is_first:
                text = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
                about = {"validation": f"{text} on {Path(plan.annotations).name}"}
                self._write_weights(BEST, about)
        state.validated = state.step
        seconds = time.perf_counter() - begun
        return {f"val_{name}": x for name, x in scores.items()} | {"val_seconds": seconds}

    def save(self) -> None:
        """Save the weights, then the checkpoint, so that a checkpoint never lacks its weights."""
        if self.processes.is_first:
            self._write_weights(WEIGHTS, {})
            save_checkpoint(self.run, self.state)
        self.processes.gather(None)  # wait: a process that ends early would end the others

    def _write_weights(self, name: str, about: Mapping[str, str]) -> None:
        metadata = {**card(self.config, self.state.step), **about}
        save_model(_averaged(self.state), self.run / name, metadata, half=True)

    def _predict(self, part: Batch) -> Any:
        wanted: dict[str, Any] = {"auxiliary": True}
        # A compiled model is compiled for shapes, which must not change from step to step.
        if isinstance(self.criterion, VisTRCriterion) and not self.config.compile:
            wanted["choose"] = partial(self.criterion.chosen, targets=part.targets)
        with autocast(self.processes.device, self.dtype):
            return self.call(part.pixels, part.padded, **wanted)


def _averaged(state: TrainingState) -> IFC | VisTR:
    assert isinstance(state.averaged.module, IFC | VisTR)
    return state.averaged.module


def _check_agreement(found: list[tuple[int, int]], run: Path) -> None:
    """Raises: UsageError if the processes have not resumed from the same checkpoint.

    Args: found: per process, the steps done and the step of the last validation.
    """
    if len(set(found)) > 1:
        steps = ", ".join(f"{step} (validated: {validated})" for step, validated in found)
        raise UsageError(
            f"{run}: the processes found checkpoints of steps {steps}",
            hint="the run folder must be on storage that all machines share",
        )


def _seed(*numbers: int) -> int:
    """A seed from several numbers, independent of the seeds from other numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _written(value: float) -> float | None:
    """The value with all digits of a float32; None for NaN or infinity, which JSON lacks."""
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
