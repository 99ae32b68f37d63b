"""Published checkpoints: recognised, renamed, and every key reported."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner, Result

from tests.recorded import published_shapes, recorded, recorded_json
from tests.test_ifc import normalised
from tests.test_vistr import small_weights as small_vistr_weights
from vistool.cli.app import app
from vistool.config import IFCConfig, ResNetConfig, VisTRConfig
from vistool.errors import WeightsError
from vistool.formats.files import sha256_of
from vistool.models import build_model
from vistool.models.checkpoints.files import load_model, read_header
from vistool.models.checkpoints.importing import ImportedModel, import_checkpoint, save_imported
from vistool.models.checkpoints.presets import preset
from vistool.models.checkpoints.start import load_start
from vistool.nn.frozen_norm import FrozenBatchNorm2d

Shapes = Mapping[str, tuple[int, ...]]
runner = CliRunner()

R50_VISTR, R101_VISTR = (
    f"resnet{depth} masks=True num_frames=36 num_queries=360:" for depth in (50, 101)
)


def constant(key: str) -> float:
    """A number that differs between keys."""
    return zlib.crc32(key.encode()) / 2**32


def tensors_of(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors of full shape, one repeated number each, which take four bytes in a file."""
    return {key: torch.tensor(constant(key)).expand(shape) for key, shape in shapes.items()}


def ifc_file(path: Path, section: str = "base_ytvis.yaml", without: str = r"$^") -> Path:
    """A checkpoint in detectron2's format."""
    shapes = {k: s for k, s in published_shapes(section).items() if not re.search(without, k)}
    torch.save({"model": tensors_of(shapes), "iteration": 5999, "optimizer": {"state": {}}}, path)
    return path


def vistr_file(path: Path, section: str = R50_VISTR, change: Shapes | None = None) -> Path:
    """A checkpoint of VisTR's training: legacy format, with its command line."""
    settings = argparse.Namespace(lr=1e-4, backbone="resnet50", num_frames=36, masks=True)
    shapes = {**published_shapes(section, "vistr"), **(change or {})}
    content = {"model": OrderedDict(tensors_of(shapes)), "epoch": 17, "args": settings}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def detr_shapes() -> dict[str, tuple[int, ...]]:
    """DETR for COCO with VisTR's width: VisTR's tensors, with a smaller end of the mask head."""
    shapes = {
        key: shape
        for key, shape in published_shapes(R50_VISTR, "vistr").items()
        if not re.match(r"insmask_head|mask_head\.(dcn|conv_offset)", key)
    }
    shapes |= {"vistr.class_embed.weight": (92, 384), "vistr.class_embed.bias": (92,)}
    shapes |= {"vistr.query_embed.weight": (100, 384)}
    shapes |= {"mask_head.lay5.weight": (24, 48, 3, 3), "mask_head.lay5.bias": (24,)}
    shapes |= {"mask_head.out_lay.weight": (1, 24, 3, 3), "mask_head.out_lay.bias": (1,)}
    return shapes


def detectron2_resnet_shapes() -> dict[str, tuple[int, ...]]:
    prefix = "detr.backbone.0.backbone."
    shapes = published_shapes("base_ytvis.yaml")
    return {k.removeprefix(prefix): s for k, s in shapes.items() if k.startswith(prefix)}


def caffe2_resnet_shapes() -> dict[str, tuple[int, ...]]:
    """The same backbone in Caffe2's format, read by detectron2: norms are a scale and a shift."""
    shapes = {"fc1000_w": (1000, 2048), "fc1000_b": (1000,)}
    branches = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}
    ends = {"weight": "w", "norm.weight": "bn_s", "norm.bias": "bn_b"}
    for key, shape in detectron2_resnet_shapes().items():
        part, _, end = key.partition("conv1." if key.startswith("stem") else "\0")
        if part == "stem.":
            name = {"weight": "conv1_w"}.get(end) or f"res_conv1_{ends.get(end)}"
        else:
            stage, block, conv, end = key.split(".", 3)
            name = f"{stage}_{block}_branch{branches[conv]}_{ends.get(end)}"
        if end in ends:
            shapes[name] = shape
    return shapes


