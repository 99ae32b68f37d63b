"""What ends a training from outside, in words: a process that has died, memory that is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vistool.engine.device import is_out_of_memory
from vistool.engine.distributed import is_lost_touch
from vistool.errors import OutOfMemoryError, VistoolError

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
