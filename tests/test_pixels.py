"""Pictures on their way into a model: equal to the published resizing, in any order of channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.recorded import recorded
from vistool.config import PixelConfig
from vistool.ops.pixels import input_size, normalise, resize
from vistool.structures import Size

sides = st.integers(1, 4000)


@pytest.mark.parity
def test_a_resized_picture_is_the_recorded_one_to_the_byte() -> None:
    case = recorded("ifc/resized_pictures")
    size = input_size(Size(*case["pictures"].shape[1:3]), 30, 43)
    for picture, expected in zip(case["pictures"], case["resized"], strict=True):
        assert torch.equal(resize(picture.numpy(), size), expected)


@given(sides, sides, st.integers(8, 800), st.integers(800, 2000))
def test_input_keeps_the_shape_and_the_limits(
    height: int, width: int, short: int, long: int
) -> None:
    size = input_size(Size(height, width), short, long)
    assert min(size) <= short
    assert max(size) <= long
    assert min(size) == short or max(size) == long
    assert input_size(Size(width, height), short, long) == Size(size.width, size.height)
    if min(size) > 1:  # a side is rounded by half a pixel at most
        scale = max(size) / max(height, width)
        assert min(size) == pytest.approx(min(height, width) * scale, abs=0.5 + scale)


@given(sides, sides, st.integers(32, 800), st.sampled_from([16, 32]))
def test_sides_go_to_the_nearest_multiple_where_a_model_asks_for_it(
    height: int, width: int, short: int, multiple: int
) -> None:
    exact = input_size(Size(height, width), short, 2000)
    size = input_size(Size(height, width), short, 2000, PixelConfig(side_multiple=multiple))
    for side, wanted in zip(size, exact, strict=True):
        assert side % multiple == 0
        assert abs(side - wanted) <= multiple / 2 or side == multiple


def test_pixels_are_brought_to_the_models_range_in_its_order_of_channels() -> None:
    image = torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8)
    rgb = normalise(image, PixelConfig(mean=(10, 10, 10), std=(1, 2, 5)))
    bgr = normalise(image, PixelConfig(mean=(10, 10, 10), std=(1, 2, 5), channel_order="BGR"))
    assert rgb.flatten().tolist() == [0, 5, 4]
    assert bgr.flatten().tolist() == [20, 5, 0]
    assert rgb.shape == (1, 3, 1, 1)


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    assert np.array_equal(resize(image, Size(6, 8)).numpy(), image)
