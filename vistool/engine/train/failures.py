"""Explain failures of a training: NaN or infinite losses, full memory, processes that died."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from vistool.data.batches import Batch
from vistool.engine.distributed import is_lost_connection
from vistool.errors import OutOfMemoryError, VistoolError, is_out_of_memory
from vistool.structures import ClipOutput, ClipTarget, FrameClipOutput, FrameHeads

Output = TypeVar("Output", ClipOutput, FrameClipOutput, FrameHeads)
MOST_NAMED = 4  # clips in a message
LESS_MEMORY = (
    "smaller canvases, a smaller batch with accumulate, recompute = true, or half precision"
)


@contextmanager
def explained_failures(go_on: str) -> Iterator[None]:
    """Raise a RuntimeError of torch that is not a bug as a VistoolError.

    Args: go_on: how to resume the training, for the hint.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        failure = _failure(error, go_on)
        if failure is None:
            raise
        raise failure from error


def _failure(error: RuntimeError | MemoryError, go_on: str) -> VistoolError | None:
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, torch._dynamo.exc.TorchDynamoException):  # of a forward or a backward pass
        return VistoolError(
            f"torch.compile failed: {text}", hint="train without it: --set compile=false"
        )
    if is_out_of_memory(error):
        return OutOfMemoryError(f"memory is full: {text}", hint=f"{LESS_MEMORY}, would need less")
    if is_lost_connection(error):
        return VistoolError(
            "another process of this training has ended or cannot be reached",
            hint=f"its own message gives the reason; {go_on}",
        )
    if text.startswith("DataLoader worker"):  # torch raises it anywhere in the main thread
        return VistoolError(
            f"a process that loads data has died: {text}",
            hint=f"if memory is short, fewer workers need less; {go_on}",
        )
    return None


def broken_terms(values: Mapping[str, float]) -> str | None:
    """The names of the terms that are NaN or infinite; None if all are finite.

    >>> broken_terms({"class": 1.0, "dice": float("nan"), "focal": float("inf")})
    'dice, focal'
    """
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    return ", ".join(broken) or None


@torch.no_grad()
def broken_clips(
    batch: Batch,
    predict: Callable[[Batch], Output],
    criterion: Callable[[Output, list[ClipTarget]], Mapping[str, Tensor]],
) -> list[str]:
    """The origins of the clips whose own losses are NaN or infinite."""
    output = predict(batch)
    groups = len(output.class_logits) // len(batch.targets)
    found = []
    for number, (target, origin) in enumerate(zip(batch.targets, batch.origins, strict=True)):
        terms = criterion(clip_of(output, number, groups), [target])
        if not torch.stack(list(terms.values())).isfinite().all():
            found.append(origin)
    return found


def clip_of(output: Output, number: int, groups: int = 1) -> Output:
    """The output of all query groups for one clip, as a batch of one.

    Args: number: of the clip in the batch; groups: the number of query groups.
    """
    parts = {field.name: getattr(output, field.name) for field in fields(output)}
    layers = parts.pop("auxiliary", ())
    rows = slice(number * groups, (number + 1) * groups)
    changed: dict[str, Any] = {name: x[rows] for name, x in parts.items()}
    if layers:
        changed["auxiliary"] = tuple(clip_of(layer, number, groups) for layer in layers)
    return replace(output, **changed)
