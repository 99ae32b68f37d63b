"""Set up a training: its settings, model, objective and clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from vistool.config import (
    AnnotatedConfig,
    IFCConfig,
    LossConfig,
    ModelConfig,
    PixelConfig,
    TrainConfig,
    VisTRConfig,
    changed,
    from_json,
    from_mapping,
    to_json,
)
from vistool.criterion.ifc_criterion import IFCCriterion
from vistool.criterion.vistr_criterion import VisTRCriterion
from vistool.data.batches import CanvasClips, Share, TrainingBatches
from vistool.data.clips import ClipMaker
from vistool.data.labelled import LabelledVideo, own_classes, read_annotations
from vistool.data.published.batches import published_clips
from vistool.data.sampling import ClipSampler, refuse_unlabelled
from vistool.engine.device import versions
from vistool.errors import DataError, UsageError
from vistool.formats.files import atomic_path
from vistool.models import build_model
from vistool.models.checkpoints.imagenet import load_imagenet_weights
from vistool.models.checkpoints.start import load_start
from vistool.models.ifc import IFC
from vistool.models.vistr import InstanceHead, MaskHead, VisTR
from vistool.nn.efficientnet import EfficientNetLite0, MBConv
from vistool.nn.resnet import Bottleneck
from vistool.nn.transformer import DecoderLayer, EncoderLayer
from vistool.structures import Size

# Modules whose activations are recomputed in the backward pass, with `recompute`.
BLOCKS = (MBConv, Bottleneck, EncoderLayer, DecoderLayer, MaskHead, InstanceHead)
SETTINGS = "config.json"
# Stages (ResNet) and blocks (EfficientNet) of the backbone that are frozen by default.
PUBLISHED_FROZEN, LIGHT_FROZEN = 1, 3
# Settings that may change when a run is resumed, because the result does not depend on them.
MAY_CHANGE = ("data", "device", "workers")


def started_with(run: Path, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """The settings of a run, to resume it.

    Args: changes: other values, in the form of `changed`.
    Raises: UsageError if no run was started there, or a setting does not exist.
    """
    where = str(run / SETTINGS)
    try:
        text = (run / SETTINGS).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: not readable JSON: {error}") from None
    except (OSError, ValueError):
        raise UsageError(f"{run}: no training was started in this folder") from None
    config: TrainConfig = from_json(text, TrainConfig, where=where)
    values = changed(msgspec.to_builtins(config), changes or {})
    return from_mapping(values, TrainConfig, where=str(run))


def settle(path: Path, config: TrainConfig) -> None:
    """Write the settings of a run, after checking that they equal those it was started with.

    Raises: UsageError if settings other than MAY_CHANGE differ.
    """
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
    """The settings after writing and reading, as needed to compare them."""
    return from_json(to_json(config), TrainConfig, where="the settings")


def with_classes(config: TrainConfig) -> TrainConfig:
    """The settings with the categories of the sources as classes, if they name no classes."""
    if config.classes:
        return config
    classes = own_classes(Path(config.data) / source.annotations for source in config.sources)
    return msgspec.structs.replace(config, classes=classes)


def fresh_model(config: TrainConfig, *, resumes: bool) -> IFC | VisTR:
    """The initial model of a run, with its first blocks frozen.

    Args: resumes: keep random weights, since a checkpoint replaces them.
    Raises: UsageError for settings that do not fit the model, WeightsError.
    """
    model = build_model(config.model_config())
    match "random" if resumes else config.init:
        case "random":
            pass
        case "imagenet":
            if not isinstance(model.backbone, EfficientNetLite0):
                raise UsageError(
                    "ImageNet weights are available for the efficientnet-lite backbone only",
                    hint='set init = "random", or init to a weight file of this model',
                )
            load_imagenet_weights(model.backbone)
        case name:
            load_start(model, model.config, name)
    if config.query_groups > 1:
        if not isinstance(model, IFC):
            raise UsageError(
                f"query_groups = {config.query_groups}: only IFC can be trained with groups"
            )
        model.add_query_groups(config.query_groups)
    _freeze(model, config.frozen_blocks)
    # A few percent faster on CPUs. torch's stubs do not know the argument.
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _freeze(model: IFC | VisTR, blocks: int | None) -> None:
    """Freeze the first blocks or stages of the backbone; None: the default number.

    Raises: UsageError for a number that the backbone does not have.
    """
    if isinstance(model.backbone, EfficientNetLite0):
        usual, there, what = LIGHT_FROZEN, len(model.backbone.blocks), "blocks"
    else:
        usual, there, what = PUBLISHED_FROZEN, len(model.backbone.stages), "stages"
    chosen = usual if blocks is None else blocks
    if not 0 <= chosen <= there:
        raise UsageError(f"frozen_blocks = {chosen}: the backbone has {there} {what}")
    model.backbone.freeze_first(chosen)


def training_criterion(model: ModelConfig, loss: LossConfig) -> IFCCriterion | VisTRCriterion:
    """The training objective of a model. Raises: UsageError for a term that it does not have."""
    weights = {name: w for name, w in msgspec.structs.asdict(loss).items() if w is not None}
    match model:
        case IFCConfig():
            surplus = sorted(weights.keys() & {"box_weight", "giou_weight", "validity"})
            if surplus:
                raise UsageError(
                    f"[loss] {surplus[0]}: IFC predicts no boxes, and matches whole clips"
                )
            return IFCCriterion(**weights)
        case VisTRConfig():
            return VisTRCriterion(**weights)


def training_batches(
    config: TrainConfig, pixels: PixelConfig, share: Share | None = None
) -> TrainingBatches:
    """All batches of a training, or a process's share of them.

    Raises: DataError for unusable annotations.
    """
    clips = _drawn_clips(config) if config.pipeline is None else published_clips(config)
    return TrainingBatches(
        clips, pixels, batch=config.batch, steps=config.steps, seed=config.seed, share=share
    )


def _drawn_clips(config: TrainConfig) -> CanvasClips:
    sources = [(_labelled(config, source), source.weight) for source in config.sources]
    for source, (videos, _) in zip(config.sources, sources, strict=True):
        if not videos:
            raise DataError(f"{source.annotations}: no videos and no pictures")
    refuse_unlabelled([video for videos, _ in sources for video in videos], config.named_sources())
    sampler = ClipSampler(sources, len(config.classes))
    maker = ClipMaker(sampler, config.clip_length, config.augment, tuple(config.classes))
    return CanvasClips(maker, tuple(Size(*canvas) for canvas in config.canvases), config.seed)


def _labelled(config: TrainConfig, part: AnnotatedConfig) -> list[LabelledVideo]:
    return read_annotations(
        Path(config.data) / part.annotations,
        config.classes,
        frames=part.frames_folder(config.data),
    )


def held_out(config: TrainConfig) -> list[LabelledVideo]:
    """The held-out videos and pictures for validation.

    Raises: DataError if they have no labels, or a frame's file is missing, so that a training does
        not fail at its first validation.
    """
    if config.validation is None:
        return []
    path = Path(config.data) / config.validation.annotations
    videos = _labelled(config, config.validation)
    refuse_unlabelled(videos, str(path))
    missing = [file for video in videos for file in video.files if not file.is_file()]
    if missing:
        raise DataError(f"{path}: {len(missing)} frames are missing, for example {missing[0]}")
    return videos


def averaging(decay: float) -> Callable[..., None]:
    """The update of averaged weights: an exponential mean with a smaller decay at first.

    The weights of the first steps, which differ most from later ones, thus lose their influence
    soon. Args: decay: the largest decay.
    """

    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        soon = (1 + int(count)) / (10 + int(count))
        get_ema_multi_avg_fn(min(decay, soon))(averaged, current, count)

    return update


def card(config: TrainConfig, step: int) -> dict[str, str]:
    """The description of the training in the weight file's header, without the user's paths."""
    portable = msgspec.structs.replace(config, data=".", init=Path(config.init).name)
    return {
        **config.card,
        "training": to_json(portable),
        "steps": f"{step} of {config.steps}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def recompute_activations(model: nn.Module) -> None:
    """Let every block keep only its input and recompute its activations in the backward pass.

    The gradients are the same. A training step takes about a third longer.
    """
    for module in model.modules():
        if isinstance(module, BLOCKS):
            again = partial(checkpoint, module.forward, use_reentrant=False)
            module.forward = again  # type: ignore[method-assign]
