"""`vistool bench`: operations compared with sums by hand, and the printed report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from typer.testing import CliRunner

from tests.test_vistr import tiny_vistr
from tests.untrained import save_untrained
from vistool.cli.app import app
from vistool.config import EfficientNetLiteConfig, PredictConfig
from vistool.engine.bench import bench, operations
from vistool.errors import UsageError
from vistool.models.backbone import build_backbone
from vistool.models.checkpoints.files import save_model
from vistool.models.vistr import MaskHead
from vistool.nn.transformer import Attention
from vistool.structures import Size

runner = CliRunner()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("model") / "m.safetensors", ("a", "b"), 4)


def test_operations_of_a_convolution_are_its_products() -> None:
    layer = nn.Conv2d(6, 10, 3, stride=2, padding=1, groups=2)
    assert operations(lambda: layer(torch.zeros(2, 6, 9, 14))) == 2 * 10 * 5 * 7 * (3 * 3 * 3)


def test_operations_of_attention_are_its_projections_and_both_products() -> None:
    queries, keys, dim = 5, 7, 12
    layer = Attention(dim, 3, 0.0).eval()
    counted = operations(lambda: layer(torch.zeros(1, queries, dim), torch.zeros(1, keys, dim)))
    projections = (2 * queries + 2 * keys) * dim * dim
    assert counted == projections + 2 * queries * keys * dim


def test_self_attention_is_counted_although_torch_fuses_it() -> None:
    tokens, dim = 6, 12
    layer = Attention(dim, 4, 0.0).eval()
    counted = operations(lambda: layer(torch.zeros(1, tokens, dim)))
    assert counted == 4 * tokens * dim * dim + 2 * tokens * tokens * dim


def test_the_light_backbone_has_the_published_operations() -> None:
    """EfficientNet-Lite0 has 407 M at 224x224, here without the classifier's two layers."""
    backbone = build_backbone(EfficientNetLiteConfig()).eval()
    classifier = 320 * 1280 * 7 * 7 + 1280 * 1000
    counted = operations(lambda: backbone(torch.zeros(1, 3, 224, 224)))
    # The published number may or may not include normalisations: 3 % tolerance for that.
    assert counted + classifier == pytest.approx(407e6, rel=0.03)


def test_a_frame_costs_its_features_and_its_share_of_the_clips(model: Path) -> None:
    report = bench(
        str(model),
        PredictConfig(clip_length=6, clip_stride=2, size=64),
        frame=Size(96, 160),
        seconds=0.05,
    )
    assert (report.clip_length, report.clip_stride) == (6, 2)
    assert report.seen == Size(64, 107)
    assert report.frames >= 6
    assert report.frames_per_second > 0
    alone = bench(
        str(model),
        PredictConfig(clip_length=6, clip_stride=6, size=64),
        frame=report.frame,
        seconds=0.01,
    )
    clips = report.operations_per_frame - alone.operations_per_frame  # 1/2 - 1/6 of one
    assert clips == pytest.approx(alone.decode_operations / 3, rel=1e-3)


def test_the_report_as_text_and_as_json(model: Path) -> None:
    options = ["bench", "-m", str(model), "--video", "160x96", "--seconds", "0.05", "-q"]
    words = runner.invoke(app, options)
    assert words.exit_code == 0, words.output
    assert "160x96, input 107x64" in words.stdout
    facts = json.loads(runner.invoke(app, [*options, "--json"]).stdout)
    assert facts["parameters"] > 10_000
    assert f"{facts['parameters'] / 1e6:.2f} M parameters" in words.stdout
    assert facts["frame"] == {"width": 160, "height": 96}


def test_vistr_is_measured_with_all_its_masks(tmp_path: Path) -> None:
    """With mask-aware scoring, `predict` would compute only likely masks: none, on noise."""
    model = tiny_vistr(scoring="mask-aware")
    with torch.no_grad():
        model.class_head.bias[-1] += 50.0
    save_model(model, tmp_path / "m.safetensors", {})
    seen: list[int] = []
    handle = register_module_forward_hook(
        lambda module, _given, result: (
            seen.append(len(result)) if isinstance(module, MaskHead) else None
        )
    )
    try:
        bench(str(tmp_path / "m.safetensors"), PredictConfig(), frame=Size(40, 56), seconds=0.02)
    finally:
        handle.remove()
    assert set(seen) == {model.config.num_queries}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--video", "big"], "--video big: not of the form WIDTHxHEIGHT"),
        (["--seconds", "0"], "0 seconds of 1280x720"),
        (["--seconds", "nan"], "nan seconds"),
        (["--seconds", "inf"], "inf seconds"),
        (["--batch", "-1"], "batch -1: must be at least 1"),
        (["--size", "0"], "size 0: must be at least 1"),
        (["--clip-length", "all"], "clip length all: there is no video"),
        (["--clip-length", "2", "--clip-stride", "3"], "clip stride 3"),
    ],
)
def test_what_cannot_be_measured_is_refused(model: Path, options: list[str], message: str) -> None:
    result = runner.invoke(app, ["bench", "-m", str(model), *options])
    assert result.exit_code == UsageError.exit_code
    assert message in result.stderr
