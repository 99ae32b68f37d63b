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
# What of a clip becomes a track, and its score. "published": as the papers' code does it.
# "mask-aware": the class probability times the mean mask probability, less for what is small, and
# averaged as if a few clips had not seen the track, so that neither a vague mask nor a glimpse
# ranks first; pieces of a mask that are other instances are taken from it.
Scoring = Literal["published", "mask-aware"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all settings: immutable, keyword-only, no unknown keys."""


class PixelConfig(Settings, frozen=True):
    """What a model expects of its input: (pixel - mean) / std on 0-255 values."""

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # in channel order
    std: tuple[Deviation, Deviation, Deviation] = (58.395, 57.12, 57.375)
    channel_order: Literal["RGB", "BGR"] = "RGB"
    rounding: Literal["nearest", "down"] = "nearest"  # of the longer side of a resized picture
    side_multiple: Side = 1  # both sides of a resized picture go to the nearest multiple of this


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
    """What a model tells apart."""

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
    # Whether a track is scored as every likely class, as published, or as its likeliest.
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
    clip_length: Width = 5  # T the model is run with unless told otherwise
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
    num_queries: Width = 10  # instances a clip may have; the decoder has one query each per frame
    dropout: Chance = 0.1
    clip_length: Width = 36  # T, of the weights
    clip_stride: Width | None = None  # None: half the clip length, so that clips overlap
    test_short_side: Side = 300  # pixels
    test_long_side: Side | None = None  # no cap


ModelConfig = IFCConfig | VisTRConfig


class PredictConfig(Settings, frozen=True):
    """`vistool predict`; None: what the weight file says."""

    conf: float = 0.5  # tracks with a lower score are not reported
    classes: tuple[str, ...] = ()  # names; empty: all
    # IoU over the video above which the less sure of two tracks is taken for a second one of the
    # same instance, and not reported, nor is a part of one; 1: report all. None: 0.5 where scoring
    # is "mask-aware".
    max_overlap: float | None = None
    clip_length: int | Literal["all"] | None = None  # frames the model sees at once, T
    clip_stride: int | None = None  # frames the window moves; T: clips do not overlap
    frame_stride: int = 1  # 2: the model sees every other frame
    size: int | None = None  # short side of the model's input, pixels
    start: float | None = None  # seconds
    end: float | None = None  # seconds
    device: str = "auto"
    precision: Precision = "auto"
    batch: int | None = None  # frames that go through the network together; None: device's
    overlay: bool = True
    save: tuple[str, ...] = ()  # what to write beside results.json, of engine.writers.OUTPUTS


class PredictOptions(TypedDict, total=False):
    """The settings of `PredictConfig` as keyword arguments, but for those of what is written."""

    conf: float
    classes: Sequence[str]
    max_overlap: float | None
    clip_length: int | Literal["all"] | None
    clip_stride: int | None
    frame_stride: int
    size: int | None
    start: float | None
    end: float | None
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
    # Every track is kept: AP weighs them by their score.
    predict: PredictConfig = PredictConfig(conf=0.0, max_overlap=1.0, overlay=False)
    workers: int = 1  # processes that run the model, each on videos of its own
    samples: int = 2000  # of the videos, to tell a difference from noise
    seed: int = 0  # of the samples
    davis_masks: int = 5000  # labelled masks up to which J and F are measured unasked


class AnnotatedConfig(Settings, frozen=True):
    """An annotated set."""

    annotations: str  # a JSON, DAVIS or MOTS folder, relative to the data folder
    frames: str | None = None  # folder of a JSON's file names, relative likewise; None: found

    def frames_folder(self, data: str) -> Path | None:
        """The folder that `frames` means."""
        return None if self.frames is None else Path(data) / self.frames


class SourceConfig(AnnotatedConfig, frozen=True):
    """One annotated set that training draws from."""

    weight: Annotated[float, Meta(gt=0)] = 1.0  # share of the clips, relative to other sources


class AugmentConfig(Settings, frozen=True):
    """How pictures become clips."""

    scale: Range = (0.6, 2.2)  # zoom; 1 covers the canvas with the picture
    motion: Amount = 0.3  # camera path over a clip, at most about this share of the canvas
    max_frame_distance: CountFrom0 = 5  # between the frames of a clip from a video
    colour: Chance = 0.7  # 0: none, 1: strong
    blur_chance: Chance = 0.15
    paste_chance: Chance = 0.3  # of clips that get instances of others
    paste_scale: Range = (0.4, 1.5)
    max_pasted: Count = 3  # from one of them
    max_paste_shots: Count = 1  # the others of a clip, one pasted over the last
    # What is pasted shows one class, drawn by these weights (1 if not named), so that rare classes
    # are seen often; empty: what is pasted is drawn as pictures are.
    paste_classes: dict[str, Amount] = {}
    behind_chance: Chance = 0.25  # of a pasted instance to be behind what is already there
    noise_chance: Chance = 0.15  # of clips with a sensor's noise
    compression_chance: Chance = 0.3  # of clips that look as if a video codec had stored them
    # What follows is about clips of two frames and more.
    perspective: Amount = 0.08  # tilt of the camera: about how much nearer it comes to one edge
    object_motion: Amount = 0.3  # a pasted instance's own path; as `motion`
    leave_chance: Chance = 0.25  # of a pasted instance to leave the frame, or to enter it
    motion_blur_chance: Chance = 0.3  # of clips whose frames are exposed while things move

    def __post_init__(self) -> None:
        for name in ("scale", "paste_scale"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} goes from {low:g} to {high:g}")


class VisTRPipeline(Settings, tag_field="paper", tag="vistr", frozen=True):
    """How VisTR's training made clips; the defaults are its R-50 model's."""

    first_short_sides: tuple[int, ...] = tuple(range(480, 769, 32))  # one of them, at random
    first_long_side: int = 800  # cap
    crop_short_sides: tuple[int, ...] = (400, 500, 600)  # that a crop is taken from
    crop_sides: tuple[int, int] = (384, 600)  # of the crop, from and to
    short_side: int = 300  # 280
    long_side: int = 540  # cap; R-101: 504
    overflow: Literal["clip", "wrap"] = "clip"  # of colours beyond 0 and 255; published: "wrap"
    # Which instances count as present: those that the crop still shows, or, as published, all that
    # are annotated on the frame.
    validity: Literal["visible", "annotated"] = "visible"


class IFCPipeline(Settings, tag_field="paper", tag="ifc", frozen=True):
    """How IFC's training made clips; the defaults are its YouTube-VIS stage's."""

    short_sides: tuple[int, ...] = (360, 480)  # one of them, at random
    long_side: int = 1333  # cap
    crop_sides: tuple[int, int] | None = None  # of a random crop first, from and to; COCO: 384, 600
    max_frame_distance: int = 20  # from the first frame that is drawn to the others


class LossConfig(Settings, frozen=True):
    """The terms' weights; None: the paper's of the model (IFC 1, 3, 3; VisTR 1, 1, 1, 5, 2)."""

    class_weight: Amount | None = None
    focal_weight: Amount | None = None
    dice_weight: Amount | None = None
    box_weight: Amount | None = None  # VisTR has boxes
    giou_weight: Amount | None = None
    # VisTR's pairs are trained on the frames of their own instance. "published" repeats a fault of
    # the paper's code: on those of another one; and frames without the instance call for class 0.
    validity: Literal["own", "published"] | None = None


class ValidationConfig(AnnotatedConfig, frozen=True):
    """A set that is held out, and run by the averaged weights while they are trained."""

    every: Count = 1000  # steps
    measure: Literal["AP", "AP50"] = "AP"  # of the best weights, kept as best.safetensors


class TrainConfig(Settings, kw_only=True, frozen=True):
    """`vistool train`. The model's class names come from `classes`."""

    data: str = "."  # folder that the sources' paths are relative to
    # Class -> the category names in the data that it stands for. Empty: every category is a class.
    classes: dict[str, tuple[str, ...]] = {}
    sources: Annotated[tuple[SourceConfig, ...], Meta(min_length=1)]
    model: dict[str, Any] = {}  # architecture ("ifc" or "vistr") and its settings
    augment: AugmentConfig = AugmentConfig()
    # Clips as one of the papers made them; [augment] and `canvases` then have no effect.
    pipeline: VisTRPipeline | IFCPipeline | None = None
    loss: LossConfig = LossConfig()
    init: str = "imagenet"  # "imagenet": the backbone; "random"; or a weight file's name or path
    steps: Count = 10000
    batch: Count = 8  # clips that go through the model together, in all processes
    accumulate: Count = 1  # batches a step: it is that of a batch so many times as large
    clip_length: Count = 1  # T; 1 trains on single pictures, as IFC's COCO stage does
    # (height, width), one drawn a batch.
    canvases: Annotated[tuple[tuple[Side, Side], ...], Meta(min_length=1)] = ((192, 256),)
    learning_rate: Amount = 4e-4
    backbone_rate: Amount = 4e-5
    weight_decay: Amount = 1e-4
    max_norm: Amount = 0.1  # of the gradient of all parameters together; 0: as large as it is
    warmup_steps: CountFrom0 = 300
    warmup_factor: Amount = 0.0  # of the rates, from which they rise evenly
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[CountFrom0, ...] = ()  # steps after which "step" multiplies by gamma
    gamma: Amount = 0.1
    # Of the backbone, with its stem: stages of a ResNet, blocks of an EfficientNet. None: the
    # papers' one stage, or 3 blocks.
    frozen_blocks: int | None = None
    # Sets of queries that learn side by side, of which one is kept; IFC only.
    query_groups: Count = 1
    # Of the averaged weights that are saved, at most; 0: the last ones.
    ema_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    recompute: bool = False  # activations in the backward pass, where storing them takes too much
    compile: bool = False  # the model, by torch.compile
    max_skipped: Count = 5  # steps in a row without usable gradients, after which the run stops
    device: str = "auto"
    workers: CountFrom0 = 1
    seed: CountFrom0 = 0
    save_every: Count = 200  # steps between checkpoints
    validation: ValidationConfig | None = None
    tensorboard: bool = False  # curves for TensorBoard, besides log.jsonl
    card: dict[str, str] = {}  # free text for the header of the weight file: license, ...

    def named_sources(self) -> str:
        """What the sources are called in messages."""
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
        """Raises: UsageError for numbers that make no sense, or not together."""
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
    except UnicodeEncodeError:  # a path whose bytes are no UTF-8; Python's JSON has a form for them
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
    """Set `table.key=value` pairs in nested plain values; a value is TOML, or else a string.

    >>> apply_overrides({"model": {"num_queries": 100}}, ["model.num_queries=40", "seed=1"])
    {'model': {'num_queries': 40}, 'seed': 1}
    """
    result = {key: dict(v) if isinstance(v, Mapping) else v for key, v in values.items()}
    for override in overrides:
        name, sign, text = override.partition("=")
        if not sign or not name:
            raise UsageError(f"--set {override}: not of the form key=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            value = text
        *tables, key = name.strip().split(".")
        place = result
        for table in tables:
            inner = place.get(table)
            place[table] = dict(inner) if isinstance(inner, Mapping) else {}
            place = place[table]
        place[key] = value
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
