"""Connected components of masks that belong to other instances are removed."""

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
    """Mask logits of a clip, [T, h, w]: '#' is inside, spaces separate the rows of a frame."""
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


def test_a_component_that_belongs_to_another_instance_is_removed() -> None:
    left_and_some, right = drawn("###..## ###..#."), drawn("....### ....###")
    for scores in ([0.9, 0.8], [0.8, 0.9]):  # whichever scores higher
        assert cleaned(scores, left_and_some, right) == [["###.... ###...."], shown(right)]


def test_the_logits_of_a_removed_component_change_their_sign() -> None:
    masks = torch.stack([drawn("##.#"), drawn("...#")])
    masks[0, 0, 0, 3] = 1.5
    result = remove_misassigned_components(masks, torch.tensor([0.9, 0.8]))
    assert result[0, 0, 0].tolist() == [SURE, SURE, -SURE, -1.5]
    assert result.dtype == masks.dtype


def test_an_object_behind_a_post_keeps_both_its_components() -> None:
    behind, elsewhere = drawn("##.##... ##.##..."), drawn(".......# .......#")
    assert cleaned([0.9, 0.8], behind, elsewhere) == [shown(behind), shown(elsewhere)]


def test_a_component_is_removed_if_the_other_covers_more_than_a_quarter() -> None:
    two, quarter, half = drawn("#####.####"), drawn(".........#"), drawn("........##")
    assert cleaned([0.9, 0.8], two, quarter)[0] == shown(two)
    assert cleaned([0.9, 0.8], two, half)[0] == ["#####....."]


def test_parts_that_are_connected_on_another_frame_are_one_component() -> None:
    """The second instance covers the right part only on the first frame."""
    passing = drawn("##.##.", "...###")
    part = drawn("...##.", "......")
    assert cleaned([0.9, 0.8], passing, part) == [shown(passing), shown(part)]


def test_if_a_higher_scoring_instance_has_the_heaviest_component_the_next_is_main() -> None:
    first = drawn("####....")
    both = drawn("####.##.")  # the second component has half the mass of the first
    assert cleaned([0.9, 0.8], first, both) == [shown(first), [".....##."]]
    # The highest-scoring instance keeps its heaviest component.
    assert cleaned([0.8, 0.9], first, both) == [shown(first), shown(both)]


def test_main_components_with_an_iou_above_one_half_are_the_same() -> None:
    both = drawn("########.######")
    assert cleaned([0.9, 0.8], drawn("####..........."), both)[1] == shown(both)
    assert cleaned([0.9, 0.8], drawn("#####.........."), both)[1] == [".........######"]


def test_the_main_component_has_the_largest_mass_and_not_the_largest_area() -> None:
    mask = drawn("#####.####")
    mask[..., :5] = 0.1  # mass 5 * 0.52, the other 4 * 0.98
    assert cleaned([0.9, 0.8], mask, drawn("###......."))[0] == ["......####"]


def test_main_components_of_all_higher_scoring_instances_are_not_free() -> None:
    first, second = drawn("####........."), drawn(".....####....")
    third = drawn("####.####.###")
    assert cleaned([0.9, 0.8, 0.7], first, second, third)[2] == ["..........###"]


def test_a_much_lighter_component_of_a_duplicate_is_not_main() -> None:
    first, duplicate = drawn("#####..."), drawn("#####.##")
    assert cleaned([0.9, 0.8], first, duplicate) == [shown(first), shown(duplicate)]


def test_without_instances_and_with_empty_masks_nothing_is_removed() -> None:
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
def test_only_whole_components_are_removed_and_at_least_one_is_kept(
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
        for label in range(1, count + 1):
            assert mask[labels == label].all() or not mask[labels == label].any()
        assert not mask[~before].any()
    if instances == 1:
        assert torch.equal(result, logits)
    # The order of the queries does not matter.
    order = torch.from_numpy(rng.permutation(instances))
    assert torch.equal(remove_misassigned_components(logits[order], scores[order]), result[order])


@pytest.mark.parametrize("bridged", [True, False])
def test_masks_on_frames_without_the_instance_do_not_connect_components(bridged: bool) -> None:
    """A VisTR query has two parts on a frame, and a part that connects them on another."""
    masks = torch.stack([drawn("##.##", "####."), drawn("...##", "....#")])[None]
    probs = torch.full((1, 2, 2, 2), 0.5)
    if not bridged:
        probs[0, 0, 1] = torch.tensor([1e-5, 1 - 1e-5])
    output = FrameClipOutput(probs.log(), torch.zeros(1, 2, 2, 4), masks)
    clip = clip_prediction(output, (0, 1), scoring="mask-aware")
    assert shown(clip.mask_logits[0])[0] == ("##.##" if bridged else "##...")
