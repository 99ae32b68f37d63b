"""Weight files: safetensors with the model's complete configuration in the header.

Only loading and saving models needs torch; reading headers does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vistool.config import ModelConfig, from_json, to_json
from vistool.errors import UsageError, WeightsError
from vistool.formats.files import atomic_path, sha256_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vistool.models.ifc import IFC
    from vistool.models.vistr import VisTR

SUFFIX = ".safetensors"
STAND_IN_BYTES = 100  # of a file, that tell what it is
# Metadata key of files that hold part of a model: the published model that they initialise.
START = "start"
TRAINING_ONLY = "spare_queries"
PACKAGE = Path(__file__).resolve().parents[2]
# In an installed wheel, and at the top of a checkout.
FOLDERS = (PACKAGE / "weights", PACKAGE.parent / "weights")


@dataclass(frozen=True, slots=True)
class WeightsHeader:
    """The header of a weight file: its model's configuration and free text."""

    path: Path
    config: ModelConfig
    metadata: dict[str, str]  # free text: license, training_data, scores...

    @property
    def name(self) -> str:
        """The name by which `--model` finds a shipped file."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode, with its file's header and checksum, from `load_model`.

    >>> vistool.load_model("ifc-lite").header.config.class_names[:3]
    ('person', 'bicycle', 'motorcycle')
    """

    model: IFC | VisTR
    header: WeightsHeader
    sha256: str

    def __repr__(self) -> str:
        millions = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        classes = len(self.header.config.class_names)
        return f"<LoadedModel {self.header.name}: {classes} classes, {millions:.1f} M parameters>"


def available_weights() -> list[Path]:
    """The weight files that come with vistool."""
    files = {path.name: path for folder in FOLDERS for path in folder.glob(f"*{SUFFIX}")}
    return [files[name] for name in sorted(files)]


def find_weights(name_or_path: str | Path) -> Path:
    """The weight file for `--model`: a path, or the name of a shipped file.

    Raises: WeightsError that lists the shipped names.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    for shipped in available_weights():
        if str(name_or_path) in (shipped.stem, shipped.name):
            return shipped
    names = ", ".join(p.stem for p in available_weights()) or "none"
    if path.is_dir():
        inside = sorted(file.name for file in path.glob(f"*{SUFFIX}"))
        raise WeightsError(
            f"{path}: a folder, not a weight file",
            hint=f"name a file in it: {', '.join(inside)}" if inside else f"no {SUFFIX} is in it",
        )
    if path.suffix or path.name != str(name_or_path):  # meant as a file
        raise WeightsError(f"{path}: no such weight file", hint=f"shipped weights: {names}")
    raise WeightsError(
        f"no weights named {str(name_or_path)!r}",
        hint=f"give a {SUFFIX} file, or one of the shipped weights: {names}",
    )


def read_header(path: Path) -> WeightsHeader:
    """Configuration and metadata of a weight file. Raises: WeightsError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        _refuse_what_is_no_weights(path)
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from None
    config = metadata.pop("config", None)
    if config is None:
        raise WeightsError(
            f"{path}: no model configuration in its header",
            hint="weight files are written by `vistool train` and `vistool weights import`",
        )
    try:
        return WeightsHeader(path, from_json(config, ModelConfig, where=str(path)), metadata)
    except UsageError as error:
        raise WeightsError(f"{error} in the file's header", hint=error.hint) from None


def load_model(name_or_path: str | Path) -> LoadedModel:
    """Load a model from a weight file, in float32 and evaluation mode.

    Args: name_or_path: the name of a shipped file, or a path.

    >>> load_model("ifc-lite").header.name
    'ifc-lite'

    Raises: WeightsError if the file is missing, damaged, or does not fit its own configuration.
    """
    from vistool.models.checkpoints.budget import build_within

    path = find_weights(name_or_path)
    header = read_header(path)
    if START in header.metadata:
        raise WeightsError(
            f"{path}: weights to start training {header.metadata[START]} from, not a whole model",
            hint=f"train with --set init={path}",
        )
    model = build_within(header.config, path.stat().st_size, where=str(path))
    load_exactly(model, read_tensors(path), where=str(path))
    return LoadedModel(model.float().eval(), header, sha256_of(path))