def torchvision_resnet_shapes(section: str = R50_VISTR) -> dict[str, tuple[int, ...]]:
    prefix = "vistr.backbone.0.body."
    shapes = {
        k.removeprefix(prefix): s
        for k, s in published_shapes(section, "vistr").items()
        if k.startswith(prefix)
    }
    return {**shapes, "bn1.num_batches_tracked": (), "fc.weight": (1000, 2048), "fc.bias": (1000,)}


def arrays_of(shapes: Shapes) -> dict[str, np.ndarray]:
    return {key: np.full(shape, constant(key), np.float32) for key, shape in shapes.items()}


def assert_every_tensor_is_the_one_meant(imported: ImportedModel) -> None:
    """No two tensors were exchanged, and all tensors of the model were filled."""
    named = {k.ours: k.published for k in imported.report.of("taken", "renamed") if k.published}
    assert named
    for ours, published in named.items():
        assert imported.state[ours].flatten()[0].item() == pytest.approx(constant(published))
    assert len(set(named.values())) == len(named)


def run(*words: object) -> Result:
    return runner.invoke(app, ["weights", "import", *map(str, words)])


# ---- whole models


IFC_SECTIONS = {
    "ifc-r50": "base_ytvis.yaml",
    "ifc-r101": "R101_ytvis.yaml",
    "ifc-r50-coco": "base_coco.yaml",
    "ifc-r101-coco": "R101_coco.yaml",
}


@pytest.mark.parametrize("name", IFC_SECTIONS)
def test_published_ifc_checkpoints_are_recognised_and_complete(name: str, tmp_path: Path) -> None:
    file = ifc_file(tmp_path / "model_final.pth", IFC_SECTIONS[name])
    imported = import_checkpoint(file)
    assert imported.config == preset(name)
    assert imported.report.recognised == f"IFC; {name}"
    left_out = imported.report.of("left out")
    assert [key.published for key in left_out] == ["criterion.empty_weight"]
    assert set(imported.report.count()) == {"renamed", "left out"}
    assert_every_tensor_is_the_one_meant(imported)


@pytest.mark.parametrize(
    ("name", "section"), [("vistr-r50", R50_VISTR), ("vistr-r101", R101_VISTR)]
)
def test_published_vistr_checkpoints_are_recognised_and_complete(
    name: str, section: str, tmp_path: Path
) -> None:
    imported = import_checkpoint(vistr_file(tmp_path / "vistr.pth", section))
    assert imported.config == preset(name)
    assert imported.report.recognised == f"VisTR; {name}"
    assert set(imported.report.count()) == {"renamed"}
    assert_every_tensor_is_the_one_meant(imported)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*IFC_SECTIONS, "vistr-r50", "vistr-r101"])
def test_an_imported_checkpoint_loads_as_it_is(name: str, tmp_path: Path) -> None:
    if name in IFC_SECTIONS:
        file = ifc_file(tmp_path / "m.pth", IFC_SECTIONS[name])
    else:
        file = vistr_file(tmp_path / "m.pth", R101_VISTR if "101" in name else R50_VISTR)
    imported = import_checkpoint(file)
    save_imported(imported, tmp_path / "m.safetensors")
    loaded = load_model(str(tmp_path / "m.safetensors"))
    assert loaded.header.config == preset(name)
    assert loaded.header.metadata["source_sha256"] == sha256_of(file)
    for key, value in loaded.model.state_dict().items():
        torch.testing.assert_close(value, imported.state[key], rtol=0, atol=0)


def as_pth(state: dict[str, Tensor], path: Path) -> None:
    torch.save({"model": state}, path)


def as_wrapped_pth(state: dict[str, Tensor], path: Path) -> None:
    torch.save({f"module.{key}": value for key, value in state.items()}, path)


