"""The weight file of a small untrained model, for tests in which quality does not matter."""

from __future__ import annotations

from pathlib import Path

import torch

from vistool.config import IFCConfig, ResNetConfig
from vistool.models import build_model
from vistool.models.checkpoints.files import save_model


def save_untrained(path: Path, class_names: tuple[str, ...], num_queries: int) -> Path:
    """Write the weight file, always with the same weights."""
    torch.manual_seed(0)
    config = IFCConfig(
        class_names=class_names,
        backbone=ResNetConfig(stem_channels=8, bottleneck_channels=8),
        hidden_dim=32,
        num_heads=4,
        feedforward_dim=64,
        encoder_layers=1,
        decoder_layers=1,
        num_queries=num_queries,
        test_short_side=64,
    )
    save_model(build_model(config), path, {})
    return path