def _refuse_what_is_no_weights(path: Path) -> None:
    """Raises: WeightsError for what people often have in the place of a weight file."""
    with path.open("rb") as file:
        refuse_stand_in(path, file.read(STAND_IN_BYTES))
    if path.suffix in (".pth", ".pkl", ".pt"):
        raise WeightsError(
            f"{path}: a checkpoint of another program",
            hint=f"make a weight file of it first: vistool weights import {path}",
        )


def refuse_stand_in(path: Path, start: bytes) -> None:
    """Look at the first bytes of what should be weights.

    Raises: WeightsError for a pointer of Git LFS, or a web page that was downloaded instead.
    """
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path}: a pointer of Git LFS, not the file itself", hint="fetch it: git lfs pull"
        )
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise WeightsError(
            f"{path}: a web page, not weights",
            hint="the download was refused, or has to be confirmed in a browser",
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file. Raises: WeightsError."""
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            return load(path.read_bytes())  # safetensors cannot open such names
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from None


def weights_fault(tensor: Tensor) -> str:
    """The reason why a tensor cannot be weights; "" if it can."""
    if not tensor.is_floating_point():
        return f"{str(tensor.dtype).removeprefix('torch.')} instead of floating point"
    # NaN and infinity remain in the sum. The sum of large finite weights may overflow.
    if tensor.sum(dtype=tensor.dtype).isfinite() or tensor.isfinite().all():
        return ""
    return "holds NaN or infinity"


def load_exactly(model: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Fill a model from tensors whose keys and shapes must equal the model's.

    Raises: WeightsError with the number of missing, unknown and misshapen keys.
    """
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    faults = {key: fault for key, value in state.items() if (fault := weights_fault(value))}
    problems = {
        "missing": sorted(expected.keys() - given.keys()),
        "unknown": sorted(given.keys() - expected.keys()),
        "of another shape": [
            f"{key} {given[key]} instead of {expected[key]}"
            for key in sorted(expected.keys() & given.keys())
            if expected[key] != given[key]
        ],
        "unusable": [f"{key} {fault}" for key, fault in faults.items()],
    }
    found = [f"{len(keys)} {what} ({keys[0]}, ...)" for what, keys in problems.items() if keys]
    if found:
        raise WeightsError(f"{where}: does not fit the model: {'; '.join(found)}")
    model.load_state_dict(dict(state))


def save_model(
    model: IFC | VisTR, path: Path, metadata: Mapping[str, str], *, half: bool = False
) -> None:
    """Write a model's weight file atomically, without tensors that only training needs.

    Args:
        metadata: free text for the header.
        half: store float16; loading converts to float32.
    """
    import torch

    dtype = torch.float16 if half else torch.float32
    state = {
        key: value.to(dtype) for key, value in model.state_dict().items() if key != TRAINING_ONLY
    }
    save_state(state, model.config, path, metadata)


def save_state(
    state: Mapping[str, Tensor], config: ModelConfig, path: Path, metadata: Mapping[str, str]
) -> None:
    """Write a weight file from its tensors, atomically; equal arguments give equal bytes."""
    from safetensors.torch import save

    tensors = {key: value.contiguous() for key, value in state.items()}
    with atomic_path(path) as temporary:
        # As bytes: files that safetensors writes itself are readable only by their owner.
        content = save(tensors, {**metadata, "config": to_json(config)})
        temporary.write_bytes(_with_sorted_header(content))


def _with_sorted_header(content: bytes) -> bytes:
    """A safetensors file with its header in order; safetensors writes metadata in random order."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    return len(header).to_bytes(8, "little") + header + content[8 + length :]
