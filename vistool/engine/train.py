"""Training: one loop from annotated pictures and videos to a weight file."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn
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
from vistool.criterion.set_criterion import SetCriterion
from vistool.criterion.vistr_criterion import VisTRCriterion
from vistool.data.annotations import read_annotations
from vistool.data.batches import BatchSource, TrainingBatches, loader
from vistool.data.clips import ClipMaker
from vistool.data.published_batches import published_batches
from vistool.data.sampling import ClipSampler
from vistool.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vistool.engine.device import autocast, choose_device, choose_dtype
from vistool.errors import UsageError, VistoolError
from vistool.models import build_model
from vistool.models.ifc import IFC
from vistool.models.pretrained import load_imagenet_weights
from vistool.models.vistr import VisTR
from vistool.models.weights import load_start, save_model
from vistool.nn.efficientnet import EfficientNetLite0
from vistool.structures import ClipTarget, Size

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "weights.safetensors"
SETTINGS = "config.json"
LOG = "log.jsonl"

# Step just done, steps in all, loss terms and learning rate.
StepCallback = Callable[[int, int, dict[str, float]], None]


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
    on_step: StepCallback = lambda step, steps, terms: None,
) -> Path:
    """Train a model, or go on where `run` stopped; returns the weight file.

    The run folder gets `config.json`, `log.jsonl` (one line a step), `checkpoint.pt` and the
    averaged weights so far as `weights.safetensors`, the latter two every `save_every` steps.
    Killed at any moment, a run that is started again continues with the same sequence of batches.

    Args:
        run: the run folder; with a checkpoint in it, training resumes from there.

    Raises: DataError for unusable annotations, UsageError if `run` was made with other settings,
        VistoolError if the loss is no longer a number.
    """
    device = choose_device(config.device)
    dtype = choose_dtype(config.precision, device)
    torch.manual_seed(config.seed)
    model = _fresh_model(config).to(device).train()
    # A few percent faster on CPUs. torch's stubs do not know the argument.
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    criterion = _criterion(model.config, config.loss)
    optimizer = AdamW(_parameter_groups(model, config), weight_decay=config.weight_decay)
    batches = training_batches(config, model.config.pixels)

    run.mkdir(parents=True, exist_ok=True)
    _settle(run / SETTINGS, config)
    state = Checkpoint(model, averaged, optimizer, step=0)
    if (run / CHECKPOINT).exists():
        state.step = load_checkpoint(run / CHECKPOINT, state)

    def save() -> None:
        save_checkpoint(run / CHECKPOINT, state)
        assert isinstance(averaged.module, IFC | VisTR)
        save_model(averaged.module, run / WEIGHTS, _card(config, state.step), half=True)

    with (run / LOG).open("a", encoding="utf-8", buffering=1) as log:
        try:
            for pixels, targets, padded, _ in loader(batches, state.step, config.workers):
                _set_rates(optimizer, config, state.step)
                added = None if padded is None else padded.to(device)
                with autocast(device, dtype):
                    output = model(pixels.to(device), added, auxiliary=True)
                terms = criterion(output, [_moved(target, device) for target in targets])
                loss = criterion.total(terms)
                if not loss.isfinite():
                    raise _diverged(state.step, terms)
                optimizer.zero_grad()
                loss.backward()
                norm = nn.utils.clip_grad_norm_(model.parameters(), config.max_norm)
                optimizer.step()
                averaged.update_parameters(model)
                state.step += 1
                numbers = {"loss": loss, **terms, "gradient_norm": norm}
                values = {name: round(value.item(), 5) for name, value in numbers.items()}
                log.write(msgspec.json.encode({"step": state.step, **values}).decode() + "\n")
                on_step(state.step, config.steps, values)
                if state.step % config.save_every == 0:
                    save()
        finally:
            save()
    return run / WEIGHTS


def _fresh_model(config: TrainConfig) -> IFC | VisTR:
    """The model a run starts from, its first blocks frozen."""
    model = build_model(config.model_config())
    match config.init:
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
    model.backbone.freeze_first(config.frozen_blocks)
    return model


def _criterion(model: ModelConfig, loss: LossConfig) -> SetCriterion | VisTRCriterion:
    """The training objective of a model. Raises: UsageError for the weight of a term it lacks."""
    weights = {name: w for name, w in msgspec.structs.asdict(loss).items() if w is not None}
    match model:
        case IFCConfig():
            surplus = sorted(weights.keys() & {"box_weight", "giou_weight"})
            if surplus:
                raise UsageError(f"[loss] {surplus[0]}: IFC predicts no boxes")
            return SetCriterion(**weights)
        case VisTRConfig():
            return VisTRCriterion(**weights)


def training_batches(config: TrainConfig, pixels: PixelConfig) -> BatchSource:
    """All that a training is fed. Raises: DataError for unusable annotations."""
    if config.pipeline is not None:
        return published_batches(config, pixels)
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
    )


def _parameter_groups(model: IFC | VisTR, config: TrainConfig) -> list[dict[str, object]]:
    """Two learning rates; `share` is what the schedule multiplies."""
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    own = {id(p) for p in model.backbone.parameters()}
    rest = [p for p in model.parameters() if id(p) not in own]
    return [
        {"params": rest, "lr": config.learning_rate, "peak": config.learning_rate},
        {"params": backbone, "lr": config.backbone_rate, "peak": config.backbone_rate},
    ]


def _set_rates(optimizer: AdamW, config: TrainConfig, step: int) -> None:
    """Linear warm-up, then a half cosine to zero, or constant."""
    factor = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * step / config.steps))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def _moved(target: ClipTarget, device: torch.device) -> ClipTarget:
    parts = {field.name: getattr(target, field.name) for field in fields(target)}
    return replace(target, **{k: v.to(device) for k, v in parts.items() if v is not None})


def _settle(path: Path, config: TrainConfig) -> None:
    """Write the settings of a run, or make sure that they are the ones it was started with."""
    text = to_json(config)
    same = from_json(text, TrainConfig, where="the settings")  # as they come back from a file
    if path.exists() and started_with(path.parent) != same:
        raise UsageError(
            f"{path.parent}: this run was started with other settings",
            hint="resume it with the same configuration, or choose another run folder",
        )
    path.write_text(text, encoding="utf-8")


def _diverged(step: int, terms: dict[str, Tensor]) -> VistoolError:
    broken = [name for name, value in terms.items() if not value.isfinite()]
    return VistoolError(
        f"step {step}: the loss is no longer a number; terms: {', '.join(broken) or 'their sum'}",
        hint="resume with a lower learning_rate, or with precision fp32",
    )


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
