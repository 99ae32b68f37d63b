"""The models, and the weights that fit them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vistool.config import IFCConfig, VisTRConfig

if TYPE_CHECKING:
    from vistool.config import ModelConfig
    from vistool.models.ifc import IFC
    from vistool.models.vistr import VisTR


def build_model(config: ModelConfig) -> IFC | VisTR:
    """Build the model that a configuration describes, with random weights."""
    from vistool.models.ifc import IFC
    from vistool.models.vistr import VisTR

    match config:
        case IFCConfig():
            return IFC.from_config(config)
        case VisTRConfig():
            return VisTR.from_config(config)
