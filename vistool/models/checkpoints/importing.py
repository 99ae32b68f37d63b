"""Convert the papers' published checkpoints to weight files, and report on every key."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor

from vistool.config import IFCConfig, ModelConfig, PixelConfig, ResNetConfig, VisTRConfig
from vistool.errors import WeightsError
from vistool.formats.files import sha256_of
from vistool.models.checkpoints import names as published
from vistool.models.checkpoints.budget import build_within
from vistool.models.checkpoints.files import START, save_state, weights_fault
from vistool.models.checkpoints.names import Rules
from vistool.models.checkpoints.presets import MSRA_PIXELS, PRESETS, preset
from vistool.models.checkpoints.safe_pickle import LARGEST, PublishedCheckpoint, read_checkpoint
from vistool.models.checkpoints.sizes import Shape, ifc_config, vistr_config

Outcome = Literal["taken", "renamed", "left out", "fresh", "missing", "wrong shape", "unusable"]

# detectron2 subtracts this from its neutral variances, so that it cancels the norm's eps.
NORM_EPS = 1e-5

LEFT_OUT = (
    (r"criterion\.empty_weight", "class weights of the loss"),
    (r".*num_batches_tracked", "training step counter"),
    (r".*_momentum", "belongs to the optimizer"),
    (r"(stem\.)?(fc|linear|fc1000|pred)[._].*", "ImageNet classifier"),
    (r"pixel_(mean|std)", "stored in the configuration"),
)
UNKNOWN = "not part of the model"
NOTHING = r"\b\B"  # matches no name


class KeyReport(NamedTuple):
    """The outcome for one tensor."""

    published: str  # name in the file; empty: not in the file
    ours: str  # name in vistool; empty: none
    outcome: Outcome
    note: str = ""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The recognised model, and the outcome for every key in the file and every key needed."""

    source: str  # name of the file
    sha256: str
    recognised: str  # description of the file and model
    start_of: str  # published model that the file initialises; empty: a whole model
    keys: tuple[KeyReport, ...]

    def count(self) -> Counter[Outcome]:
        """The number of keys with each outcome."""
        return Counter(key.outcome for key in self.keys)

    def of(self, *outcomes: Outcome) -> list[KeyReport]:
        """The keys with one of these outcomes, in order."""
        return [key for key in self.keys if key.outcome in outcomes]


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A published model under vistool's names; `save_imported` refuses it if keys are missing."""

    config: ModelConfig
    state: dict[str, Tensor]
    report: ImportReport


@dataclass(frozen=True, slots=True)
class _Layout:
    """A kind of checkpoint: how to recognise it, and how to rename its keys."""

    text: str
    sign: str  # pattern of a key that only this kind has
    rules: Rules
    # The configuration of a whole model from shapes and settings; None: only initialises training.
    whole: Callable[[Mapping[str, Shape], Mapping[str, Any]], ModelConfig] | None = None
    architectures: tuple[type, ...] = (IFCConfig, VisTRConfig)  # of models that it can initialise
    new: str = r"class_head\..*"  # keys that training initialises at random
    optional: str = NOTHING  # keys that training initialises at random if the file lacks them
    backbone_only: bool = False
    msra: bool = False  # strides and pixels of detectron2's MSRA weights
    folded_norms: bool = False  # norms are stored as scale and shift


def import_checkpoint(path: Path, init_of: str | None = None) -> ImportedModel:
    """Read a published checkpoint; the model and its size are recognised from keys and shapes.

    Args:
        init_of: name of a published model whose training starts from this file, without its class
            head. ImageNet ResNets can only be imported in this way.

    Raises: WeightsError if the file cannot be read or is of an unknown model. Missing keys and
        wrong shapes do not raise; they are in the report.
    """
    checkpoint = read_checkpoint(path)
    tensors = _without_wrapper(checkpoint.tensors, path)
    layout = _recognise(checkpoint, tensors, path)
    if init_of is not None:
        config = _start_config(layout, init_of, path)
    elif layout.whole is not None:
        shapes = {key: tuple(value.shape) for key, value in tensors.items()}
        config = layout.whole(shapes, checkpoint.settings)
    else:
        raise WeightsError(
            f"{path}: {layout.text}: it can initialise a training, but is not a whole model",
            hint=f"name the model to start with --init-of: {', '.join(_startable(layout))}",
        )
    state, keys = _sort(tensors, layout, _expected(config, path), start=init_of is not None)
    report = ImportReport(
        source=path.name,
        sha256=sha256_of(path),
        recognised=f"{layout.text}; {_in_words(config)}",
        start_of=init_of or "",
        keys=tuple(keys),
    )
    return ImportedModel(config, state, report)


