"""The VisTR model: recorded outputs of the published code, and properties for any input."""

from __future__ import annotations

from functools import cache
from hashlib import sha256

import msgspec
import pytest
import torch
from torch import Tensor, nn

from tests.recorded import formula_weights, in_our_names, published_shapes, recorded, recorded_json
from vistool.config import EfficientNetLiteConfig, ResNetConfig, VisTRConfig
from vistool.errors import UsageError
from vistool.models import build_model
from vistool.models.checkpoints.files import load_exactly
from vistool.models.checkpoints.names import VISTR_NAMES
from vistool.models.vistr import VisTR, by_instance
from vistool.nn.transformer import EncoderLayer
from vistool.structures import FrameClipOutput

# About ten times the difference between float32 and float64 in the published code, which sums in
# another order: class logits, boxes, mask logits.
SMALL = (3e-4, 5e-5, 1.3e-4)
FULL = {"full_r50_T36": (5e-4, 6e-5, 3e-4), "full_r101_T4": (2e-3, 2e-4, 4e-4)}

TINY = VisTRConfig(
    class_names=("a", "b"),
    backbone=ResNetConfig(stem_channels=4, bottleneck_channels=4, blocks=(1, 1, 1, 1)),
    hidden_dim=48,
    num_heads=4,
    feedforward_dim=16,
    encoder_layers=1,
    decoder_layers=2,
    num_queries=3,
    clip_length=3,
)


def assert_recorded(actual: Tensor, expected: Tensor, atol: float = SMALL[0]) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def small_config() -> VisTRConfig:
    c = recorded_json("vistr/small_meta")["config"]
    return VisTRConfig(
        class_names=tuple(f"class{k}" for k in range(c["num_classes"])),
        backbone=ResNetConfig(
            stem_channels=c["stem"], bottleneck_channels=c["planes"], blocks=tuple(c["layers"])
        ),
        hidden_dim=c["hidden_dim"],
        num_heads=c["nheads"],
        feedforward_dim=c["dim_feedforward"],
        encoder_layers=c["enc_layers"],
        decoder_layers=c["dec_layers"],
        pre_norm=c["pre_norm"],
        num_queries=c["num_queries"] // c["num_frames"],
        clip_length=c["num_frames"],
    )


@cache
def small_weights() -> dict[str, Tensor]:
    """Weights computed by a formula, under their published names; float16 as in the recording."""
    shapes = {key: tuple(shape) for key, shape in recorded_json("vistr/small_shapes").items()}
    seed = recorded_json("vistr/small_meta")["config"]["seed"]
    return {key: value.half() for key, value in formula_weights(shapes, seed).items()}


def small_vistr() -> VisTR:
    """The recorded small model with its weights."""
    model = VisTR.from_config(small_config())
    load_exactly(model, in_our_names(small_weights(), VISTR_NAMES), where="small_weights")
    return model.eval()


def tiny_vistr(**changes: object) -> VisTR:
    torch.manual_seed(0)
    model = VisTR.from_config(msgspec.structs.replace(TINY, **changes))
    nn.init.normal_(model.mask_head.offset.weight, std=0.3)  # otherwise the offsets would be 0
    return model.eval()


def assert_equal_outputs(actual: FrameClipOutput, expected: FrameClipOutput) -> None:
    for name in ("class_logits", "boxes", "mask_logits"):
        found, wanted = getattr(actual, name), getattr(expected, name)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parity
def test_weights_by_formula_are_the_recorded_ones() -> None:
    ours = {key: sha256(value.numpy().tobytes()) for key, value in small_weights().items()}
    digests = {key: value.hexdigest() for key, value in ours.items()}
    assert digests == recorded_json("vistr/small_weights_sha256")


