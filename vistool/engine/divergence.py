"""Losses and gradients that are no numbers: which term, and which clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from vistool.data.batches import Batch
from vistool.structures import ClipOutput, ClipTarget, FrameClipOutput, FrameHeads

Output = TypeVar("Output", ClipOutput, FrameClipOutput, FrameHeads)
MOST_NAMED = 4  # clips


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


def named(clips: Sequence[str]) -> str:
    """Some clips in words; if no clip is at fault by itself, the whole step is.

    >>> named(["a/0.png", "b/7.png"]), named([])
    ('a/0.png, b/7.png', 'no single clip')
    """
    more = f" and {len(clips) - MOST_NAMED} more" if len(clips) > MOST_NAMED else ""
    return (", ".join(clips[:MOST_NAMED]) + more) or "no single clip"
