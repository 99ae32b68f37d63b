"""Training: one loop from annotated pictures and videos to a weight file."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import vistool
from vistool.config import (
    IFCConfig,
    LossConfig,
    ModelConfig,
    PixelConfig,
    TrainConfig,
    VisTRConfig,
    from_json,
    to_json,
)
from vistool.criterion.class_term import Counts
from vistool.criterion.set_criterion import SetCriterion
from vistool.criterion.vistr_criterion import VisTRCriterion
from vistool.data.annotations import LabelledVideo, read_annotations
from vistool.data.batches import Batch, BatchSource, Share, TrainingBatches, loader
from vistool.data.clips import ClipMaker
from vistool.data.published_batches import published_batches
from vistool.data.sampling import ClipSampler
from vistool.engine.checkpoint import (
    CHECKPOINT,
    PREVIOUS,
    TrainingState,
    load_checkpoint,
    save_checkpoint,
)
from vistool.engine.device import autocast, choose_device, choose_dtype
from vistool.engine.distributed import Processes
from vistool.engine.divergence import broken_clips, broken_terms, named
from vistool.engine.interruption import stop_wish
from vistool.engine.recompute import recompute_activations
from vistool.engine.run_log import RunLog, note_start
from vistool.engine.schedule import parameter_groups, set_rates
from vistool.engine.validate import validate
from vistool.errors import UsageError, VistoolError
from vistool.formats.atomic import atomic_path
from vistool.models import build_model
from vistool.models.ifc import IFC
from vistool.models.pretrained import load_imagenet_weights
from vistool.models.vistr import VisTR
from vistool.models.weights import load_start, save_model
from vistool.nn.efficientnet import EfficientNetLite0
from vistool.structures import ClipTarget, Size

WEIGHTS = "weights.safetensors"
BEST = "best.safetensors"
SETTINGS = "config.json"
# Stages and blocks of a backbone that keep their ImageNet weights unless told otherwise.
PUBLISHED_FROZEN, LIGHT_FROZEN = 1, 3
# Settings that a run may be resumed with another value of: they do not change what it learns.
MAY_CHANGE = ("data", "device", "workers")

Criterion = SetCriterion | VisTRCriterion
# Step just done, steps in all, and the line of the log: loss terms, rate, seconds...
StepCallback = Callable[[int, int, Mapping[str, Any]], None]


def started_with(run: Path) -> TrainConfig:
    """The settings of a run that is to be resumed. Raises: UsageError if there is none."""
    try:
        text = (run / SETTINGS).read_text(encoding="utf-8")
    except OSError:
        raise UsageError(f"{run}: no training was started in this folder") from None
    return from_json(text, TrainConfig, where=str(run / SETTINGS))


def train(
    config: TrainConfig,
    run: Path,
    *,
    processes: Processes | None = None,
    on_step: StepCallback = lambda step, steps, line: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> Path:
    """Train a model, or go on where `run` stopped; returns the weight file.

    The run folder gets `config.json`, `starts.jsonl` (with what code and on what it was started),
    `log.jsonl` (one line a step), and every `save_every` steps `checkpoint.pt`, with the one before
    it, and the averaged weights so far as `weights.safetensors`; with a validation,
    `best.safetensors`. Killed at any moment, a run that is started again has the losses of one
    that was not: a step depends on the seed, its number and the weights alone.

    Args:
        run: the run folder; with a checkpoint in it, training resumes from there.
        processes: that train together, each calling this; None: this one alone.

    Raises: DataError for unusable annotations, UsageError for settings that do not fit the model,
        the processes or `run`, VistoolError if the loss is no longer a number; KeyboardInterrupt
        after Ctrl-C or SIGTERM, when the step is done and saved.
    """
    job = _Job(config, run, processes or Processes(choose_device(config.device)), on_warning)
    state, optimizer, scaler = job.state, job.state.optimizer, job.state.scaler
    with job.log() as log, stop_wish() as wish:
        for step in range(state.step, config.steps):
            begun = time.perf_counter()
            parts, counts = job.next_parts()
            waited = time.perf_counter() - begun
            torch.manual_seed(_seed(config.seed, step, job.processes.rank))  # of dropout
            rate = set_rates(optimizer, config, step)

            optimizer.zero_grad()
            terms = job.gradients(parts, counts)
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
            if job.is_due(config.validation.every if config.validation else None):
                line |= job.validate()
            if log is not None:
                log.write(state.step, line)
            on_step(state.step, config.steps, line)
            job.stop_if_hopeless(line.get("skipped"))
            if job.is_due(config.save_every) or stop:
                job.save()
            if stop and state.step < config.steps:
                raise KeyboardInterrupt
    return run / WEIGHTS


class _Job:
    """What the loop works with, built or resumed, and the parts of a step that take many lines."""

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        processes: Processes,
        on_warning: Callable[[str], None],
    ) -> None:
        config.check(processes.count)
        self.config, self.run, self.processes = config, run, processes
        self.dtype = choose_dtype(config.precision, processes.device)
        torch.manual_seed(config.seed)
        self.model = _fresh_model(config, resumes=_has_checkpoint(run)).to(processes.device)
        self.model.train()
        self.criterion = _criterion(self.model.config, config.loss)
        share = Share(processes.rank, processes.count, config.accumulate)
        source = training_batches(config, self.model.config.pixels, share)
        self.held_out = _held_out(config)
        self.state = TrainingState(
            self.model,
            AveragedModel(self.model, multi_avg_fn=_averaging(config.ema_decay)).eval(),
            AdamW(parameter_groups(self.model, config), weight_decay=config.weight_decay),
            GradScaler(processes.device.type, enabled=self.dtype == torch.float16),
        )
        if processes.is_first:
            run.mkdir(parents=True, exist_ok=True)
            _settle(run / SETTINGS, config)
        for problem in load_checkpoint(run, self.state):
            on_warning(f"{problem}; going on from the one before it, of step {self.state.step}")
        _check_agreement(processes.gather(self.state.step), run)
        if config.recompute:
            recompute_activations(self.model)
        self.network = processes.share(self.model)
        self.call = _compiled(self.network) if config.compile else self.network
        pin = processes.device.type == "cuda"
        self._batches = loader(source, self.state.step, config.workers, pin_memory=pin)

    def log(self) -> AbstractContextManager[RunLog | None]:
        """The log, which only the first process writes."""
        if not self.processes.is_first:
            return nullcontext()
        device, count = str(self.processes.device), self.processes.count
        log = RunLog(self.run, self.state.step, tensorboard=self.config.tensorboard)
        note_start(self.run, self.state.step, device=device, processes=count)
        return log

    def next_parts(self) -> tuple[list[Batch], Counts]:
        """This process's batches of a step, and what the losses of the whole step are divided by.

        Raises: DataError where they cannot be made; what is done by then is saved.
        """
        try:
            parts = list(islice(self._batches, self.config.accumulate))
        except VistoolError:
            self.save()
            raise
        targets = [target for part in parts for target in part.targets]
        mine = self.criterion.counts(targets, self.model.config.num_queries)
        device = self.processes.device
        # The gradients will be averaged over the processes, so these are as well.
        mean = self.processes.mean(torch.tensor(mine, dtype=torch.float64, device=device))
        return [_moved(part, device) for part in parts], Counts(*mean.tolist())

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
        state.skipped += 1
        if broken == "gradient_norm" and state.scaler.is_enabled() and scale > 1:
            # As float16 goes: the scale of the losses is too large, and will be halved.
            return f"gradients beyond float16 at scale {scale:g}"
        state.skipped_in_a_row += 1
        found = [
            origin for part in parts for origin in broken_clips(part, self._predict, self.criterion)
        ]
        clips = named([origin for some in self.processes.gather(found) for origin in some])
        return f"not finite: {broken}; in {clips}"

    def stop_if_hopeless(self, skipped: str | None) -> None:
        """Raises: VistoolError after several steps in a row that had to be skipped."""
        if self.state.skipped_in_a_row < self.config.max_skipped:
            return
        raise VistoolError(
            f"step {self.state.step}: {self.state.skipped_in_a_row} steps in a row had to be "
            f"skipped, this one for what is no longer a number ({skipped})",
            hint=f"start again from {self.run / WEIGHTS} (init) with a lower learning_rate, or "
            'with precision = "fp32"; if the clips are always the same, look at them',
        )

    def is_due(self, every: int | None) -> bool:
        """Whether something that is done every so many steps, and in the end, is to be done now."""
        return every is not None and (
            self.state.step % every == 0 or self.state.step == self.config.steps
        )

    def validate(self) -> dict[str, float]:
        """Score the averaged weights on the set that is held out, and keep the best."""
        state, plan = self.state, self.config.validation
        assert plan is not None
        begun = time.perf_counter()
        scores = validate(_averaged(state), self.held_out, self.processes)
        if state.best_score is None or scores[plan.measure] > state.best_score:
            state.best_score, state.best_step = scores[plan.measure], state.step
            if self.processes.is_first:
                told = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
                about = {"validation": f"{told} on {Path(plan.annotations).name}"}
                self._write_weights(BEST, about)
        seconds = time.perf_counter() - begun
        return {f"val_{name}": x for name, x in scores.items()} | {"val_seconds": seconds}

    def save(self) -> None:
        """Weights, then the checkpoint: whoever finds the latter has the former."""
        if self.processes.is_first:
            self._write_weights(WEIGHTS, {})
            save_checkpoint(self.run, self.state)

    def _write_weights(self, name: str, about: Mapping[str, str]) -> None:
        card = {**_card(self.config, self.state.step), **about}
        save_model(_averaged(self.state), self.run / name, card, half=True)

    def _predict(self, part: Batch) -> Any:
        with autocast(self.processes.device, self.dtype):
            return self.call(part.pixels, part.padded, auxiliary=True)


def _averaged(state: TrainingState) -> IFC | VisTR:
    assert isinstance(state.averaged.module, IFC | VisTR)
    return state.averaged.module


def _compiled(network: nn.Module) -> Callable[..., Any]:
    run = torch.compile(network)

    def call(*arguments: Any, **settings: Any) -> Any:
        try:
            return run(*arguments, **settings)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise VistoolError(
                f"torch.compile failed: {reason}", hint="train without it: --set compile=false"
            ) from error

    return call


def _averaging(decay: float) -> Callable[..., None]:
    """A running mean of the weights, in which the first steps, far from the rest, soon fade."""

    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        soon = (1 + int(count)) / (10 + int(count))
        get_ema_multi_avg_fn(min(decay, soon))(averaged, current, count)

    return update


def _has_checkpoint(run: Path) -> bool:
    return any((run / name).exists() for name in (CHECKPOINT, PREVIOUS))


def _check_agreement(steps: list[int], run: Path) -> None:
    """Raises: UsageError if the processes have not resumed from the same step."""
    if len(set(steps)) > 1:
        raise UsageError(
            f"{run}: the processes found checkpoints of steps {', '.join(map(str, steps))}",
            hint="the run folder must be on storage that all machines share",
        )


def _held_out(config: TrainConfig) -> list[LabelledVideo]:
    if config.validation is None:
        return []
    return read_annotations(Path(config.data) / config.validation.annotations, config.classes)


def _seed(*numbers: int) -> int:
    """A seed that has nothing to do with that of other numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _written(value: float) -> float | None:
    """With all digits that a float32 has; JSON knows nothing but finite numbers."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _fresh_model(config: TrainConfig, *, resumes: bool) -> IFC | VisTR:
    """The model a run starts from, its first blocks frozen; if it resumes, any weights will do."""
    model = build_model(config.model_config())
    match "random" if resumes else config.init:
        case "random":
            pass
        case "imagenet":
            if not isinstance(model.backbone, EfficientNetLite0):
                raise UsageError(
                    "ImageNet weights are at hand for the efficientnet-lite backbone only",
                    hint='set init = "random", or init to a weight file of this model',
                )
            load_imagenet_weights(model.backbone)
        case name:
            load_start(model, model.config, name)
    _freeze(model, config.frozen_blocks)
    # A few percent faster on CPUs. torch's stubs do not know the argument.
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _freeze(model: IFC | VisTR, blocks: int | None) -> None:
    """Raises: UsageError for more than the backbone has."""
    if isinstance(model.backbone, EfficientNetLite0):
        usual, there, what = LIGHT_FROZEN, len(model.backbone.blocks), "blocks"
    else:
        usual, there, what = PUBLISHED_FROZEN, len(model.backbone.stages), "stages"
    chosen = usual if blocks is None else blocks
    if not 0 <= chosen <= there:
        raise UsageError(f"frozen_blocks = {chosen}: the backbone has {there} {what}")
    model.backbone.freeze_first(chosen)


def _criterion(model: ModelConfig, loss: LossConfig) -> SetCriterion | VisTRCriterion:
    """The training objective of a model. Raises: UsageError for the weight of a term it lacks."""
    weights = {name: w for name, w in msgspec.structs.asdict(loss).items() if w is not None}
    match model:
        case IFCConfig():
            surplus = sorted(weights.keys() & {"box_weight", "giou_weight", "validity"})
            if surplus:
                raise UsageError(f"[loss] {surplus[0]}: IFC predicts no boxes, and pairs whole clips")
            return SetCriterion(**weights)
        case VisTRConfig():
            return VisTRCriterion(**weights)


def training_batches(
    config: TrainConfig, pixels: PixelConfig, share: Share | None = None
) -> BatchSource:
    """All that a training is fed, or a process's share of it.

    Raises: DataError for unusable annotations.
    """
    if config.pipeline is not None:
        return published_batches(config, pixels, share)
    sources = [
        (read_annotations(Path(config.data) / source.annotations, config.classes), source.weight)
        for source in config.sources
    ]
    sampler = ClipSampler(sources, len(config.classes))
    return TrainingBatches(
        ClipMaker(sampler, config.clip_length, config.augment),
        pixels,
        canvases=tuple(Size(*canvas) for canvas in config.canvases),
        batch=config.batch,
        steps=config.steps,
        seed=config.seed,
        share=share,
    )


def _moved(batch: Batch, device: torch.device) -> Batch:
    return batch._replace(
        pixels=batch.pixels.to(device, non_blocking=True),
        padded=None if batch.padded is None else batch.padded.to(device, non_blocking=True),
        targets=[_moved_target(target, device) for target in batch.targets],
    )


def _moved_target(target: ClipTarget, device: torch.device) -> ClipTarget:
    parts = {field.name: getattr(target, field.name) for field in fields(target)}
    return replace(target, **{k: v.to(device) for k, v in parts.items() if v is not None})


def _settle(path: Path, config: TrainConfig) -> None:
    """Write the settings of a run, or make sure that they are the ones it was started with."""
    if path.exists():
        before, now = started_with(path.parent), _from_file(config)
        changed = [
            name
            for name in TrainConfig.__struct_fields__
            if name not in MAY_CHANGE and getattr(before, name) != getattr(now, name)
        ]
        if changed:
            raise UsageError(
                f"{path.parent}: this run was started with other settings: {', '.join(changed)}",
                hint="resume it with the same configuration, or choose another run folder",
            )
    with atomic_path(path) as temporary:
        temporary.write_text(to_json(config), encoding="utf-8")


def _from_file(config: TrainConfig) -> TrainConfig:
    """Settings as they come back from a file."""
    return from_json(to_json(config), TrainConfig, where="the settings")


def _card(config: TrainConfig, step: int) -> dict[str, str]:
    """What the weight file says of its training; where files lay is nobody's business."""
    portable = msgspec.structs.replace(config, data=".", init=Path(config.init).name)
    return {
        **config.card,
        "training": to_json(portable),
        "steps": f"{step} of {config.steps}",
        "versions": f"vistool {vistool.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}",
    }
