"""On a GPU, numbers equal the recorded ones and those of the CPU.

`VISTOOL_TEST_DEVICE=cpu pytest -m gpu` runs the same tests without one, to see that they run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.made_data import make_pictures, make_video
from tests.made_training import TINY_VISTR, losses, settings
from tests.recorded import recorded, recorded_json
from tests.test_criterion import recorded_output, recorded_targets
from tests.test_ifc import normalised, small_ifc
from tests.test_vistr import small_vistr, tiny_vistr
from tests.test_vistr_criterion import clips_to_train_on
from tests.untrained import save_untrained
from vistool.criterion.ifc_criterion import IFCCriterion
from vistool.criterion.vistr_criterion import VisTRCriterion
from vistool.engine.device import autocast
from vistool.engine.predict.video import predict
from vistool.engine.train.train import train
from vistool.formats.masks.rle import decode_mask
from vistool.formats.results.files import RESULTS, read_results
from vistool.models.checkpoints.files import load_model
from vistool.models.vistr import by_instance
from vistool.structures import ClipOutput, TrackSegmentation

DEVICE = torch.device(os.environ.get("VISTOOL_TEST_DEVICE", "cuda"))
CPU = torch.device("cpu")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA device"
    ),
]
# Sums are taken in another order than on the CPU; the recorded numbers' own float32 lies from
# their float64 up to 9e-5 (IFC).
IFC_ATOL, VISTR_ATOL = 5e-4, 1e-3


@pytest.fixture(autouse=True)
def _without_tf32() -> Iterator[None]:
    """Float32 with all its digits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def on(device: torch.device, value: Any) -> Any:
    """A dataclass of tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(on(device, item) for item in value)
    if value is None:
        return None
    return replace(value, **{f.name: on(device, getattr(value, f.name)) for f in fields(value)})


@pytest.mark.parity
def test_ifc_gives_the_recorded_outputs() -> None:
    case = recorded("ifc/small_clip_inference")
    pixels = normalised(case["clip1.in"], recorded_json("ifc/small_meta")["config"])[None]
    with torch.no_grad():
        out = small_ifc().to(DEVICE)(pixels.to(DEVICE))
    for found, name in ((out.class_logits, "pred_logits"), (out.mask_logits, "pred_masks")):
        torch.testing.assert_close(found.cpu(), case[f"clip1.{name}"], rtol=0, atol=IFC_ATOL)


@pytest.mark.parity
def test_vistr_gives_the_recorded_outputs() -> None:
    case = recorded("vistr/small_plain")
    with torch.no_grad():
        out = small_vistr().to(DEVICE)(case["in.clip"][None].to(DEVICE))
    names = {
        "pred_logits": out.class_logits,
        "pred_boxes": out.boxes,
        "pred_masks": out.mask_logits,
    }
    for name, found in names.items():
        expected = by_instance(case[f"out.{name}"], 4)
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=VISTR_ATOL)


@pytest.mark.parametrize("name", ["ifc-lite", "vistr-lite"])
def test_bfloat16_moves_few_pixels(name: str) -> None:
    """Backbone and transformer stay in float32, so that only heads round."""
    model = load_model(name).model.to(DEVICE)
    rng = torch.Generator().manual_seed(0)
    shape = (1, model.config.clip_length, 3, 96, 128)
    pixels = nn.functional.interpolate(
        torch.randn(shape[1], 3, 6, 8, generator=rng), shape[-2:], mode="bilinear"
    )[None].to(DEVICE)
    with torch.no_grad():
        exact = model(pixels).mask_logits > 0
        with autocast(DEVICE, torch.bfloat16):
            rounded = model(pixels).mask_logits > 0
    moved = (exact != rounded).float().mean().item()
    assert exact.any()
    assert moved < 0.01


def test_ifc_losses_and_their_gradients_are_the_cpus() -> None:
    results = []
    for device in (CPU, DEVICE):
        output: ClipOutput = on(device, recorded_output())
        mask_logits = output.mask_logits.detach().requires_grad_()
        output = replace(output, mask_logits=mask_logits)
        criterion = IFCCriterion()
        terms = criterion(output, [on(device, target) for target in recorded_targets()])
        criterion.total(terms).backward()
        assert mask_logits.grad is not None
        results.append(({k: v.detach().cpu() for k, v in terms.items()}, mask_logits.grad.cpu()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


def test_vistr_losses_are_the_cpus() -> None:
    pixels, targets = clips_to_train_on()
    results = []
    for device in (CPU, DEVICE):
        torch.manual_seed(0)
        model = tiny_vistr().to(device)
        with torch.no_grad():
            out = model(pixels.to(device), auxiliary=True)
            terms = VisTRCriterion()(out, [on(device, target) for target in targets])
        results.append({name: value.cpu() for name, value in terms.items()})
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", [None, TINY_VISTR], ids=["ifc", "vistr"])
def test_training_steps_lose_what_they_lose_on_the_cpu(
    tmp_path: Path, model: dict[str, Any] | None
) -> None:
    make_pictures(tmp_path, 4)
    changes: dict[str, Any] = {} if model is None else {"model": model, "clip_length": 2}
    for run, device in (("expected", CPU), ("found", DEVICE)):
        train(settings(tmp_path, steps=3, device=str(device), **changes), tmp_path / run)
    expected, found = losses(tmp_path / "expected"), losses(tmp_path / "found")
    assert [step for step, _ in found] == [1, 2, 3]
    assert [x for _, x in found] == pytest.approx([x for _, x in expected], rel=2e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_in_half_precision_goes_on(tmp_path: Path, precision: str) -> None:
    if DEVICE.type == "cpu" and precision == "fp16":
        pytest.skip("float16 trains on GPUs only")
    make_pictures(tmp_path, 4)
    config = settings(tmp_path, steps=3, device=str(DEVICE), precision=precision)
    train(config, tmp_path / "run")
    assert all(np.isfinite(loss) for _, loss in losses(tmp_path / "run"))


def test_predict_finds_what_it_finds_on_the_cpu(tmp_path: Path) -> None:
    make_video(tmp_path, 12)
    weights = save_untrained(tmp_path / "untrained.safetensors", ("a", "b"), num_queries=5)
    model = load_model(str(weights))
    found = []
    for place, device in enumerate((CPU, DEVICE)):
        found_by = predict(
            tmp_path / "v", model=model, conf=0.0, device=str(device), precision="fp32"
        )
        with found_by as video:
            video.save(tmp_path / str(place), overlay=False)
        found.append(list(read_results(tmp_path / str(place) / RESULTS)))
    expected, there = found
    assert expected
    for track in sorted(expected, key=lambda t: -t["score"])[:3]:
        same = max(there, key=lambda other: overlap(track, other))
        assert overlap(track, same) > 0.97
        assert same["score"] == pytest.approx(track["score"], abs=0.01)


def overlap(a: TrackSegmentation, b: TrackSegmentation) -> float:
    """IoU over space and time."""
    both = either = 0
    for one, other in zip(a["segmentations"], b["segmentations"], strict=True):
        masks = [np.zeros((1, 1), bool) if m is None else decode_mask(m) for m in (one, other)]
        both += int((masks[0] & masks[1]).sum())
        either += int((masks[0] | masks[1]).sum())
    return both / max(1, either)
