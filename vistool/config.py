"""Every setting of every command, its one default, and how it is read and written; no torch.

Settings come from TOML files, from `--set key=value` and from the header of a weight file. A key
that does not exist is an error that lists the keys that do.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypedDict, get_args

import msgspec
from msgspec import Meta

from vistool.errors import UsageError

Count = Annotated[int, Meta(ge=1)]
CountFrom0 = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]
Chance = Annotated[float, Meta(ge=0, le=1)]
# Of models and pictures: far beyond what anybody trains, and far below what ends a computer.
Width = Annotated[int, Meta(ge=1, le=1 << 16)]
Layers = Annotated[int, Meta(ge=1, le=1000)]
Side = Annotated[int, Meta(ge=1, le=1 << 14)]
Deviation = Annotated[float, Meta(gt=0)]
Range = tuple[Annotated[float, Meta(gt=0)], Annotated[float, Meta(gt=0)]]  # from and to

Precision = Literal["auto", "fp32", "bf16", "fp16"]
# How clip predictions become tracks and how tracks are scored. "published": as in the papers' code.
# "mask-aware": class probability times mean mask probability, lower for small masks, and averaged
# as if a few more clips had not seen the track, so that vague masks and short-lived tracks rank
# low; mask components that belong to other instances are removed.
Scoring = Literal["published", "mask-aware"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all settings: immutable, keyword-only, no unknown keys."""


class PixelConfig(Settings, frozen=True):
    """A model's input: (pixel - mean) / std on 0-255 values."""

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # in channel order
    std: tuple[Deviation, Deviation, Deviation] = (58.395, 57.12, 57.375)
    channel_order: Literal["RGB", "BGR"] = "RGB"
    rounding: Literal["nearest", "down"] = "nearest"  # of a resized picture's longer side
    side_multiple: Side = 1  # sides are rounded to the nearest multiple of this


class ResNetConfig(Settings, tag_field="kind", tag="resnet", frozen=True):
    """Bottleneck ResNet with frozen batch norm; defaults are torchvision's ResNet-50 v1.5."""

    depth: Literal[50, 101] = 50
    stem_channels: Width = 64
    bottleneck_channels: Width = 64  # of the first stage; doubles a stage, output is 4 times that
    stride_in_1x1: bool = False  # True: the MSRA variant, stride in the first 1x1 of a block
    blocks: tuple[Layers, Layers, Layers, Layers] | None = (
        None  # of the four stages; None: the depth's
    )
    dilate_last: bool = False  # True: the last stage stays at stride 16 and is dilated instead


class EfficientNetLiteConfig(Settings, tag_field="kind", tag="efficientnet-lite", frozen=True):
    """EfficientNet-Lite0: a backbone for CPUs; its pixels are (x - 127) / 128."""

    variant: Literal[0] = 0


BackboneConfig = ResNetConfig | EfficientNetLiteConfig


class ClassConfig(Settings, frozen=True):
    """The classes of a model, and how its predictions are scored."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...] = ()  # ids in results files; empty: 1, 2, 3...
    scoring: Scoring = "published"

    def __post_init__(self) -> None:
        ids = self.category_ids
        if ids and len(ids) != len(self.class_names):
            raise ValueError(f"{len(ids)} category_ids for {len(self.class_names)} class_names")
        if len(set(ids)) < len(ids):
            raise ValueError("category_ids name an id twice")

    def ids_of_classes(self) -> tuple[int, ...]:
        """The id of every class in results files."""
        return self.category_ids or tuple(range(1, len(self.class_names) + 1))


class IFCConfig(ClassConfig, tag_field="architecture", tag="ifc", frozen=True):
    """Inter-frame Communication Transformer (NeurIPS 2021); defaults are the paper's R-50 model."""

    takes_any_clip_length: ClassVar[bool] = True
    # `eval` scores a track as every likely class (True, as published) or as its most likely one.
    every_likely_class: ClassVar[bool] = True

    backbone: BackboneConfig = ResNetConfig()
    pixels: PixelConfig = PixelConfig()
    hidden_dim: Width = 256
    num_heads: Width = 8
    feedforward_dim: Width = 2048
    encoder_layers: Layers = 3
    decoder_layers: Layers = 3
    num_memory_tokens: Width = 8  # M, per frame
    num_queries: Width = 100
    dropout: Chance = 0.1
    clip_length: Width = 5  # T, unless the command asks for another
    clip_stride: Width = 1
    test_short_side: Side = 360  # pixels
    test_long_side: Side | None = 1333  # cap, pixels; None: no cap


