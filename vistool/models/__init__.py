"""The models, and the weights that fit them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vistool.config import ModelConfig
    from vistool.models.ifc import IFC


def build_model(config: ModelConfig) -> IFC:
    """The model that a configuration describes, with fresh random weights."""
    from vistool.models.ifc import IFC

    return IFC.from_config(config)
