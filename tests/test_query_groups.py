"""Groups of queries that are trained side by side; only the first is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.made_data import make_pictures
from tests.made_training import (
    TINY_VISTR,
    KilledError,
    assert_close_gradients,
    dies_at,
    losses,
    settings,
    without_dropout,
)
from tests.test_criterion import recorded_output, recorded_targets
from tests.test_ifc import small_ifc
from vistool.criterion.ifc_criterion import IFCCriterion
from vistool.engine.train.setup import started_with
from vistool.engine.train.train import train
from vistool.errors import UsageError
from vistool.structures import ClipOutput


def test_a_model_predicts_only_with_its_first_group() -> None:
    model = small_ifc()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    clips = torch.randn(2, 3, 3, 64, 64)
    with torch.no_grad():
        expected = model(clips)
        model.add_query_groups(3)
        torch.testing.assert_close(model(clips).mask_logits, expected.mask_logits)
        model.train()
        trained = model(clips)
    assert len(trained.class_logits) == len(trained.mask_logits) == 6
    # Other groups do not affect the first. The tolerance is for sums in another order, because a
    # batch has three times as many rows.
    for actual, one in (
        (trained.class_logits, expected.class_logits),
        (trained.mask_logits, expected.mask_logits),
    ):
        torch.testing.assert_close(actual[::3], one, rtol=1e-4, atol=2e-4)
    assert not torch.allclose(trained.class_logits[1::3], expected.class_logits, atol=1e-3)


@pytest.mark.parity
def test_the_terms_of_equal_groups_are_those_of_one_group() -> None:
    targets, output = recorded_targets(), recorded_output()
    expected = IFCCriterion()(output, targets)

    def twice(x: ClipOutput) -> ClipOutput:
        return ClipOutput(
            x.class_logits.repeat_interleave(2, 0),
            x.mask_logits.repeat_interleave(2, 0),
            tuple(map(twice, x.auxiliary)),
        )

    for name, value in IFCCriterion()(twice(output), targets).items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_accumulated_batches_of_groups_have_the_gradients_of_a_large_one(tmp_path: Path) -> None:
    make_pictures(tmp_path, 3)
    config = settings(tmp_path)
    common = {"steps": 1, "model": without_dropout(config.model), "query_groups": 2}
    train(settings(tmp_path, batch=6, **common), tmp_path / "large")
    train(settings(tmp_path, batch=2, accumulate=3, **common), tmp_path / "parts")
    assert_close_gradients(tmp_path / "parts", tmp_path / "large")


def test_spare_queries_are_resumed_and_not_released(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    config = settings(tmp_path, query_groups=3)
    weights = train(config, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(config, tmp_path / "broken", on_step=dies_at(5))
    train(started_with(tmp_path / "broken"), tmp_path / "broken")
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert not [key for key in load_file(weights) if "spare" in key]


def test_only_ifc_has_groups(tmp_path: Path) -> None:
    make_pictures(tmp_path, 1)
    config = settings(tmp_path, model=TINY_VISTR, clip_length=2, query_groups=2)
    with pytest.raises(UsageError, match="only IFC"):
        train(config, tmp_path / "run")
