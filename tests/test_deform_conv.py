"""The deformable convolution against recorded numbers, a naive loop and the ordinary one."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.recorded import recorded
from vistool.nn.deform_conv import DeformConv3x3, deform_conv3x3


def by_loop(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """The definition: every corner of every sample by itself."""
    batch, _, height, width = x.shape
    y = x.new_zeros(batch, len(weight), height, width)

    def cell(n: int, row: int, column: int) -> Tensor:
        inside = 0 <= row < height and 0 <= column < width
        return x[n, :, row, column] if inside else x.new_zeros(x.shape[1])

    for n in range(batch):
        for row in range(height):
            for column in range(width):
                for tap in range(9):
                    dy, dx = offset[n, 2 * tap : 2 * tap + 2, row, column]
                    at_y, at_x = row - 1 + tap // 3 + dy, column - 1 + tap % 3 + dx
                    top, left = math.floor(at_y.item()), math.floor(at_x.item())
                    low, right = at_y - top, at_x - left
                    value = (1 - low) * (1 - right) * cell(n, top, left)
                    value = value + (1 - low) * right * cell(n, top, left + 1)
                    value = value + low * (1 - right) * cell(n, top + 1, left)
                    value = value + low * right * cell(n, top + 1, left + 1)
                    y[n, :, row, column] += weight[:, :, tap // 3, tap % 3] @ value
    return y


@pytest.mark.parity
@pytest.mark.parametrize("case", [0, 1, 2])
def test_output_and_gradients_are_the_recorded_ones(case: int) -> None:
    tensors = {
        name.removeprefix(f"c{case}."): value
        for name, value in recorded("vistr/dcn").items()
        if name.startswith(f"c{case}.")
    }
    inputs = [tensors[name].requires_grad_() for name in ("x", "offset", "weight")]
    y = deform_conv3x3(*inputs)
    # A float32 place is exact to about 3e-7 of the map's width, a sample so to about 2e-5.
    torch.testing.assert_close(y, tensors["y"], rtol=1e-4, atol=5e-5)
    y.backward(tensors["grad_y"])
    for name, value in zip(("x", "offset", "weight"), inputs, strict=True):
        expected = tensors[f"grad_{name}"]
        atol = 2e-5 * expected.abs().max().item()
        torch.testing.assert_close(value.grad, expected, rtol=1e-4, atol=atol)


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    reach=st.sampled_from([0.3, 2.0, 7.0]),
    seed=st.integers(0, 2**31),
)
def test_it_is_the_definition(height: int, width: int, reach: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight = noise(2, 3, height, width), noise(2, 3, 3, 3)
    offset = reach * noise(2, 18, height, width)
    found = deform_conv3x3(x, offset, weight)
    torch.testing.assert_close(found, by_loop(x, offset, weight), rtol=0, atol=1e-12)


def test_its_gradients_are_those_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = [noise(2, 3, 4, 5), 2 * noise(2, 18, 4, 5), noise(3, 3, 3, 3)]
    for value in inputs:
        value.requires_grad_()
    weights = noise(2, 3, 4, 5)
    found = torch.autograd.grad((weights * deform_conv3x3(*inputs)).sum(), inputs)
    expected = torch.autograd.grad((weights * by_loop(*inputs)).sum(), inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_without_offsets_it_is_the_ordinary_convolution() -> None:
    torch.manual_seed(0)
    layer, x = DeformConv3x3(5, 4).double(), torch.randn(2, 5, 7, 6, dtype=torch.float64)
    found = layer(x, torch.zeros(2, 18, 7, 6, dtype=torch.float64))
    torch.testing.assert_close(found, F.conv2d(x, layer.weight, padding=1), rtol=0, atol=1e-12)


def test_half_precision_moves_a_sample_as_far_as_full_precision() -> None:
    """On a map as wide as a real one, whose far places bfloat16 cannot tell apart."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 4, 2, 300), torch.randn(3, 4, 3, 3)
    offset = torch.full((1, 18, 2, 300), 0.25)
    exact = deform_conv3x3(x, offset, weight)
    half = deform_conv3x3(x.bfloat16(), offset.bfloat16(), weight.bfloat16()).float()
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()