class VisTRConfig(ClassConfig, tag_field="architecture", tag="vistr", frozen=True):
    """VisTR (CVPR 2021); defaults are the paper's R-50 model.

    Its queries belong to frames, so the clip length is part of the weights. A published checkpoint
    has 41 classes: YouTube-VIS counts from 1 and class 0 never occurs.
    """

    takes_any_clip_length: ClassVar[bool] = False
    every_likely_class: ClassVar[bool] = False

    backbone: BackboneConfig = ResNetConfig()
    pixels: PixelConfig = PixelConfig(rounding="down")
    hidden_dim: Width = 384  # a multiple of 48 and of num_heads
    num_heads: Width = 8
    feedforward_dim: Width = 2048
    encoder_layers: Layers = 6
    decoder_layers: Layers = 6
    pre_norm: bool = False
    # Most instances per clip; the decoder has one query for each on every frame.
    num_queries: Width = 10
    dropout: Chance = 0.1
    clip_length: Width = 36  # T, of the weights
    clip_stride: Width | None = None  # None: half the clip length, so that clips overlap
    test_short_side: Side = 300  # pixels
    test_long_side: Side | None = None  # no cap


ModelConfig = IFCConfig | VisTRConfig


class PredictConfig(Settings, frozen=True):
    """`vistool predict`; None: what the weight file says.

    >>> vistool.PredictConfig(classes=("cat",)).conf
    0.5
    """

    conf: float = 0.5  # tracks with a lower score are not reported
    classes: tuple[str, ...] = ()  # names; empty: all
    # Duplicate removal: of two tracks with a higher IoU over the video, only the higher-scoring one
    # is reported; tracks inside another of their class are left out, too. 1: report all. None: 0.5
    # with "mask-aware" scoring, else 1.
    max_overlap: float | None = None
    clip_length: int | Literal["all"] | None = None  # frames the model sees at once, T
    clip_stride: int | None = None  # frames the window moves; T: clips do not overlap
    frame_stride: int = 1  # 2: the model sees every other frame
    size: int | None = None  # short side of the model's input, pixels
    start: float | None = None  # seconds
    end: float | None = None  # seconds
    stream: int | None = None  # of a file; None: the default one, or else the largest
    fps: float | None = None  # of frames kept as pictures; None: 10
    # Of pictures with more than 8 bits: the values that become black and white; None: the lowest
    # and the highest of the sequence.
    range: tuple[float, float] | None = None
    device: str = "auto"
    precision: Precision = "auto"
    batch: int | None = None  # frames per forward pass of the backbone; None: chosen by device
    overlay: bool = True
    save: tuple[str, ...] = ()  # outputs besides results.json, names in engine.writers.OUTPUTS


class PredictOptions(TypedDict, total=False):
    """The settings of `PredictConfig` as keyword arguments, except those for outputs."""

    conf: float
    classes: Sequence[str]
    max_overlap: float | None
    clip_length: int | Literal["all"] | None
    clip_stride: int | None
    frame_stride: int
    size: int | None
    start: float | None
    end: float | None
    stream: int | None
    fps: float | None
    range: tuple[float, float] | None
    device: str
    precision: Precision
    batch: int | None


class OverlayStyle(Settings, frozen=True):
    """How tracks are drawn on a frame."""

    alpha: Chance = 0.45  # of the mask's colour: 0 leaves the picture, 1 hides it
    contours: bool = True
    labels: bool = True
    scores: bool = True  # as part of the labels


class OverlayOptions(TypedDict, total=False):
    """The settings of `OverlayStyle` as keyword arguments."""

    alpha: float
    contours: bool
    labels: bool
    scores: bool


