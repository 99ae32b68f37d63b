"""Choose the device and the precision of a model, and handle lack of memory."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import TypeVar

import torch

from vistool.config import Precision
from vistool.errors import UsageError, is_out_of_memory

T = TypeVar("T")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:1`; `auto` is a GPU if there is one.

    Raises: UsageError if the device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise UsageError(f"unknown device {name!r}", hint="devices: auto, cpu, cuda, cuda:0...")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match.group(1) or 0) >= count:
        there = f"{count} CUDA device{'s' * (count != 1)}" if count else "no CUDA device"
        built = "" if torch.version.cuda else "; this build of torch runs on the CPU only"
        raise UsageError(
            f"device {name} is not available: torch finds {there}{built}",
            hint="--device cpu works everywhere",
        )
    return torch.device(name)


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that a model computes in; `auto` is bfloat16 on GPUs that have it, else float32.

    Raises: UsageError for an unknown precision.
    """
    if precision not in ("auto", *_DTYPES):
        raise UsageError(
            f"unknown precision {precision!r}", hint=f"precisions: auto, {', '.join(_DTYPES)}"
        )
    if precision != "auto":
        return _DTYPES[precision]
    native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if native else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """A context in which a float32 model computes in `dtype` where this is safe.

    Models compute their features outside this context; see `nn.precision`.
    """
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def unless_out_of_memory(call: Callable[[], T]) -> T | None:
    """The result of `call`; None if there was too little memory, which is then free again."""
    try:
        return call()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # After the except clause, the traceback no longer holds the tensors.
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return None


def versions() -> dict[str, str]:
    """The versions that a result depends on, to be saved with it."""
    return {
        "vistool": version("vistool"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
