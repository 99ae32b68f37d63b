"""The IFC model: recorded outputs of the published code, and properties for any input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.recorded import formula_weights, in_our_names, published_shapes, recorded, recorded_json
from vistool.config import IFCConfig, PixelConfig, ResNetConfig
from vistool.errors import UsageError
from vistool.models import build_model
from vistool.models.checkpoints.files import load_exactly
from vistool.models.checkpoints.names import IFC_NAMES
from vistool.models.ifc import IFC

# The published code sums in another order. Its float32 differs from its float64 by up to 9e-5
# (small), 6.2e-4 (R50) and 1.4e-3 (R101); a tolerance of ten times that would be justified.
SMALL = 2e-4
FULL = {"full_r50_T5": 4e-3, "full_r101_T3": 8e-3}


def assert_recorded(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def small_ifc() -> IFC:
    """The recorded small model with its weights."""
    c = recorded_json("ifc/small_meta")["config"]
    model = IFC.from_config(
        IFCConfig(
            class_names=tuple(f"class{k}" for k in range(c["ncls"])),
            backbone=ResNetConfig(
                stem_channels=c["stem"],
                bottleneck_channels=c["planes"],
                stride_in_1x1=c["stride_in_1x1"],
            ),
            pixels=PixelConfig(mean=tuple(c["mean"]), std=tuple(c["std"]), channel_order=c["fmt"]),
            hidden_dim=c["hidden"],
            num_heads=c["nheads"],
            feedforward_dim=c["ffn"],
            encoder_layers=c["enc"],
            decoder_layers=c["dec"],
            num_memory_tokens=c["bus"],
            num_queries=c["Q"],
            clip_length=c["T"],
        )
    )
    state = in_our_names(recorded("ifc/small_weights"), IFC_NAMES)
    load_exactly(model, state, where="small_weights")
    return model.eval()


def normalised(frames: Tensor, config: dict[str, Any]) -> Tensor:
    """[T, 3, H, W] uint8, in the recording's channel order -> float."""
    mean, std = (torch.tensor(config[k]).view(3, 1, 1) for k in ("mean", "std"))
    return (frames.float() - mean) / std


def padded_batch(videos: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Videos [T, 3, H, W] of several sizes -> pixels [B, T, 3, H, W] and padding [B, T, H, W]."""
    height = max(v.shape[-2] for v in videos)
    width = max(v.shape[-1] for v in videos)
    pixels = torch.zeros(len(videos), len(videos[0]), 3, height, width)
    padded = torch.ones(len(videos), len(videos[0]), height, width, dtype=torch.bool)
    for b, video in enumerate(videos):
        pixels[b, ..., : video.shape[-2], : video.shape[-1]] = video
        padded[b, ..., : video.shape[-2], : video.shape[-1]] = False
    return pixels, padded


def small_training_batch() -> tuple[Tensor, Tensor]:
    forward = recorded("ifc/small_train_forward")
    config = recorded_json("ifc/small_meta")["config"]
    return padded_batch([normalised(forward[f"in.video{v}"], config) for v in (0, 1)])


@pytest.mark.parity
def test_small_ifc_gives_the_recorded_training_outputs_on_padded_videos() -> None:
    forward = recorded("ifc/small_train_forward")
    pixels, padded = small_training_batch()
    torch.testing.assert_close(pixels.flatten(0, 1), forward["inter.images"])
    with torch.no_grad():
        out = small_ifc()(pixels, padded, auxiliary=True)
    assert_recorded(out.class_logits, forward["out.pred_logits"], SMALL)
    assert_recorded(out.mask_logits, forward["out.pred_masks"], SMALL)
    aux = out.auxiliary[0]
    assert_recorded(aux.class_logits, forward["out.aux_0.pred_logits"], SMALL)
    assert_recorded(aux.mask_logits, forward["out.aux_0.pred_masks"], SMALL)


@pytest.mark.parity
@pytest.mark.parametrize("clip", [0, 1, 2])
def test_small_ifc_gives_the_recorded_outputs_for_any_clip_length(clip: int) -> None:
    case = recorded("ifc/small_clip_inference")
    config = recorded_json("ifc/small_meta")["config"]
    with torch.no_grad():
        out = small_ifc()(normalised(case[f"clip{clip}.in"], config)[None])
    assert out.auxiliary == ()
    assert_recorded(out.class_logits, case[f"clip{clip}.pred_logits"], SMALL)
    assert_recorded(out.mask_logits, case[f"clip{clip}.pred_masks"], SMALL)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "section", "backbone"),
    [
        ("full_r50_T5", "base_ytvis.yaml", ResNetConfig()),
        ("full_r101_T3", "R101_ytvis.yaml", ResNetConfig(depth=101, stride_in_1x1=True)),
    ],
)
def test_full_ifc_gives_the_recorded_outputs(
    name: str, section: str, backbone: ResNetConfig
) -> None:
    case, meta = recorded(f"ifc/{name}"), recorded_json(f"ifc/{name}_meta")
    config = meta["config"]
    model = build_model(
        IFCConfig(class_names=tuple(f"class{k}" for k in range(40)), backbone=backbone)
    )
    # The published count includes frozen parameters of the backbone, but no buffers of norms.
    assert sum(p.numel() for p in model.parameters()) == meta["params"]
    weights = formula_weights(published_shapes(section), config["seed"], config["stem_scale"])
    load_exactly(model, in_our_names(weights, IFC_NAMES), where=name)
    with torch.no_grad():
        out = model.eval()(normalised(case["in.clip"], config)[None])
    assert_recorded(out.class_logits, case["out.pred_logits"], FULL[name])
    assert_recorded(out.mask_logits, case["out.pred_masks"], FULL[name])


@pytest.mark.parametrize("width", [65, 0, 48])
def test_a_width_that_does_not_divide_is_refused_with_the_rule(width: int) -> None:
    config = IFCConfig(class_names=("cat",), hidden_dim=width)
    with pytest.raises(UsageError, match=f"hidden_dim {width}") as error:
        IFC.from_config(config)
    assert "256" in error.value.hint
