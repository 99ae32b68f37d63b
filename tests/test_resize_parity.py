"""Pictures as the published models got them: sizes, bytes and numbers of their own data loaders."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.recorded import FIXTURES, recorded, recorded_json
from vistool.config import PixelConfig
from vistool.models.checkpoints.presets import preset
from vistool.ops.pixels import input_size, normalise, resize
from vistool.structures import Size

pytestmark = pytest.mark.parity


def picture(model: str, name: str) -> np.ndarray:
    """[H, W, 3] uint8 RGB, from the data set of the recording."""
    image = cv2.imread(str(FIXTURES / model / "dataset" / "images" / name))
    assert image is not None
    return np.ascontiguousarray(image[..., ::-1])


DOWN = PixelConfig(rounding="down")


def resized(image: np.ndarray, short: int, long: int | None, pixels: PixelConfig) -> Tensor:
    return resize(image, input_size(Size(*image.shape[:2]), short, long, pixels))


def meta(model: str) -> Any:
    return recorded_json(f"{model}/dataset/meta")


def of_dataset(model: str) -> dict[str, Tensor]:
    return recorded(f"{model}/dataset/expected")


def test_ifc_is_tested_on_the_recorded_bytes() -> None:
    case = meta("ifc")["test0"]
    videos = recorded_json("ifc/dataset/instances")["videos"]
    names = next(v["file_names"] for v in videos if v["id"] == case["video_id"])
    images = [
        resized(picture("ifc", name), case["short_edge"], case["max_size"], PixelConfig())
        for name in names
    ]
    expected = of_dataset("ifc")["test0.images"]
    assert torch.equal(torch.stack(images).permute(0, 3, 1, 2), expected)


@pytest.mark.parametrize("sample", range(4))
def test_ifc_is_trained_on_the_recorded_bytes(sample: int) -> None:
    case = meta("ifc")
    images = [
        resized(picture("ifc", name), case["short_edge"], case["max_size"], PixelConfig())
        for name in case["samples"][sample]["frames"]
    ]
    expected = of_dataset("ifc")[f"s{sample}.images"]
    assert torch.equal(torch.stack(images).permute(0, 3, 1, 2), expected)


@pytest.mark.parametrize("sample", range(5))
def test_vistr_s_pictures_are_normalised_as_recorded(sample: int) -> None:
    case = meta("vistr")["samples"][sample]
    images = torch.stack([torch.from_numpy(picture("vistr", name)) for name in case["frames"]])
    actual = normalise(images, preset("vistr-r50").pixels).flatten(0, 1)
    # (x / 255 - mean) / std or (x - 255 mean) / (255 std): the same but for rounding.
    expected = of_dataset("vistr")[f"plain.{case['index']}.img"]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sample", range(5))
def test_vistr_s_pictures_are_resized_as_recorded(sample: int) -> None:
    """Mirrored, resized with a cap, cropped, resized again: the recording's chain `geom`."""
    case = meta("vistr")["samples"][sample]
    images = []
    for name in case["frames"]:
        mirrored = np.ascontiguousarray(picture("vistr", name)[:, ::-1])
        cropped = resized(mirrored, 40, 60, DOWN)[3:33, 5:38].contiguous().numpy()
        images.append(resized(cropped, 36, 64, DOWN))
    actual = normalise(torch.stack(images), preset("vistr-r50").pixels).flatten(0, 1)
    # One grey level would be 0.017.
    expected = of_dataset("vistr")[f"geom.{case['index']}.img"]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "original", "seen"),
    [
        ("ifc-r50", Size(720, 1280), Size(360, 640)),
        ("ifc-r50", Size(1080, 1919), Size(360, 640)),
        ("ifc-r50", Size(200, 1000), Size(267, 1333)),
        ("vistr-r50", Size(720, 1280), Size(300, 533)),
        ("vistr-r50", Size(1280, 720), Size(533, 300)),
        ("vistr-r50", Size(100, 1000), Size(300, 3000)),
    ],
)
def test_a_preset_sees_videos_at_the_papers_test_size(
    model: str, original: Size, seen: Size
) -> None:
    c = preset(model)
    size = input_size(original, c.test_short_side, c.test_long_side, c.pixels)
    assert size == seen
