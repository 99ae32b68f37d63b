"""Run-length codes: decoding inverts encoding, and codes from files are checked before decoding."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from vistool.errors import DataError
from vistool.formats.masks.rle import area, decode_mask, encode_mask, encode_masks, validate_rle
from vistool.structures import RLE, Size

sides = st.integers(1, 40)


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(sides), draw(sides)
    density = draw(st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
    return np.random.default_rng(draw(st.integers(0, 2**32))).random((height, width)) < density


@given(mask=masks())
def test_a_mask_comes_back(mask: np.ndarray) -> None:
    rle = encode_mask(mask)
    validate_rle(rle, Size(*mask.shape), "mask")
    decoded = decode_mask(rle)
    assert decoded.dtype == bool
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, mask)
    assert area(rle) == mask.sum()


def test_the_code_is_columns_first_and_plain_text() -> None:
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:5] = True  # on at 11, 12, 16, 17, 21, 22 of 35, so runs of 11 2 3 2 3 2 12
    # by the definition, from the fourth on minus the run two places before: 11 2 3 0 0 0 9
    assert encode_mask(mask) == {"size": [5, 7], "counts": ";230009"}


@given(stack=st.lists(st.integers(0, 2**12 - 1), max_size=5))
def test_many_masks_at_once_are_the_same_as_one_by_one(stack: list[int]) -> None:
    bits = [[bool(number >> bit & 1) for bit in range(12)] for number in stack]
    array = np.array(bits, bool).reshape(len(stack), 3, 4)
    assert encode_masks(array) == [encode_mask(mask) for mask in array]


@pytest.mark.parametrize("view", ["transposed", "flipped", "strided"])
def test_any_memory_layout_is_accepted(view: str) -> None:
    mask = np.random.default_rng(0).random((30, 20)) < 0.5
    seen = {"transposed": mask.T, "flipped": mask[::-1, ::-1], "strided": mask[::2, ::3]}[view]
    np.testing.assert_array_equal(decode_mask(encode_mask(seen)), seen)


def test_pycocotools_decodes_our_codes() -> None:
    mask = np.random.default_rng(0).random((30, 20)) < 0.5
    other = np.random.default_rng(1).random((30, 20)) < 0.5
    merged = coco.merge([encode_mask(mask), encode_mask(other)])
    np.testing.assert_array_equal(coco.decode(merged), mask | other)
    assert (
        encode_mask(mask)["counts"].encode()
        == coco.encode(np.asfortranarray(mask, np.uint8))["counts"]
    )


# ---- codes from files -----------------------------------------------------------------------


@given(
    counts=st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12)
    | st.text(max_size=5),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
)
def test_any_text_is_refused_or_safe_to_decode(counts: str, height: int, width: int) -> None:
    rle = RLE(size=[height, width], counts=counts)
    try:
        validate_rle(rle, Size(height, width), "mask")
    except DataError:
        return
    assert decode_mask(rle).shape == (height, width)
    assert decode_mask(rle).sum() == area(rle)


@given(runs=st.lists(st.integers(0, 300), min_size=1, max_size=30), data=st.data())
def test_valid_runs_pass_and_a_pixel_more_or_less_does_not(
    runs: list[int], data: st.DataObject
) -> None:
    pixels = max(1, sum(runs))
    runs = runs if sum(runs) else [*runs, 1]
    validate_rle(RLE(size=[1, pixels], counts=compressed(runs)), Size(1, pixels), "mask")
    at = data.draw(st.integers(0, len(runs) - 1))
    changed = [run + (i == at) for i, run in enumerate(runs)]
    rle = RLE(size=[1, pixels], counts=compressed(changed))
    with pytest.raises(DataError, match=f"runs of {pixels + 1} pixels in all, not {pixels}"):
        validate_rle(rle, Size(1, pixels), "mask")


def compressed(runs: list[int]) -> str:
    """The COCO string of run lengths, implemented from its definition."""
    text = ""
    for i, run in enumerate(runs):
        rest = run - runs[i - 2] if i > 2 else run
        while True:
            low, rest = rest & 31, rest >> 5
            more = rest != (-1 if low & 16 else 0)
            text += chr(48 + low + 32 * more)
            if not more:
                break
    return text


def test_this_implementation_agrees_with_pycocotools() -> None:
    mask = np.random.default_rng(0).random((50, 40)) < 0.1
    flat = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(np.diff(flat.astype(int))).tolist()
    runs = np.diff([0, *edges, mask.size]).tolist()
    assert encode_mask(mask)["counts"] == compressed(runs)


@pytest.mark.parametrize(
    ("size", "counts", "message"),
    [
        ([5, 8], "X1", "a mask of size [5, 8], expected [5, 7]"),
        ([5], "X1", "a mask of size [5], expected [5, 7]"),
        ([5, 7], "", "characters that no run-length code has"),
        ([5, 7], "X1 ", "characters that no run-length code has"),
        ([5, 7], "Xé", "characters that no run-length code has"),
        ([5, 7], "X\ud800", "characters that no run-length code has"),
        ([5, 7], "X1\0", "characters that no run-length code has"),
        ([5, 7], "S1S", "the last run is cut off"),
        ([5, 7], "S" * 9 + "1", "a run longer than any picture"),
        ([5, 7], compressed([40, -5]), "a run of -5 pixels"),
        ([5, 7], compressed([34]), "runs of 34 pixels in all, not 35"),
        ([5, 7], "0" * 1000, "more runs than pixels"),
    ],
)
def test_a_malformed_code_is_refused_with_the_reason(
    size: list[int], counts: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        validate_rle(RLE(size=size, counts=counts), Size(5, 7), "results.json: result 3")
    assert str(caught.value).startswith("results.json: result 3: ")
    assert message in str(caught.value)


def test_a_code_that_claims_a_huge_mask_costs_nothing() -> None:
    tracemalloc.start()
    for size in (Size(100_000, 100_000), Size(-5, -7), Size(0, 4)):
        with pytest.raises(DataError, match="a mask of"):
            validate_rle(RLE(size=list(size), counts="PPPPP1"), size, "mask")
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 1_000_000  # bytes
