"""What can go wrong in a training, in words: losses that are NaN or infinite, and by which clip;
memory that is full; a process that has died."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from vistool.data.batches import Batch
from vistool.engine.distributed import is_lost_touch
from vistool.errors import OutOfMemoryError, VistoolError, is_out_of_memory
from vistool.structures import ClipOutput, ClipTarget, FrameClipOutput, FrameHeads

Output = TypeVar("Output", ClipOutput, FrameClipOutput, FrameHeads)
MOST_NAMED = 4  # clips
LESS_MEMORY = (
    "smaller canvases, a smaller batch with accumulate, recompute = true, or half precision"
)


@contextmanager
def failures_in_words(go_on: str) -> Iterator[None]:
    """Raise what torch reports as a RuntimeError, and is no bug, as a VistoolError.

    Args: go_on: how a training goes on afterwards; the hint.
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
    if is_lost_touch(error):
        return VistoolError(
            "another process of this training has ended, or cannot be reached any more",
            hint=f"its own message says why; {go_on}",
        )
    if text.startswith("DataLoader worker"):  # so torch says it, at any place in the main thread
        return VistoolError(
            f"a process that loads data has died: {text}",
            hint=f"where memory is short, fewer workers need less; {go_on}",
        )
    return None


def broken_terms(values: Mapping[str, float]) -> str | None:
    """The terms that are no finite numbers; None if all are.

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
    """Where the clips come from whose own losses are not finite."""
    output = predict(batch)
    groups = len(output.class_logits) // len(batch.targets)
    found = []
    for number, (target, origin) in enumerate(zip(batch.targets, batch.origins, strict=True)):
        terms = criterion(clip_of(output, number, groups), [target])
        if not torch.stack(list(terms.values())).isfinite().all():
            found.append(origin)
    return found


def clip_of(output: Output, number: int, groups: int = 1) -> Output:
    """One clip of a batch, as a batch of one, with what each group of queries predicts for it."""
    parts = {field.name: getattr(output, field.name) for field in fields(output)}
    layers = parts.pop("auxiliary", ())
    rows = slice(number * groups, (number + 1) * groups)
    changed: dict[str, Any] = {name: x[rows] for name, x in parts.items()}
    if layers:
        changed["auxiliary"] = tuple(clip_of(layer, number, groups) for layer in layers)
    return replace(output, **changed)