class EvalConfig(Settings, frozen=True):
    """`vistool eval`."""

    conf: float = 0.0  # tracks with a lower score are not scored
    # AP ranks tracks by score, so all are kept.
    predict: PredictConfig = PredictConfig(conf=0.0, max_overlap=1.0, overlay=False)
    workers: int = 1  # processes that run the model, each on its own videos
    samples: int = 2000  # bootstrap samples of the videos
    seed: int = 0  # of the samples
    davis_masks: int = 5000  # with more labelled masks, J and F are measured only on request


class AnnotatedConfig(Settings, frozen=True):
    """An annotated set."""

    annotations: str  # a JSON, DAVIS or MOTS folder, relative to the data folder
    # The folder that a JSON's file names are relative to, itself relative to the data folder.
    # None: searched for near the JSON.
    frames: str | None = None

    def frames_folder(self, data: str) -> Path | None:
        """The frames folder below the data folder; None if not set."""
        return None if self.frames is None else Path(data) / self.frames


class SourceConfig(AnnotatedConfig, frozen=True):
    """One annotated set that training draws from."""

    weight: Annotated[float, Meta(gt=0)] = 1.0  # share of the clips, relative to other sources


class AugmentConfig(Settings, frozen=True):
    """Augmentation: how pictures become clips."""

    scale: Range = (0.6, 2.2)  # zoom; 1 covers the canvas with the picture
    motion: Amount = 0.3  # camera path over a clip, at most about this share of the canvas
    max_frame_distance: CountFrom0 = 5  # between the frames of a clip from a video
    colour: Chance = 0.7  # 0: none, 1: strong
    blur_chance: Chance = 0.15
    paste_chance: Chance = 0.3  # of clips that get pasted instances
    paste_scale: Range = (0.4, 1.5)
    max_pasted: Count = 3  # instances pasted from one source
    max_paste_shots: Count = 1  # sources per clip, pasted one over the other
    # Relative frequency of each class among pasted instances (1 if not named), so that rare classes
    # are seen often. Empty: sources are drawn like pictures.
    paste_classes: dict[str, Amount] = {}
    behind_chance: Chance = 0.25  # of a pasted instance to go behind the existing ones
    noise_chance: Chance = 0.15  # of clips with sensor noise
    compression_chance: Chance = 0.3  # of clips with compression artefacts
    # The following apply to clips of two or more frames.
    perspective: Amount = 0.08  # camera tilt: about how much larger one edge becomes
    object_motion: Amount = 0.3  # as `motion`, for the path of a pasted instance
    leave_chance: Chance = 0.25  # of a pasted instance to leave or enter the frame
    motion_blur_chance: Chance = 0.3  # of clips with motion blur

    def __post_init__(self) -> None:
        for name in ("scale", "paste_scale"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} goes from {low:g} to {high:g}")


class VisTRPipeline(Settings, tag_field="paper", tag="vistr", frozen=True):
    """Training clips as in VisTR's code; the defaults are those of its R-50 model."""

    first_short_sides: tuple[int, ...] = tuple(range(480, 769, 32))  # one of them, at random
    first_long_side: int = 800  # cap
    crop_short_sides: tuple[int, ...] = (400, 500, 600)  # of the picture that is cropped
    crop_sides: tuple[int, int] = (384, 600)  # range of the crop's sides
    short_side: int = 300  # 280
    long_side: int = 540  # cap; R-101: 504
    overflow: Literal["clip", "wrap"] = "clip"  # of colours outside 0-255; published: "wrap"
    # Instances that count as present: those visible in the crop, or (as published) all that are
    # annotated on the frame.
    validity: Literal["visible", "annotated"] = "visible"


class IFCPipeline(Settings, tag_field="paper", tag="ifc", frozen=True):
    """Training clips as in IFC's code; the defaults are those of its YouTube-VIS stage."""

    short_sides: tuple[int, ...] = (360, 480)  # one of them, at random
    long_side: int = 1333  # cap
    crop_sides: tuple[int, int] | None = (
        None  # range of a first random crop's sides; COCO: 384, 600
    )
    max_frame_distance: int = 20  # from the first drawn frame to the others


class LossConfig(Settings, frozen=True):
    """Weights of the loss terms; None: the paper's (IFC 1, 3, 3; VisTR 1, 1, 1, 5, 2)."""

    class_weight: Amount | None = None
    focal_weight: Amount | None = None
    dice_weight: Amount | None = None
    box_weight: Amount | None = None  # VisTR only
    giou_weight: Amount | None = None
    # Frames on which a matched query of VisTR is trained. "own": those of its instance. "published"
    # repeats a fault of the paper's code: those of another instance, and frames without the
    # instance are trained as class 0.
    validity: Literal["own", "published"] | None = None


