"""Pieces of masks that are other instances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from vistool.structures import FrameClipOutput
from vistool.tracking.components import remove_misassigned_components
from vistool.tracking.postprocess import clip_prediction

SURE = 4.0


def drawn(*frames: str) -> Tensor:
    """A mask over a clip, [T, h, w]: '#' is inside, the rows of a frame stand one under another."""
    cells = [[[c == "#" for c in row] for row in frame.split()] for frame in frames]
    return torch.tensor(cells).float() * 2 * SURE - SURE


def shown(mask_logits: Tensor) -> list[str]:
    return [
        " ".join("".join("#" if c else "." for c in row) for row in frame)
        for frame in (mask_logits > 0).tolist()
    ]


def cleaned(scores: list[float], *masks: Tensor) -> list[list[str]]:
    result = remove_misassigned_components(torch.stack(masks), torch.tensor(scores))
    return [shown(mask) for mask in result]


def test_a_piece_that_is_another_instance_is_taken_from_a_mask() -> None:
    left_and_some, right = drawn("###..## ###..#."), drawn("....### ....###")
    for scores in ([0.9, 0.8], [0.8, 0.9]):  # whoever is surer
        assert cleaned(scores, left_and_some, right) == [["###.... ###...."], shown(right)]


def test_what_is_taken_is_outside_as_surely_as_it_was_inside() -> None:
    masks = torch.stack([drawn("##.#"), drawn("...#")])
    masks[0, 0, 0, 3] = 1.5
    result = remove_misassigned_components(masks, torch.tensor([0.9, 0.8]))
    assert result[0, 0, 0].tolist() == [SURE, SURE, -SURE, -1.5]
    assert result.dtype == masks.dtype


def test_an_object_behind_a_post_keeps_both_its_pieces() -> None:
    behind, elsewhere = drawn("##.##... ##.##..."), drawn(".......# .......#")
    assert cleaned([0.9, 0.8], behind, elsewhere) == [shown(behind), shown(elsewhere)]


def test_more_than_a_quarter_of_a_piece_has_to_be_the_other_instance() -> None:
    two, quarter, half = drawn("#####.####"), drawn(".........#"), drawn("........##")
    assert cleaned([0.9, 0.8], two, quarter)[0] == shown(two)
    assert cleaned([0.9, 0.8], two, half)[0] == ["#####....."]


def test_pieces_that_meet_on_another_frame_are_one() -> None:
    """The second instance draws the part beyond the post, before the object has come out."""
    passing = drawn("##.##.", "...###")
    part = drawn("...##.", "......")
    assert cleaned([0.9, 0.8], passing, part) == [shown(passing), shown(part)]


def test_where_a_surer_instance_has_the_heaviest_piece_the_next_one_is_meant() -> None:
    first = drawn("####....")
    both = drawn("####.##.")  # the second piece weighs half of the first
    assert cleaned([0.9, 0.8], first, both) == [shown(first), [".....##."]]
    # The surest is who it says it is.
    assert cleaned([0.8, 0.9], first, both) == [shown(first), shown(both)]


def test_bodies_are_the_same_that_share_more_than_half_of_their_union() -> None:
    both = drawn("########.######")
    assert cleaned([0.9, 0.8], drawn("####..........."), both)[1] == shown(both)
    assert cleaned([0.9, 0.8], drawn("#####.........."), both)[1] == [".........######"]


def test_of_two_pieces_the_surer_one_is_the_body_though_it_is_smaller() -> None:
    mask = drawn("#####.####")
    mask[..., :5] = 0.1  # five times 0.52, and four times 0.98
    assert cleaned([0.9, 0.8], mask, drawn("###......."))[0] == ["......####"]


def test_what_any_surer_instance_has_is_not_free() -> None:
    first, second = drawn("####........."), drawn(".....####....")
    third = drawn("####.####.###")
    assert cleaned([0.9, 0.8, 0.7], first, second, third)[2] == ["..........###"]


def test_a_crumb_makes_no_instance_of_its_own_of_a_duplicate() -> None:
    first, duplicate = drawn("#####..."), drawn("#####.##")
    assert cleaned([0.9, 0.8], first, duplicate) == [shown(first), shown(duplicate)]


def test_no_instances_and_empty_masks_are_nothing_to_clean() -> None:
    assert remove_misassigned_components(torch.zeros(0, 2, 3, 3), torch.zeros(0)).shape == (
        0,
        2,
        3,
        3,
    )
    empty, square = drawn("....", "...."), drawn("##..", "##..")
    assert cleaned([0.9, 0.8], empty, square) == [shown(empty), shown(square)]


@given(
    seed=st.integers(0, 10_000),
    instances=st.integers(1, 5),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 8)),
    share=st.floats(0.1, 0.7),
)
@settings(deadline=None)
def test_cleaning_only_takes_whole_pieces_and_leaves_something_of_every_mask(
    seed: int, instances: int, shape: tuple[int, int, int], share: float
) -> None:
    rng = np.random.default_rng(seed)
    inside = rng.random((instances, *shape)) < share
    logits = torch.from_numpy(np.where(inside, 1, -1) * rng.uniform(0.1, 5, inside.shape)).float()
    scores = torch.from_numpy(rng.permutation(instances) / 10 + 0.1)
    result = remove_misassigned_components(logits, scores)
    assert torch.equal(result.abs(), logits.abs())
    after = (result > 0).numpy()
    for before, mask in zip(inside, after, strict=True):
        assert mask.any() == before.any()
        labels, count = ndimage.label(before, np.ones((3, 3, 3)))
        for piece in range(1, count + 1):
            assert mask[labels == piece].all() or not mask[labels == piece].any()
        assert not mask[~before].any()
    if instances == 1:
        assert torch.equal(result, logits)
    # The order of the queries does not matter.
    order = torch.from_numpy(rng.permutation(instances))
    assert torch.equal(remove_misassigned_components(logits[order], scores[order]), result[order])


@pytest.mark.parametrize("bridged", [True, False])
def test_what_vistr_draws_where_an_instance_is_absent_connects_nothing(bridged: bool) -> None:
    """A query draws two places on a frame, and what joins them on another."""
    masks = torch.stack([drawn("##.##", "####."), drawn("...##", "....#")])[None]
    probs = torch.full((1, 2, 2, 2), 0.5)
    if not bridged:
        probs[0, 0, 1] = torch.tensor([1e-5, 1 - 1e-5])
    output = FrameClipOutput(probs.log(), torch.zeros(1, 2, 2, 4), masks)
    clip = clip_prediction(output, (0, 1), scoring="mask-aware")
    assert shown(clip.mask_logits[0])[0] == ("##.##" if bridged else "##...")