def as_pth_of_arrays(state: dict[str, Tensor], path: Path) -> None:
    torch.save({"model": {key: value.numpy() for key, value in state.items()}}, path)


def as_pkl(state: dict[str, Tensor], path: Path) -> None:
    arrays = {key: value.numpy() for key, value in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}, protocol=2))


@pytest.mark.parity
@pytest.mark.parametrize("write", [as_pth, as_wrapped_pth, as_pth_of_arrays, as_pkl])
def test_an_imported_ifc_gives_the_recorded_outputs(
    write: Callable[[dict[str, Tensor], Path], None], tmp_path: Path
) -> None:
    write(recorded("ifc/small_weights"), tmp_path / "small.pth")
    result = run(tmp_path / "small.pth")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "small.safetensors")
    loaded = load_model(result.stdout.strip())
    assert isinstance(loaded.header.config, IFCConfig)
    assert loaded.header.config.class_names == tuple(f"class {k}" for k in range(1, 8))
    case, config = recorded("ifc/small_clip_inference"), recorded_json("ifc/small_meta")["config"]
    with torch.no_grad():
        out = loaded.model(normalised(case["clip0.in"], config)[None])
    # The tolerances of the direct comparison in test_ifc.
    torch.testing.assert_close(out.class_logits, case["clip0.pred_logits"], rtol=1e-3, atol=2e-4)
    torch.testing.assert_close(out.mask_logits, case["clip0.pred_masks"], rtol=1e-3, atol=2e-4)


def test_an_imported_model_predicts_without_any_other_option(tmp_path: Path) -> None:
    as_pth(recorded("ifc/small_weights"), tmp_path / "small.pth")
    assert run(tmp_path / "small.pth").exit_code == 0
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(3):
        picture = np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(frames / f"{i}.png"), picture)
    words = ["predict", "-m", tmp_path / "small.safetensors", frames, "-o", tmp_path / "out"]
    result = runner.invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    results = json.loads((tmp_path / "out" / "frames" / "results.json").read_text())
    assert all(1 <= track["category_id"] <= 7 for track in results)


def test_a_pre_norm_ifc_is_refused(tmp_path: Path) -> None:
    state = {
        **recorded("ifc/small_weights"),
        "detr.transformer.encoder.norm.weight": torch.ones(64),
    }
    as_pth(state, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match="pre_norm"):
        import_checkpoint(tmp_path / "m.pth")


def test_a_model_of_other_sizes_is_described_by_its_differences(tmp_path: Path) -> None:
    as_pth(recorded("ifc/small_weights"), tmp_path / "m.pth")
    recognised = import_checkpoint(tmp_path / "m.pth").report.recognised
    assert recognised == (
        "IFC; 7 classes, backbone stem_channels 16, backbone bottleneck_channels 8, hidden_dim 64, "
        "feedforward_dim 96, encoder_layers 2, decoder_layers 2, num_memory_tokens 4, "
        "num_queries 12"
    )


def test_a_small_vistr_is_measured_by_its_shapes(tmp_path: Path) -> None:
    torch.save({"model": small_vistr_weights()}, tmp_path / "small.pth")
    imported = import_checkpoint(tmp_path / "small.pth")
    assert not imported.report.of("missing", "wrong shape", "left out")
    config = imported.config
    assert isinstance(config, VisTRConfig)
    assert config.backbone == ResNetConfig(
        stem_channels=16, bottleneck_channels=8, blocks=(1, 1, 1, 1)
    )
    sizes = (config.encoder_layers, config.decoder_layers, config.feedforward_dim, config.num_heads)
    assert sizes == (1, 2, 64, 8)
    assert (config.clip_length, config.num_queries) == (4, 10)
    assert config.ids_of_classes() == tuple(range(41))


