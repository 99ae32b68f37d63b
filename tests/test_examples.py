"""Every script in examples/ runs, on a made-up video and an untrained model."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ShapesVideo
from vistool.config import IFCConfig, ResNetConfig
from vistool.models import build_model
from vistool.models.weights import save_model

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_is_short(
    script: Path,
    tmp_path: Path,
    shapes_video: ShapesVideo,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    config = IFCConfig(
        class_names=("square", "disc"),
        backbone=ResNetConfig(stem_channels=8, bottleneck_channels=8),
        hidden_dim=32,
        num_heads=4,
        feedforward_dim=64,
        encoder_layers=1,
        decoder_layers=1,
        num_queries=6,
        test_short_side=64,
    )
    weights = tmp_path / "random.safetensors"
    save_model(build_model(config), weights, {})
    video = tmp_path / "shapes.mp4"
    video.write_bytes(shapes_video.path.read_bytes())
    monkeypatch.setattr(sys, "argv", [str(script), str(video), str(weights)])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert len(script.read_text().splitlines()) <= 40