class ValidationConfig(AnnotatedConfig, frozen=True):
    """A held-out set that the averaged weights are scored on during training."""

    every: Count = 1000  # steps
    measure: Literal["AP", "AP50"] = "AP"  # decides which weights are kept as best.safetensors


class TrainConfig(Settings, kw_only=True, frozen=True):
    """`vistool train`. The model's class names come from `classes`."""

    data: str = "."  # folder that the sources' paths are relative to
    # Class -> the data's category names that it stands for. Empty: every category is a class.
    classes: dict[str, tuple[str, ...]] = {}
    sources: Annotated[tuple[SourceConfig, ...], Meta(min_length=1)]
    model: dict[str, Any] = {}  # architecture ("ifc" or "vistr") and its settings
    augment: AugmentConfig = AugmentConfig()
    # Clips as in one of the papers' code; [augment] and `canvases` then have no effect.
    pipeline: VisTRPipeline | IFCPipeline | None = None
    loss: LossConfig = LossConfig()
    init: str = "imagenet"  # "imagenet": the backbone; "random"; or a weight file's name or path
    steps: Count = 10000
    batch: Count = 8  # clips per forward pass, over all processes
    accumulate: Count = 1  # batches per step; equals one batch that many times as large
    clip_length: Count = 1  # T; 1 trains on single pictures, as IFC's COCO stage does
    # (height, width); one is drawn for each batch.
    canvases: Annotated[tuple[tuple[Side, Side], ...], Meta(min_length=1)] = ((192, 256),)
    learning_rate: Amount = 4e-4
    backbone_rate: Amount = 4e-5
    weight_decay: Amount = 1e-4
    max_norm: Amount = 0.1  # of the gradient over all parameters; 0: not clipped
    warmup_steps: CountFrom0 = 300
    warmup_factor: Amount = 0.0  # share of the rates at step 0; they rise linearly
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[CountFrom0, ...] = ()  # steps after which "step" multiplies by gamma
    gamma: Amount = 0.1
    # First stages (ResNet) or blocks (EfficientNet) of the backbone that are frozen with its stem.
    # None: one stage, as in the papers, or 3 blocks.
    frozen_blocks: int | None = None
    # Query groups trained in parallel, of which one is kept (Group DETR); IFC only.
    query_groups: Count = 1
    # Largest decay of the averaged weights that are saved; 0: save the last weights.
    ema_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    recompute: bool = False  # activations in the backward pass, to save memory
    compile: bool = False  # the model with torch.compile
    max_skipped: Count = 5  # the run stops after this many steps in a row without finite gradients
    device: str = "auto"
    workers: CountFrom0 = 1
    seed: CountFrom0 = 0
    save_every: Count = 200  # steps between checkpoints
    validation: ValidationConfig | None = None
    tensorboard: bool = False  # also write curves for TensorBoard
    card: dict[str, str] = {}  # free text for the header of the weight file: license, ...

    def named_sources(self) -> str:
        """The names of the sources, for messages."""
        return ", ".join(source.annotations for source in self.sources)

    def model_config(self) -> ModelConfig:
        """The model to train. Raises: UsageError for a setting that the model does not have."""
        values = {"architecture": "ifc", **self.model, "class_names": list(self.classes)}
        config: ModelConfig = from_mapping(values, ModelConfig, where="[model]")
        if not config.takes_any_clip_length and config.clip_length != self.clip_length:
            raise UsageError(
                f"clip_length {self.clip_length}, but [model] has clip_length {config.clip_length}",
                hint="VisTR is trained for one clip length: set both to the same number",
            )
        return config

    def check(self, processes: int) -> None:
        """Raises: UsageError for values that are out of range or contradict each other."""
        from_json(to_json(self), TrainConfig, where="the settings")  # each of them by itself
        if self.batch % processes:
            raise UsageError(
                f"batch = {self.batch} clips cannot be shared evenly by {processes} processes",
                hint=f"set batch to a multiple of {processes}",
            )
        if self.schedule == "step" and not self.milestones:
            raise UsageError(
                'schedule = "step" without milestones',
                hint="name the steps at which the rates fall, as in milestones = [4000]",
            )