def test_settings_in_a_checkpoint_complete_the_shapes(tmp_path: Path) -> None:
    state = small_vistr_weights()
    torch.save({"model": state, "args": argparse.Namespace(dilation=True)}, tmp_path / "m.pth")
    backbone = import_checkpoint(tmp_path / "m.pth").config.backbone
    assert isinstance(backbone, ResNetConfig)
    assert backbone.dilate_last


# ---- output of the command


def test_the_header_names_source_and_license(tmp_path: Path) -> None:
    as_pth(recorded("ifc/small_weights"), tmp_path / "small.pth")
    assert run(tmp_path / "small.pth", "-o", tmp_path / "out.safetensors").exit_code == 0
    metadata = read_header(tmp_path / "out.safetensors").metadata
    assert metadata["source"] == "small.pth"
    assert metadata["source_sha256"] == sha256_of(tmp_path / "small.pth")
    assert metadata["license"] == "unknown, see the source"


def test_a_weight_file_is_replaced_only_on_request(tmp_path: Path) -> None:
    as_pth(recorded("ifc/small_weights"), tmp_path / "small.pth")
    out = tmp_path / "small.safetensors"
    out.write_text("mine")
    result = run(tmp_path / "small.pth")
    assert (result.exit_code, out.read_text()) == (2, "mine")
    assert run(tmp_path / "small.pth", "--exist-ok").exit_code == 0
    assert load_model(str(out))