def save_imported(imported: ImportedModel, path: Path) -> None:
    """Write the weight file. Raises: WeightsError if keys are missing or have a wrong shape."""
    report = imported.report
    bad = report.of("missing", "wrong shape", "unusable")
    if bad:
        counts = report.count()
        raise WeightsError(
            f"{report.source}: {counts['missing']} needed tensors are missing, "
            f"{counts['wrong shape']} have a wrong shape and {counts['unusable']} hold no usable "
            f"numbers, the first is {bad[0].ours}; nothing was written",
            hint="--verbose lists every key",
        )
    metadata = {
        "source": report.source,
        "source_sha256": report.sha256,
        "license": "unknown, see the source",
        "training": "unknown, see the source",
    }
    if report.start_of:
        metadata[START] = report.start_of
    save_state(imported.state, imported.config, path, metadata)


def _without_wrapper(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors by their keys without the prefix of torch's data-parallel wrapper.

    Raises: WeightsError if a key occurs with and without it.
    """
    plain = {key.removeprefix("module."): value for key, value in tensors.items()}
    if len(plain) < len(tensors):
        twice = next(key for key in tensors if f"module.{key}" in tensors)
        raise WeightsError(
            f"{path}: holds both {twice} and module.{twice}, and {len(tensors) - len(plain)} such "
            "pairs in all",
            hint="which of them are the weights? Save these alone",
        )
    return plain


def _recognise(checkpoint: PublishedCheckpoint, keys: Mapping[str, Tensor], path: Path) -> _Layout:
    for layout in LAYOUTS:
        if any(re.fullmatch(layout.sign, key) for key in keys):
            if layout.backbone_only and checkpoint.author == "torchvision":
                return TORCHVISION_IN_DETECTRON2
            return layout
    some = ", ".join(list(keys)[:3])
    raise WeightsError(
        f"{path}: {len(keys)} tensors of an unknown model: {some}, ...",
        hint="known are VisTR's, IFC's and DETR's checkpoints, and ResNets of torchvision and "
        "detectron2",
    )


def _startable(layout: _Layout) -> list[str]:
    return [name for name, config in PRESETS.items() if isinstance(config, layout.architectures)]


def _start_config(layout: _Layout, name: str, path: Path) -> ModelConfig:
    """The published model, with the pixel normalisation and strides of its initial weights."""
    config = preset(name)
    if not isinstance(config, layout.architectures):
        raise WeightsError(
            f"{path}: {layout.text}, which cannot initialise {name}",
            hint=f"it can initialise {', '.join(_startable(layout))}",
        )
    if not layout.backbone_only or not isinstance(config.backbone, ResNetConfig):
        return config
    return replace(
        config,
        backbone=replace(config.backbone, stride_in_1x1=layout.msra),
        pixels=replace(
            MSRA_PIXELS if layout.msra else PixelConfig(), rounding=config.pixels.rounding
        ),
    )


def _expected(config: ModelConfig, path: Path) -> dict[str, Shape]:
    """The model's keys and shapes, also those that the file lacks."""
    model = build_within(config, path.stat().st_size + LARGEST, where=str(path))
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _sort(
    tensors: Mapping[str, Tensor], layout: _Layout, expected: Mapping[str, Shape], *, start: bool
) -> tuple[dict[str, Tensor], list[KeyReport]]:
    """The renamed tensors, and the outcome for every key."""
    state: dict[str, Tensor] = {}
    keys = []
    new, optional = (layout.new, layout.optional) if start else (NOTHING, NOTHING)
    for key, value in tensors.items():
        ours, reason = _our_name(key, layout.rules)
        if not reason:
            reason = _reason_against(ours, new, expected, state)
        if reason:
            keys.append(KeyReport(key, "", "left out", reason))
        elif fault := weights_fault(value):
            keys.append(KeyReport(key, ours, "unusable", fault))
        elif tuple(value.shape) == expected[ours]:
            state[ours] = value.to(torch.float32)
            keys.append(KeyReport(key, ours, "taken" if key == ours else "renamed"))
        else:
            note = f"{tuple(value.shape)} instead of {expected[ours]}"
            spare = re.fullmatch(optional, ours)
            keys.append(KeyReport(key, ours, "left out" if spare else "wrong shape", note))
    if layout.folded_norms:
        keys += _fill_norms(state, expected)
    seen = {key.ours for key in keys if key.outcome != "left out"}
    for ours in expected:
        if ours not in seen:
            fresh = re.fullmatch(f"{new}|{optional}", ours)
            keys.append(KeyReport("", ours, "fresh" if fresh else "missing"))
    return state, keys


def _reason_against(
    ours: str, new: str, expected: Mapping[str, Shape], state: Mapping[str, Tensor]
) -> str:
    """Why a renamed tensor is left out; empty if it is kept."""
    if re.fullmatch(new, ours):
        return "initialised at random by training"
    if ours not in expected:
        return UNKNOWN
    return f"duplicate of {ours}" if ours in state else ""


def _our_name(key: str, rules: Rules) -> tuple[str, str]:
    """The key's name in vistool, or the reason why it is left out; the other is empty."""
    for pattern, reason in LEFT_OUT:
        if re.fullmatch(pattern, key):
            return "", reason
    try:
        return published.rename_key(key, rules), ""
    except WeightsError:
        return "", UNKNOWN


def _fill_norms(state: dict[str, Tensor], expected: Mapping[str, Shape]) -> list[KeyReport]:
    """Neutral means and variances for norms that are stored as scale and shift."""
    keys = []
    for ours, shape in expected.items():
        norm, _, what = ours.rpartition(".")
        if what in ("running_mean", "running_var") and f"{norm}.weight" in state:
            state[ours] = torch.full(shape, 0.0 if what == "running_mean" else 1.0 - NORM_EPS)
            keys.append(KeyReport("", ours, "taken", "folded into the norm's scale and shift"))
    return keys


def _in_words(config: ModelConfig) -> str:
    """The name of a published model, or the settings that differ from the nearest one."""
    for name, known in PRESETS.items():
        if config == known:
            return name
    kin = [known for known in PRESETS.values() if isinstance(known, type(config))]
    different = min((_differences(config, known) for known in kin), key=len)
    return ", ".join([f"{len(config.class_names)} classes", *different])


def _differences(config: Any, known: Any, of: str = "") -> list[str]:
    """Settings that differ, with their values; class lists are not compared."""
    found = []
    for field in config.__struct_fields__:
        value, other = getattr(config, field), getattr(known, field)
        if value == other or field in ("class_names", "category_ids"):
            continue
        if isinstance(value, Struct) and type(value) is type(other):
            found += _differences(value, other, f"{field} ")
        else:
            found.append(f"{of}{field} {value}")
    return found


LAYOUTS = (
    _Layout(
        "IFC",
        r"detr\.(transformer\.(memory_|clip_decoder|encoder\.(enc|bus)_layers)|mask_head\.convert_).*",
        published.IFC_NAMES,
        whole=ifc_config,
        architectures=(IFCConfig,),
    ),
    _Layout(
        "VisTR",
        r"(insmask_head|mask_head\.dcn|mask_head\.conv_offset)\..*",
        published.VISTR_NAMES,
        whole=vistr_config,
        architectures=(VisTRConfig,),
        new=r"(class_head|queries)\..*",
    ),
    _Layout(
        "DETR",
        r"(vistr\.|detr\.)?transformer\.(encoder|decoder)\.layers\..*",
        published.DETR_NAMES,
        architectures=(VisTRConfig,),
        new=r"(class_head|queries)\..*",
        optional=r"(attention_maps|mask_head|laterals|instance_head)\..*",
    ),
    _Layout(
        "a ResNet of torchvision",
        r"layer[1-4]\.\d+\.conv1\.weight",
        published.TORCHVISION_RESNET_NAMES,
        new=r"(?!backbone\.).*",
        backbone_only=True,
    ),
    _Layout(
        "a ResNet of detectron2",
        r"(backbone\.)?(bottom_up\.)?res[2-5]\.\d+\.conv1\.weight",
        published.DETECTRON2_RESNET_NAMES,
        new=r"(?!backbone\.).*",
        backbone_only=True,
        msra=True,
    ),
    _Layout(
        "a ResNet of Caffe2",
        r"res[2-5]_\d+_branch2a_w",
        published.CAFFE2_RESNET_NAMES,
        new=r"(?!backbone\.).*",
        backbone_only=True,
        msra=True,
        folded_norms=True,
    ),
)
TORCHVISION_IN_DETECTRON2 = _Layout(
    "a ResNet of torchvision in detectron2's names",
    r"",
    published.DETECTRON2_RESNET_NAMES,
    new=r"(?!backbone\.).*",
    backbone_only=True,
)
