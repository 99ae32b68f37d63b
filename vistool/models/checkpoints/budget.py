"""Models whose sizes a file states: built only as large as the file can fill."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from vistool.config import ModelConfig, from_json, to_json
from vistool.errors import UsageError, WeightsError
from vistool.models import build_model

if TYPE_CHECKING:
    from vistool.models.ifc import IFC
    from vistool.models.vistr import VisTR

# What layers take their numbers with.
TAKING = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
# Of numbers, that a model has besides those of its file.
SPARE = 1 << 22
UNFIT = (ValueError, TypeError, AssertionError, RuntimeError, ArithmeticError, LookupError)


def build_within(config: ModelConfig, numbers: int, where: str) -> IFC | VisTR:
    """The model of a configuration from outside, if it has about `numbers` numbers at most.

    Raises: WeightsError that begins with `where` if it has more, or no model has such sizes.
    """
    try:
        from_json(to_json(config), ModelConfig, where="the model")  # each size by itself
        with _Budget(numbers + SPARE):
            return build_model(config)
    except UsageError as error:
        raise WeightsError(f"{where}: {error}", hint=error.hint) from None
    except UNFIT as error:
        raise WeightsError(f"{where}: no model has these sizes: {error}") from None


class _Budget(TorchFunctionMode):
    """Within it, no more numbers are taken than allowed. Raises: ValueError."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self._left = numbers

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function in TAKING and args:
            sides = args[0] if isinstance(args[0], Sequence) else args
            self._left -= math.prod(side for side in sides if isinstance(side, int))
            if self._left < 0:
                raise ValueError("the file has too few numbers for them")
        return function(*args, **(kwargs or {}))
