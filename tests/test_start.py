"""Initialisation from weights that were trained for clips of another length."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from tests.test_vistr import TINY
from vistool.models import build_model
from vistool.models.checkpoints.files import save_model
from vistool.models.checkpoints.start import load_start
from vistool.models.vistr import VisTR, by_instance


def vistr(clip_length: int) -> VisTR:
    model = build_model(msgspec.structs.replace(TINY, clip_length=clip_length))
    assert isinstance(model, VisTR)
    return model.eval()


def started(tmp_path: Path, given: VisTR, clip_length: int) -> VisTR:
    file = tmp_path / "given.safetensors"
    save_model(given, file, {})
    model = vistr(clip_length)
    assert load_start(model, model.config, str(file)) == []
    return model.eval()


def queries_of(model: VisTR) -> Tensor:
    """[Q, T, C]"""
    return by_instance(model.queries.weight.detach()[None], model.clip_length)[0]


def test_queries_are_interpolated_for_longer_and_shorter_clips(tmp_path: Path) -> None:
    given = vistr(3)
    before = queries_of(given)
    longer = queries_of(started(tmp_path, given, 5))
    torch.testing.assert_close(longer[:, ::2], before)
    torch.testing.assert_close(longer[:, 1], (before[:, 0] + before[:, 1]) / 2)
    shorter = queries_of(started(tmp_path, given, 2))
    torch.testing.assert_close(shorter, before[:, [0, 2]])


def kernels_over_time(model: VisTR) -> list[Tensor]:
    """[C', C, 3, 3, 3] each, frames first."""
    weights = (w for w in model.instance_head.parameters() if w.ndim == 5)
    return [w.detach() for w in weights if w.shape[2] == 3]


def test_untrained_kernels_for_other_frames_start_from_zero(tmp_path: Path) -> None:
    """They read the second frame before and after, which clips of two frames do not have."""
    for clip_length in (1, 2, 3):
        given = vistr(clip_length)
        kernels = kernels_over_time(started(tmp_path, given, 5))
        assert len(kernels) == 3
        for kernel, before in zip(kernels, kernels_over_time(given), strict=True):
            torch.testing.assert_close(kernel[:, :, 1], before[:, :, 1])
            if clip_length < 3:
                assert not kernel[:, :, [0, 2]].any()
            else:
                torch.testing.assert_close(kernel, before)


@pytest.mark.parametrize("clip_length", [1, 4])
def test_the_same_length_changes_nothing(tmp_path: Path, clip_length: int) -> None:
    given = vistr(clip_length)
    same = started(tmp_path, given, clip_length).state_dict()
    for key, value in given.state_dict().items():
        torch.testing.assert_close(same[key], value)
