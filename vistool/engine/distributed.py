"""Train one model with several processes that `torchrun` started."""

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

# How long a process waits for the others, for example while they finish their share of the videos.
# The death of a process is noticed immediately.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a training, as one of them sees them.

    All processes must call the same methods in the same order. With one process, every method is
    the identity.
    """

    device: torch.device
    rank: int = 0  # the number of this process
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, model: nn.Module) -> nn.Module:
        """The model with gradients that are averaged over the processes in the backward pass.

        Every parameter must have a gradient: no time is spent on finding unused parameters.
        """
        if self.count == 1:
            return model
        return DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )

    def unsynchronised(self, model: nn.Module) -> AbstractContextManager[object]:
        """A context in which a shared model's gradients are summed within each process only."""
        if isinstance(model, DistributedDataParallel):
            return cast("AbstractContextManager[object]", model.no_sync())
        return nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """The mean of every element over the processes; NaN or infinite if it is in any of them."""
        if self.count > 1:
            values = values.clone()
            distributed.all_reduce(values)
            values /= self.count
        return values

    def any(self, mine: bool) -> bool:
        """Whether `mine` is true in any process."""
        return bool(self.mean(torch.tensor(float(mine), device=self.device)) > 0)

    def gather(self, mine: T) -> list[T]:
        """The objects of all processes, ordered by rank; every process gets all of them."""
        if self.count == 1:
            return [mine]
        everyone: list[Any] = [None] * self.count
        distributed.all_gather_object(everyone, mine)
        return everyone

    def agree(self, choose: Callable[[], T]) -> T:
        """The result of `choose` in the first process, for all; errors are those of `together`."""
        if self.count == 1:
            return choose()
        chosen: list[Any] = [self.together(lambda: choose() if self.is_first else None)]
        distributed.broadcast_object_list(chosen)
        return cast("T", chosen[0])

    def together(self, do: Callable[[], T]) -> T:
        """The result of `do` in this process; if it fails in any process, all processes end.

        The first process raises the error; the others exit with its code, so it is printed once.
        `do` must not wait for other processes.
        """
        error: VistoolError | None = None
        try:
            result = do()
        except VistoolError as failure:
            error = failure
        self.end_on(error)
        return result

    def end_on(self, error: VistoolError | None) -> None:
        """End all processes, as `together` does, if any of them has an error."""
        met = [other for other in self.gather(error) if other is not None]
        if not met:
            return
        self.part()
        if self.is_first:
            raise met[0]
        raise SystemExit(met[0].exit_code)

    def part(self) -> None:
        """Disconnect from the other processes, after all have agreed to end with an error.

        Otherwise, gloo's threads may abort a process while Python ends it.
        """
        if self.count > 1:
            distributed.destroy_process_group()

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of the items."""
        return items[self.rank :: self.count]


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Connect the processes that `torchrun` started; without `torchrun`, only this process.

    Args: device: as for `choose_device`; with CUDA, each of several processes gets its own GPU.
    Raises: UsageError for a device that does not exist or that they cannot share; VistoolError if
        another process ends while this one waits for it.
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
        if not is_lost_connection(error):
            raise
        raise VistoolError(
            "another process has ended or cannot be reached",
            hint="its own message gives the reason; finished work is saved",
        ) from error
    # Not after a failure: this call waits for the other processes, which may wait for this one.
    distributed.destroy_process_group()


def is_lost_connection(error: Exception) -> bool:
    """Whether torch reports that another process does not answer; gloo has no class for it."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )
