"""`vistool bench`: what it counts, against sums by hand, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tests.untrained import save_untrained
from vistool.cli.app import app
from vistool.config import EfficientNetLiteConfig, PredictConfig
from vistool.engine.bench import bench, operations
from vistool.errors import UsageError
from vistool.models.backbone import build_backbone
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


def test_the_light_backbone_has_the_operations_it_is_known_for() -> None:
    """407 M of EfficientNet-Lite0 at 224x224, without the classifier's 1x1 layer and matrix."""
    backbone = build_backbone(EfficientNetLiteConfig()).eval()
    classifier = 320 * 1280 * 7 * 7 + 1280 * 1000
    counted = operations(lambda: backbone(torch.zeros(1, 3, 224, 224)))
    # Whether the published figure counts normalisations as well is not said: 3 % for that.
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
    expected = report.encode_operations + report.decode_operations / 2
    assert report.operations_per_frame == pytest.approx(expected, abs=1)


def test_the_answer_in_words_and_as_json(model: Path) -> None:
    options = ["bench", "-m", str(model), "--video", "160x96", "--seconds", "0.05", "-q"]
    words = runner.invoke(app, options)
    assert words.exit_code == 0, words.output
    assert "160x96, seen as 107x64" in words.stdout
    facts = json.loads(runner.invoke(app, [*options, "--json"]).stdout)
    assert facts["parameters"] > 10_000
    assert f"{facts['parameters'] / 1e6:.2f} M parameters" in words.stdout
    assert facts["frame"] == [96, 160]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--video", "big"], "--video big: not of the form WIDTHxHEIGHT"),
        (["--seconds", "0"], "0 seconds of 1280x720"),
        (["--clip-length", "all"], "clip length all: there is no video"),
        (["--clip-length", "2", "--clip-stride", "3"], "clip stride 3"),
    ],
)
def test_what_cannot_be_measured_is_refused(model: Path, options: list[str], told: str) -> None:
    result = runner.invoke(app, ["bench", "-m", str(model), *options])
    assert result.exit_code == UsageError.exit_code
    assert told in result.stderr
