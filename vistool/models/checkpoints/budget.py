"""Build a model with sizes stated by a file, if it is not larger than the file's weights."""

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

# The functions with which layers allocate their tensors.
ALLOCATING = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
# The number of values that a model may have in addition to those of its file.
SPARE = 1 << 22
UNFIT = (ValueError, TypeError, AssertionError, RuntimeError, ArithmeticError, LookupError)


def build_within(config: ModelConfig, numbers: int, where: str) -> IFC | VisTR:
    """Build the model of a configuration from a file.

    Args: numbers: the number of values in the file.
    Raises: WeightsError that begins with `where` if the model needs many more values, or if its
        sizes are impossible.
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
    """A context that limits the number of allocated values. Raises: ValueError."""

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
        if function in ALLOCATING and args:
            sides = args[0] if isinstance(args[0], Sequence) else args
            self._left -= math.prod(side for side in sides if isinstance(side, int))
            if self._left < 0:
                raise ValueError("the file has too few numbers for them")
        return function(*args, **(kwargs or {}))