@pytest.mark.parity
def test_small_vistr_gives_the_recorded_outputs_and_intermediate_values() -> None:
    case = recorded("vistr/small_plain")
    model, seen = small_vistr(), {}

    def keep(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _module, _given, result: seen.update({name: result}))

    for name in ("backbone", "encoder_norm", "decoder", "attention_maps", "mask_head"):
        keep(name, getattr(model, name))
    keep("offset", model.mask_head.offset)
    with torch.no_grad():
        out = model(case["in.clip"][None], auxiliary=True)
    for level in range(4):
        assert_recorded(seen["backbone"][level], case[f"inter.feat_{level}"])
    position = model._positions(torch.zeros(1, 4, 384, 3, 4), None)
    expected = case["inter.pos_last"].permute(0, 1, 3, 4, 2).flatten(1, 3)
    assert_recorded(position, expected, 1e-5)
    memory = case["inter.memory"].flatten(2).transpose(1, 2)
    assert_recorded(seen["encoder_norm"], memory)
    for layer, queries in enumerate(seen["decoder"]):
        assert_recorded(queries, case["inter.hs"][layer])
    # Hooks keep the outputs of the last frame.
    assert_recorded(seen["attention_maps"], case["inter.bbox_attention_frame_last"], 1e-5)
    assert_recorded(seen["offset"], case["inter.dcn_offset_frame_last"])
    assert_recorded(seen["mask_head"], case["inter.mask_feature_frame_last"])
    assert_recorded(out.class_logits, by_instance(case["out.pred_logits"], 4))
    assert_recorded(out.boxes, by_instance(case["out.pred_boxes"], 4), SMALL[1])
    assert_recorded(out.mask_logits, by_instance(case["out.pred_masks"], 4), SMALL[2])
    aux = out.auxiliary[0]
    assert_recorded(aux.class_logits, by_instance(case["out.aux_0.pred_logits"], 4))
    assert_recorded(aux.boxes, by_instance(case["out.aux_0.pred_boxes"], 4), SMALL[1])


@pytest.mark.parity
def test_small_vistr_gives_the_recorded_outputs_on_padded_frames() -> None:
    case = recorded("vistr/small_padded")
    with torch.no_grad():
        out = small_vistr()(case["in.clip"][None], case["in.mask"].bool()[None])
    assert_recorded(out.class_logits, by_instance(case["out.pred_logits"], 4))
    assert_recorded(out.boxes, by_instance(case["out.pred_boxes"], 4), SMALL[1])
    assert_recorded(out.mask_logits, by_instance(case["out.pred_masks"], 4), SMALL[2])


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "section"), [("full_r101_T4", "resnet101"), ("full_r50_T36", "resnet50")]
)
def test_full_vistr_gives_the_recorded_outputs(name: str, section: str) -> None:
    case, meta = recorded(f"vistr/{name}"), recorded_json(f"vistr/{name}_meta")
    num_frames = meta["config"]["num_frames"]
    model = build_model(
        VisTRConfig(
            class_names=tuple(f"class{k}" for k in range(41)),
            backbone=ResNetConfig(depth=101 if section == "resnet101" else 50),
            clip_length=num_frames,
        )
    )
    assert sum(p.numel() for p in model.parameters()) == meta["params"]
    shapes = published_shapes(section, "vistr")
    shapes["vistr.query_embed.weight"] = (meta["config"]["num_queries"], 384)
    weights = formula_weights(shapes, meta["config"]["seed"])
    load_exactly(model, in_our_names(weights, VISTR_NAMES), where=name)
    with torch.no_grad():
        out = model.eval()(case["in.clip"].float()[None], auxiliary=True)
    layers = {"out": out, **{f"out.aux_{i}": aux for i, aux in enumerate(out.auxiliary)}}
    assert len(layers) == 6
    for prefix, heads in layers.items():
        logits, boxes = case[f"{prefix}.pred_logits"], case[f"{prefix}.pred_boxes"]
        assert_recorded(heads.class_logits, by_instance(logits, num_frames), FULL[name][0])
        assert_recorded(heads.boxes, by_instance(boxes, num_frames), FULL[name][1])
    assert_recorded(out.mask_logits, by_instance(case["out.pred_masks"], num_frames), FULL[name][2])


@torch.no_grad()
def test_a_batch_of_clips_is_the_clips_one_by_one() -> None:
    model = tiny_vistr()
    pixels = torch.randn(2, 3, 3, 70, 90)
    padded = torch.zeros(2, 3, 70, 90, dtype=torch.bool)
    padded[1, :, 40:], padded[1, :, :, 60:] = True, True
    both = model(pixels, padded)
    for clip in (0, 1):
        alone = model(pixels[clip : clip + 1], padded[clip : clip + 1])
        one = FrameClipOutput(
            *(x[clip : clip + 1] for x in (both.class_logits, both.boxes, both.mask_logits))
        )
        assert_equal_outputs(one, alone)