def test_json_has_every_key(tmp_path: Path) -> None:
    state = {**recorded("ifc/small_weights"), "detr.surprise": torch.zeros(3)}
    as_pth(state, tmp_path / "small.pth")
    result = run(tmp_path / "small.pth", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    keys = {key["published"]: key for key in report["keys"]}
    assert set(keys) == set(state)
    assert keys["detr.surprise"]["outcome"] == "left out"
    assert keys["detr.query_embed.weight"]["ours"] == "queries.weight"
    assert sum(report["counts"].values()) == len(report["keys"])
    assert report["config"]["architecture"] == "ifc"


def test_an_unknown_key_is_reported(tmp_path: Path) -> None:
    as_pth({**recorded("ifc/small_weights"), "detr.surprise": torch.zeros(3)}, tmp_path / "m.pth")
    result = run(tmp_path / "m.pth")
    assert result.exit_code == 0
    assert "detr.surprise: not part of the model" in result.stderr


# ---- missing and wrong tensors


def test_missing_and_misshapen_tensors_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    state = dict(recorded("ifc/small_weights"))
    lost = [key for key in state if "bus_layers.1.linear" in key]
    for key in lost:
        del state[key]
    state["detr.mask_head.lay1.bias"] = torch.zeros(5)
    as_pth(state, tmp_path / "part.pth")
    result = run(tmp_path / "part.pth", "--verbose")
    assert result.exit_code == 4
    assert f"{len(lost)} missing" in result.stderr
    assert "encoder.exchange_layers.1.feedforward.linear1.weight" in result.stderr
    assert "mask_head.conv1.bias: (5,) instead of (64,)" in result.stderr
    assert "nothing was written" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["part.pth"]


def test_a_missing_last_layer_is_not_mistaken_for_a_smaller_model(tmp_path: Path) -> None:
    file = ifc_file(tmp_path / "m.pth", without=r"clip_decoder\.layers\.2|res4\.5|bus_layers\.2")
    missing = {key.ours for key in import_checkpoint(file).report.of("missing")}
    assert "decoder.layers.2.self_attention.attend.in_proj_weight" in missing
    assert "encoder.exchange_layers.2.feedforward.linear1.weight" in missing
    assert "backbone.stages.2.5.conv1.weight" in missing
    assert all(
        key.startswith(("decoder.layers.2", "encoder.exchange_layers.2", "backbone.stages.2.5"))
        for key in missing
    )


# ---- starts


def test_coco_s_ifc_starts_a_video_model_without_its_class_head(tmp_path: Path) -> None:
    file = ifc_file(tmp_path / "coco.pth", "base_coco.yaml")
    imported = import_checkpoint(file, init_of="ifc-r50")
    assert imported.config == preset("ifc-r50")
    assert {key.ours for key in imported.report.of("fresh")} == {
        f"class_head.layers.{i}.{what}" for i in (0, 1) for what in ("weight", "bias")
    }
    left_out = {key.published for key in imported.report.of("left out")}
    assert left_out == {
        "criterion.empty_weight",
        *(f"detr.class_embed.layers.{i}.{what}" for i in (0, 1) for what in ("weight", "bias")),
    }
    assert not imported.report.of("missing", "wrong shape")


@pytest.mark.parametrize("prefix", ["vistr.", "detr.", ""])
def test_coco_s_detr_starts_vistr_without_classes_and_queries(prefix: str, tmp_path: Path) -> None:
    state = tensors_of({k.replace("vistr.", prefix): s for k, s in detr_shapes().items()})
    torch.save({"model": state}, tmp_path / "384_coco_r50.pth")
    imported = import_checkpoint(tmp_path / "384_coco_r50.pth", init_of="vistr-r50")
    assert imported.config == preset("vistr-r50")
    left_out = {key.published for key in imported.report.of("left out")}
    assert left_out == {
        *(f"{prefix}class_embed.{what}" for what in ("weight", "bias")),
        f"{prefix}query_embed.weight",
        *(f"mask_head.{part}.{w}" for part in ("lay5", "out_lay") for w in ("weight", "bias")),
    }
    fresh = {key.ours.partition(".")[0] for key in imported.report.of("fresh")}
    assert fresh == {"class_head", "queries", "mask_head", "instance_head"}
    assert {"box_head.layers.2.weight", "project.weight"} <= imported.state.keys()
    assert not imported.report.of("missing", "wrong shape")
    assert_every_tensor_is_the_one_meant(imported)


def test_a_detr_of_another_width_does_not_start_vistr(tmp_path: Path) -> None:
    narrow = {
        key: tuple({384: 256, 1152: 768}.get(n, n) for n in shape)
        for key, shape in detr_shapes().items()
        if not key.startswith(("mask_head", "vistr.backbone"))
    }
    torch.save({"model": tensors_of(narrow)}, tmp_path / "detr.pth")
    result = run(tmp_path / "detr.pth", "--init-of", "vistr-r50", "--verbose")
    assert result.exit_code == 4
    assert "project.weight" in result.stderr
    assert "(256, 2048, 1, 1) instead of (384, 2048, 1, 1)" in result.stderr
    assert not (tmp_path / "detr.safetensors").exists()


def test_torchvision_s_resnet_starts_either_model(tmp_path: Path) -> None:
    file = tmp_path / "resnet50-19c8e357.pth"
    torch.save(OrderedDict(tensors_of(torchvision_resnet_shapes())), file)
    for name in ("ifc-r50", "vistr-r50"):
        imported = import_checkpoint(file, init_of=name)
        assert imported.config == preset(name)
        assert all(key.startswith("backbone.") for key in imported.state)
        assert not imported.report.of("missing", "wrong shape")
        reasons = {key.published: key.note for key in imported.report.of("left out")}
        assert reasons.keys() == {"bn1.num_batches_tracked", "fc.weight", "fc.bias"}
        assert_every_tensor_is_the_one_meant(imported)


def test_a_resnet_of_another_depth_lacks_blocks(tmp_path: Path) -> None:
    torch.save(tensors_of(torchvision_resnet_shapes()), tmp_path / "r50.pth")
    report = import_checkpoint(tmp_path / "r50.pth", init_of="vistr-r101").report
    assert {key.ours.rsplit(".", 2)[0][:19] for key in report.of("missing")} == {
        f"backbone.stages.2.{block}"[:19] for block in range(6, 23)
    }


def test_detectron2_s_msra_resnet_sets_strides_and_pixels(tmp_path: Path) -> None:
    file = tmp_path / "R-50.pkl"
    file.write_bytes(pickle.dumps(arrays_of(caffe2_resnet_shapes()), protocol=2))
    imported = import_checkpoint(file, init_of="ifc-r50")
    assert imported.config.backbone == ResNetConfig(stride_in_1x1=True)
    assert imported.config.pixels == preset("ifc-r101").pixels
    assert not imported.report.of("missing", "wrong shape")
    assert_every_tensor_is_the_one_meant(imported)
    # With its eps, the norm is exactly the scale and the shift.
    model = build_model(imported.config)
    model.load_state_dict({**model.state_dict(), **imported.state})
    norm = model.get_submodule("backbone.stages.0.0.norm1")
    assert isinstance(norm, FrozenBatchNorm2d)
    scale, shift = norm.scale_and_shift()
    torch.testing.assert_close(scale, norm.weight, rtol=1e-7, atol=0)
    torch.testing.assert_close(shift, norm.bias, rtol=0, atol=0)


def test_detectron2_s_copy_of_torchvision_s_resnet_has_torchvision_s_settings(
    tmp_path: Path,
) -> None:
    file = tmp_path / "R-50.pkl"
    some = {k: s for k, s in detectron2_resnet_shapes().items() if k.startswith(("stem", "res2"))}
    file.write_bytes(pickle.dumps({"model": arrays_of(some), "__author__": "torchvision"}))
    assert import_checkpoint(file, init_of="ifc-r50").config == preset("ifc-r50")


def test_a_backbone_alone_is_not_a_model(tmp_path: Path) -> None:
    torch.save(tensors_of(torchvision_resnet_shapes()), tmp_path / "resnet50.pth")
    with pytest.raises(WeightsError, match="not a whole model") as error:
        import_checkpoint(tmp_path / "resnet50.pth")
    assert "--init-of: ifc-r50" in error.value.hint


def test_ifc_cannot_initialise_vistr(tmp_path: Path) -> None:
    as_pth(recorded("ifc/small_weights"), tmp_path / "m.pth")
    with pytest.raises(WeightsError, match="cannot initialise vistr-r50"):
        import_checkpoint(tmp_path / "m.pth", init_of="vistr-r50")


def test_initial_weights_fill_the_model_to_train_and_are_not_a_model(tmp_path: Path) -> None:
    torch.save(tensors_of(torchvision_resnet_shapes()), tmp_path / "resnet50.pth")
    imported = import_checkpoint(tmp_path / "resnet50.pth", init_of="ifc-r50")
    save_imported(imported, tmp_path / "start.safetensors")
    with pytest.raises(
        WeightsError, match="weights to start training ifc-r50 from, not a whole model"
    ):
        load_model(str(tmp_path / "start.safetensors"))
    config = IFCConfig(class_names=("cat", "dog"), hidden_dim=32, num_heads=4, num_queries=3)
    model = build_model(config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    kept = load_start(model, config, str(tmp_path / "start.safetensors"))
    after = model.state_dict()
    given = load_file(tmp_path / "start.safetensors")
    assert set(kept) == set(after) - set(given)
    for key in after:
        torch.testing.assert_close(after[key], before[key] if key in kept else given[key])


def test_a_whole_model_starts_one_for_other_classes(tmp_path: Path) -> None:
    as_pth(recorded("ifc/small_weights"), tmp_path / "m.pth")
    imported = import_checkpoint(tmp_path / "m.pth")
    save_imported(imported, tmp_path / "m.safetensors")
    values = {f: getattr(imported.config, f) for f in imported.config.__struct_fields__}
    config = IFCConfig(**{**values, "class_names": ("cat", "dog")})
    model = build_model(config)
    kept = load_start(model, config, str(tmp_path / "m.safetensors"))
    assert kept
    assert all(key.startswith("class_head.") for key in kept)
    other = IFCConfig(**{**values, "backbone": ResNetConfig(stride_in_1x1=True)})
    with pytest.raises(WeightsError, match="its backbone"):
        load_start(model, other, str(tmp_path / "m.safetensors"))
