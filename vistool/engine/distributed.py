"""Several processes that train one model together, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from vistool.engine.device import choose_device
from vistool.errors import UsageError, VistoolError

T = TypeVar("T")

# How long one process waits for the others, as while they finish their share of the videos. That
# one of them has died shows at once.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a training, seen from one of them; alone, every method is the identity.

    All of them must call the same methods in the same order.
    """

    device: torch.device
    rank: int = 0  # this one's number
    count: int = 1

    @property
    def is_first(self) -> bool:
        """The one that writes."""
        return self.rank == 0

    def share(self, model: nn.Module) -> nn.Module:
        """The model with gradients that are averaged over the processes in its backward pass.

        No parameter may be unused, as none of ours is: then no step is spent on looking for them.
        """
        if self.count == 1:
            return model
        return DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )

    def keep_apart(self, model: nn.Module) -> AbstractContextManager[object]:
        """A context in which the backward passes of a shared model only add up, each process's."""
        if isinstance(model, DistributedDataParallel):
            return cast("AbstractContextManager[object]", model.no_sync())
        return nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """Of every element over the processes; what is no number in one is none in the mean."""
        if self.count > 1:
            values = values.clone()
            distributed.all_reduce(values)
            values /= self.count
        return values

    def any(self, mine: bool) -> bool:
        """Whether it is so in any process."""
        return bool(self.mean(torch.tensor(float(mine), device=self.device)) > 0)

    def gather(self, mine: T) -> list[T]:
        """The objects of all processes, in all of them, by rank."""
        if self.count == 1:
            return [mine]
        everyone: list[Any] = [None] * self.count
        distributed.all_gather_object(everyone, mine)
        return everyone

    def agree(self, choose: Callable[[], T]) -> T:
        """What the first process chooses, in all of them; they end with it, as in `together`."""
        if self.count == 1:
            return choose()
        chosen: list[Any] = [self.together(lambda: choose() if self.is_first else None)]
        distributed.broadcast_object_list(chosen)
        return cast("T", chosen[0])

    def together(self, do: Callable[[], T]) -> T:
        """What this process gets by doing something; if it fails in any of them, all of them end.

        The error is told once: the first process raises it, the others exit with its code. No
        process may wait for another while it does it.
        """
        error: VistoolError | None = None
        try:
            result = do()
        except VistoolError as failure:
            error = failure
        self.end_on(error)
        return result

    def end_on(self, error: VistoolError | None) -> None:
        """End all processes, as `together` does, if any of them has met an error."""
        met = [other for other in self.gather(error) if other is not None]
        if not met:
            return
        self.part()
        if self.is_first:
            raise met[0]
        raise SystemExit(met[0].exit_code)

    def part(self) -> None:
        """Leave the others, after all have agreed to end with an error.

        Without it, gloo's threads may abort a process that Python ends.
        """
        if self.count > 1:
            distributed.destroy_process_group()

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of some work that can be divided."""
        return items[self.rank :: self.count]


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes that `torchrun` started, or this one alone.

    Args: device: as `choose_device` takes it; each of several processes on CUDA gets its own GPU.
    Raises: UsageError for a device that they cannot share, or is not there; VistoolError where
        others have ended while this one needed them.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(choose_device(device))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if ":" in device:
        raise UsageError(
            f"device {device} for {count} processes: each needs its own",
            hint="set device to cuda, or to cpu",
        )
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = choose_device(f"cuda:{local}")
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(chosen, distributed.get_rank(), count)
    except RuntimeError as error:
        if not is_lost_touch(error):
            raise
        raise VistoolError(
            "another process has ended, or cannot be reached any more",
            hint="its own message says why; what is done is saved",
        ) from error
    # Not after a failure: taking leave waits for the others, and they for this one.
    distributed.destroy_process_group()


def is_lost_touch(error: Exception) -> bool:
    """Whether torch says that another process does not answer; gloo has no class for it."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )
