"""Half precision: both models predict nearly the masks of float32, also on real pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.recorded import FIXTURES, recorded_json
from tests.test_ifc import small_ifc
from tests.test_vistr import small_vistr
from vistool.engine.device import autocast
from vistool.models.checkpoints.files import load_model
from vistool.ops.pixels import input_size, normalise, resize
from vistool.structures import ClipOutput, FrameClipOutput, Size

CPU = torch.device("cpu")
WEIGHTS = Path(__file__).parents[1] / "weights"
DAVIS = Path(__file__).parents[2] / "shared" / "data" / "davis" / "val-dev"
VIDEOS = ("blackswan", "breakdance", "bmx-trees")


def clip_of(files: list[Path], model: Any, short_side: int) -> Tensor:
    """[1, T, 3, H, W], the model's clip length of pictures, normalised."""
    images = []
    for file in files[: model.config.clip_length]:
        image = cv2.imread(str(file))
        assert image is not None
        rgb = np.ascontiguousarray(image[..., ::-1])
        size = input_size(Size(*rgb.shape[:2]), short_side, None, model.config.pixels)
        images.append(resize(rgb, size))
    return normalise(torch.stack(images), model.config.pixels)[None]


def recorded_pictures() -> Iterator[list[Path]]:
    folder = FIXTURES / "vistr" / "inference_e2e" / "images"
    for video in recorded_json("vistr/inference_e2e/videos")["videos"]:
        yield [folder / name for name in video["file_names"]]


def real_pictures(video: str) -> list[Path]:
    if not (DAVIS / video).is_dir():
        pytest.skip(f"no real pictures: {DAVIS / video} is absent")
    return sorted((DAVIS / video).glob("*.jpg"))


def compared_queries(output: ClipOutput | FrameClipOutput) -> Tensor:
    """The queries whose masks are compared, [Q] bool; for VisTR all, as in its published code."""
    if isinstance(output, FrameClipOutput):
        return torch.ones(output.class_logits.shape[1], dtype=torch.bool)
    return output.class_logits[0].argmax(-1) < output.class_logits.shape[-1] - 1


@torch.no_grad()
def mask_iou(model: Any, clip: Tensor, dtype: torch.dtype = torch.bfloat16) -> float:
    """IoU of the masks of both precisions.

    Pixels are counted over all frames and summed over the instances predicted in float32.
    """
    exact = model(clip)
    with autocast(CPU, dtype):
        half = model(clip)
    kept = compared_queries(exact)
    assert kept.any()
    a, b = exact.mask_logits[0][kept] > 0, half.mask_logits[0][kept] > 0
    assert a.any()
    return ((a & b).sum() / (a | b).sum()).item()


@pytest.mark.parametrize("small", [small_ifc, small_vistr])
def test_bfloat16_gives_the_masks_of_float32_on_the_recorded_pictures(small: Any) -> None:
    model = small()
    for files in recorded_pictures():
        assert mask_iou(model, clip_of(files, model, 96)) >= 0.98


@pytest.mark.parametrize("video", VIDEOS)
@pytest.mark.parametrize("small", [small_ifc, small_vistr])
def test_bfloat16_gives_the_masks_of_float32_on_real_pictures(small: Any, video: str) -> None:
    model = small()
    assert mask_iou(model, clip_of(real_pictures(video), model, 96)) >= 0.98


@pytest.mark.parametrize("video", VIDEOS)
def test_the_shipped_model_predicts_the_same_in_bfloat16(video: str) -> None:
    file = WEIGHTS / "ifc-lite.safetensors"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    model = load_model(str(file)).model.eval()
    clip = clip_of(real_pictures(video), model, model.config.test_short_side)
    assert mask_iou(model, clip) >= 0.98


def test_heads_compute_in_half_precision_and_in_training_everything_does() -> None:
    model = small_vistr()
    seen: dict[str, torch.dtype] = {}
    for name in ("project", "class_head"):
        getattr(model, name).register_forward_hook(
            lambda _module, _given, result, name=name: seen.update({name: result.dtype})
        )
    pixels = torch.randn(1, 4, 3, 64, 64)
    with torch.no_grad(), autocast(CPU, torch.bfloat16):
        model(pixels)
        assert seen == {"project": torch.float32, "class_head": torch.bfloat16}
        model.train()(pixels)
        assert seen["project"] == torch.bfloat16