def to_json(settings: Settings) -> str:
    """Settings as one line of JSON; `from_json` gives an equal value back."""
    try:
        return msgspec.json.encode(settings).decode()
    except (
        UnicodeEncodeError
    ):  # a path whose bytes are not UTF-8; Python's JSON has a form for them
        return json.dumps(msgspec.to_builtins(settings))


def from_json(text: str, kind: Any, *, where: str) -> Any:
    """Read settings of `kind` (a Settings class, or a tagged union of some) from JSON.

    Raises: UsageError naming `where` and the key if one is unknown, missing or of another type.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise _explained(error, kind, where) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        reason = str(error)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"{where}: not readable JSON: {reason}") from None
    return from_mapping(values, kind, where=where)


def from_mapping(values: Mapping[str, Any], kind: Any, *, where: str) -> Any:
    """Read settings from nested plain values, as TOML gives them. Raises: UsageError."""
    try:
        return msgspec.convert(values, type=kind)
    except msgspec.MsgspecError as error:
        raise _explained(error, kind, where) from None
    except UnicodeEncodeError as error:  # text in the place of something else
        raise UsageError(f"{where}: {error}") from None


def load_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises: UsageError with file, line and column."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such configuration file") from None
    except (
        ValueError,
        RecursionError,
        OSError,
    ) as error:  # numbers of any length, tables in tables
        raise UsageError(f"{path}: not a readable TOML file: {error}") from None


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set `table.key=value` pairs in nested plain values, as `parse_overrides` reads them.

    >>> apply_overrides({"model": {"num_queries": 100}}, ["model.num_queries=40", "seed=1"])
    {'model': {'num_queries': 40}, 'seed': 1}
    """
    return changed(values, parse_overrides(overrides))


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """The values of `key=value` texts by key; a value is TOML, or else a string."""
    values: dict[str, Any] = {}
    for override in overrides:
        name, sign, text = override.partition("=")
        if not sign or not name:
            raise UsageError(f"--set {override}: not of the form key=value")
        try:
            values[name.strip()] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            values[name.strip()] = text
    return values


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested plain values with others in their place, whose names may go through tables.

    >>> changed({"augment": {"blur_chance": 0.1, "colour": 0.4}}, {"augment.colour": 0.2})
    {'augment': {'blur_chance': 0.1, 'colour': 0.2}}
    """
    result = dict(values)
    for name, value in changes.items():
        table, dot, key = name.partition(".")
        inner = result.get(table)
        below = inner if isinstance(inner, Mapping) else {}
        result[table] = changed(below, {key: value}) if dot else value
    return result


def _explained(error: msgspec.MsgspecError, kind: Any, where: str) -> UsageError:
    """msgspec's message with the keys that exist, and the one that was probably meant."""
    unknown = re.search(r"unknown field `([^`]*)`", str(error))
    if unknown is None:
        return UsageError(f"{where}: {error}")
    path = re.search(r"at `\$\.?([^`]*)`", str(error))
    known = _keys_at(kind, path.group(1).split(".") if path else [])
    close = difflib.get_close_matches(unknown.group(1), known, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    place = f" in [{path.group(1)}]" if path and path.group(1) else ""
    return UsageError(
        f"{where}: unknown setting {unknown.group(1)!r}{place}",
        hint=f"{meant}settings here: {', '.join(known)}",
    )


def _keys_at(kind: Any, path: list[str]) -> list[str]:
    """The keys of all Settings classes that may stand at `path` below `kind`."""
    kinds = [kind, *get_args(kind)]
    structs = [k for k in kinds if isinstance(k, type) and issubclass(k, msgspec.Struct)]
    if not path or not path[0]:
        return sorted({field.encode_name for k in structs for field in msgspec.structs.fields(k)})
    name = path[0].partition("[")[0]
    return sorted(
        {
            key
            for k in structs
            for field in msgspec.structs.fields(k)
            if field.encode_name == name
            for key in _keys_at(field.type, path[1:])
        }
    )