@torch.no_grad()
def test_frames_encoded_one_by_one_are_the_clip() -> None:
    from vistool.ops.features import concatenate_features

    model, pixels = tiny_vistr(), torch.randn(3, 3, 64, 96)
    parts = [model.encode_frames(pixels[t : t + 1]) for t in range(3)]
    assert_equal_outputs(model.decode_clips(concatenate_features(parts), 3), model(pixels[None]))


@torch.no_grad()
def test_a_short_clip_is_repeated_from_its_first_frame_on() -> None:
    model, pixels = tiny_vistr(clip_length=5), torch.randn(1, 2, 3, 64, 96)
    assert_equal_outputs(model(pixels), model(pixels[:, [0, 1, 0, 1, 0]]))


def test_a_clip_longer_than_the_weights_is_refused() -> None:
    with pytest.raises(UsageError, match="4 frames, but these weights are for 3"):
        tiny_vistr()(torch.randn(1, 4, 3, 64, 64))


@torch.no_grad()
def test_padding_changes_nothing_that_it_does_not_cover() -> None:
    model = tiny_vistr()
    padded = torch.zeros(1, 3, 96, 128, dtype=torch.bool)
    padded[..., 64:, :] = True
    pixels = torch.randn(1, 3, 3, 96, 128)
    features = model.encode_frames(pixels[0], padded[0])
    changed = model.encode_frames(pixels[0], padded[0])
    changed.top[..., 2:, :] += 5.0  # the content of the padding, at the input of the transformer
    before, after = model.decode_clips(features, 3), model.decode_clips(changed, 3)
    torch.testing.assert_close(after.class_logits, before.class_logits)
    torch.testing.assert_close(after.boxes, before.boxes)


@torch.no_grad()
@pytest.mark.parametrize(
    ("changes", "height"),
    [
        ({"backbone": EfficientNetLiteConfig()}, 2),
        ({"backbone": msgspec.structs.replace(TINY.backbone, dilate_last=True)}, 4),
        ({"hidden_dim": 96, "num_heads": 8, "pre_norm": True}, 2),
    ],
)
def test_other_widths_and_backbones_work(changes: dict[str, object], height: int) -> None:
    model = tiny_vistr(**changes)
    features = model.encode_frames(torch.randn(3, 3, 64, 96))
    assert features.top.shape[-2] == height
    out = model.decode_clips(features, 3)
    assert out.class_logits.shape == (1, 3, 3, 3)
    assert out.boxes.shape == (1, 3, 3, 4)
    assert out.mask_logits.shape == (1, 3, 3, 16, 24)
    assert out.mask_logits.isfinite().all()
    assert out.mask_logits.std() > 0


@pytest.mark.parametrize("width", [256, 100, 0])
def test_a_width_that_does_not_divide_is_refused_with_the_rule(width: int) -> None:
    with pytest.raises(UsageError, match=f"hidden_dim {width}") as error:
        VisTR.from_config(msgspec.structs.replace(TINY, hidden_dim=width))
    assert "384" in error.value.hint


def test_every_parameter_of_a_new_model_has_a_gradient_except_the_frozen_ones() -> None:
    model = VisTR.from_config(TINY)
    model.backbone.freeze_first(1)
    out = model(torch.randn(2, 3, 3, 64, 64), auxiliary=True)
    aux = out.auxiliary[0]
    parts = (out.class_logits, out.boxes, out.mask_logits, aux.class_logits, aux.boxes)
    torch.stack([x.square().mean() for x in parts]).sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    frozen = ("backbone.stem_conv.", "backbone.stages.0.")
    assert without == {n for n, _ in model.named_parameters() if n.startswith(frozen)}


@torch.no_grad()
def test_a_layer_with_pre_norm_is_torch_s_own() -> None:
    torch.manual_seed(0)
    ours = EncoderLayer(8, 2, 16, 0.1, pre_norm=True).eval()
    theirs = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    state = {
        "self_attn.": ours.self_attention.attend.state_dict(),
        "norm1.": ours.self_attention.norm.state_dict(),
        "norm2.": ours.feedforward.norm.state_dict(),
        "linear1.": ours.feedforward.linear1.state_dict(),
        "linear2.": ours.feedforward.linear2.state_dict(),
    }
    theirs.load_state_dict({k + n: v for k, part in state.items() for n, v in part.items()})
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(ours(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)
