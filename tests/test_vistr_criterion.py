"""VisTR's matching, losses and gradients: recorded numbers, both rules of validity, batches."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.recorded import recorded, recorded_json
from tests.test_vistr import small_vistr, tiny_vistr
from vistool.criterion.losses import LAYER
from vistool.criterion.matcher import Validity, frame_match_costs, hungarian, paired_frames
from vistool.criterion.vistr_criterion import FrameTarget, VisTRCriterion, frame_target
from vistool.models.checkpoints.names import VISTR_NAMES, rename_key
from vistool.models.vistr import by_instance
from vistool.ops.boxes import box_coverage, box_giou, box_iou, boxes_of_masks, xyxy_of
from vistool.structures import ClipTarget, FrameClipOutput, FrameHeads

SLOTS = 10
TERMS = {
    "class": "loss_ce",
    "box": "loss_bbox",
    "giou": "loss_giou",
    "focal": "loss_mask",
    "dice": "loss_dice",
    "class_error": "class_error",
    "cardinality_error": "cardinality_error",
}
SETS = ("main", "extra0", "extra1", "extra2", "extra3", "extra4")


def recorded_target(case: dict[str, Tensor], name: str, num_frames: int) -> ClipTarget:
    """Rows are instance-major: instance * T + frame."""
    rows = {key: case[f"{name}.target.{key}"] for key in ("labels", "valid", "boxes")}
    n = len(rows["labels"]) // num_frames
    shaped = {key: value.view(n, num_frames, *value.shape[1:]) for key, value in rows.items()}
    masks = case.get(f"{name}.target.masks", torch.zeros(n * num_frames, 1, 1))
    target = ClipTarget(
        labels=shaped["labels"].amax(1),  # 0 where absent
        present=shaped["valid"].bool(),
        boxes=shaped["boxes"],
        masks=masks.view(n, num_frames, *masks.shape[1:]).bool(),
        exhaustive=torch.ones(41, dtype=torch.bool),
    )
    assert torch.equal(frame_target(target, "published").labels, shaped["labels"])
    return target


def recorded_output() -> FrameClipOutput:
    case = recorded("vistr/small_outputs")
    first = FrameHeads(
        by_instance(case["out.aux_0.pred_logits"], 4), by_instance(case["out.aux_0.pred_boxes"], 4)
    )
    return FrameClipOutput(
        by_instance(case["out.pred_logits"], 4),
        by_instance(case["out.pred_boxes"], 4),
        by_instance(case["out.pred_masks"], 4),
        (first,),
    )


def assert_pairs_recorded(
    logits: Tensor, boxes: Tensor, target: FrameTarget, expected: dict[str, Tensor]
) -> list[list[int]]:
    """Compare costs and rows by the published rule. Returns: the pairs."""
    costs = frame_match_costs(logits, boxes, target.labels, target.boxes)
    # Means of up to 144 float32 numbers in another order; values are up to 7.
    torch.testing.assert_close(costs, expected["cost"], rtol=1e-5, atol=5e-6)
    query, instance = hungarian(-costs)
    at = paired_frames(query, instance, target.present, "published")
    assert (at.frame * SLOTS + at.query).tolist() == expected["idx_src"].tolist()
    rows = at.instance * target.present.shape[1] + at.frame
    assert rows.tolist() == expected["idx_tgt"].tolist()
    return [query.tolist(), instance.tolist()]


@pytest.mark.parity
@pytest.mark.parametrize("number", range(7))
def test_matcher_cases_are_the_recorded_ones(number: int) -> None:
    about = recorded_json("vistr/matcher_cases")[number]
    tensors, name = recorded("vistr/matcher_cases"), f"case{number}"
    target = recorded_target(tensors, name, about["num_frames"])
    logits, boxes = (
        by_instance(tensors[f"{name}.{key}"], about["num_frames"])[0]
        for key in ("pred_logits", "pred_boxes")
    )
    expected = {key: tensors[f"{name}.{key}"] for key in ("cost", "idx_src", "idx_tgt")}
    by_frame = frame_target(target, "published")
    pairs = assert_pairs_recorded(logits, boxes, by_frame, expected)
    assert pairs == about["assignment"]


@pytest.mark.parity
@pytest.mark.parametrize("name", SETS)
def test_pairs_and_losses_are_the_recorded_ones(name: str) -> None:
    losses, meta = recorded("vistr/small_losses"), recorded_json("vistr/small_meta")[name]
    output, target = recorded_output(), recorded_target(losses, name, 4)
    for layer, heads in (("final", output), ("aux_0", output.auxiliary[0])):
        expected = {key: losses[f"{name}.{key}.{layer}"] for key in ("cost", "idx_src", "idx_tgt")}
        by_frame = frame_target(target, "published")
        assert_pairs_recorded(heads.class_logits[0], heads.boxes[0], by_frame, expected)
    criterion = VisTRCriterion(validity="published")
    terms = criterion(output, [target])
    assert len(terms) == 11
    for term, value in terms.items():
        kind = LAYER.sub("", term)
        published = TERMS[kind] + term.removeprefix(kind)
        assert value.item() == pytest.approx(meta["losses"][published], rel=1e-5), term
    assert criterion.total(terms).item() == pytest.approx(meta["weighted_total"], rel=1e-5)


@pytest.mark.parity
def test_gradients_are_the_recorded_ones() -> None:
    losses, meta = recorded("vistr/small_losses"), recorded_json("vistr/small_meta")
    model = small_vistr()
    model.backbone.freeze_first(1)
    criterion = VisTRCriterion(validity="published")
    output = model(recorded("vistr/small_outputs")["in.clip"][None], auxiliary=True)
    terms = criterion(output, [recorded_target(losses, "main", 4)])
    criterion.total(terms).backward()
    parameters = dict(model.named_parameters())
    without = {rename_key(key, VISTR_NAMES) for key in meta["grad_none"]}
    assert {key for key, p in parameters.items() if p.grad is None} == without
    checked = [key for key in losses if key.startswith("grad.")]
    assert len(checked) == 14
    for key in checked:
        gradient = parameters[rename_key(key.removeprefix("grad."), VISTR_NAMES)].grad
        # Relative to the tensor's largest value, the difference is 2.3e-5 on one thread and 1.7e-3
        # on two: sums are then in another order, and a ReLU's input near 0 changes its sign. Where
        # terms cancel to almost 0 (1e-5 of a norm of 220), their rounding errors remain.
        scale = losses[key].abs().max().item()
        noise = 1e-9 * meta["grad_total_norm"]
        torch.testing.assert_close(gradient, losses[key], rtol=0, atol=5e-3 * scale + noise)
    squares = [p.grad.square().sum() for p in parameters.values() if p.grad is not None]
    norm = torch.stack(squares).sum().sqrt().item()
    assert norm == pytest.approx(meta["grad_total_norm"], rel=1e-4)


def test_a_pair_is_trained_on_the_frames_of_its_own_instance() -> None:
    query, instance = torch.tensor([2, 5]), torch.tensor([1, 0])
    present = torch.tensor([[True, False, False], [False, True, True]])
    own = paired_frames(query, instance, present)
    assert own.query.tolist() == [2, 2, 5]
    assert own.instance.tolist() == [1, 1, 0]
    assert own.frame.tolist() == [1, 2, 0]
    published = paired_frames(query, instance, present, "published")
    assert published.instance.tolist() == [1, 0, 0]
    assert published.frame.tolist() == [0, 1, 2]


@given(seed=st.integers(0, 2**31), count=st.integers(0, 5))
@settings(deadline=None)
def test_both_rules_agree_if_every_instance_is_on_all_frames(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randperm(6, generator=generator)[:count]
    instance = torch.randperm(count, generator=generator)
    present = torch.ones(count, 4, dtype=torch.bool)
    rules: tuple[Validity, ...] = ("own", "published")
    own, published = (paired_frames(query, instance, present, rule) for rule in rules)
    for a, b in zip(own, published, strict=True):
        assert torch.equal(a, b)


def made_clip(exhaustive: bool = True) -> tuple[FrameClipOutput, ClipTarget]:
    """Queries 0 and 1 predict the left and the right half of both frames.

    Only the left half is labelled, and only on the first frame.
    """
    masks = torch.zeros(1, 2, 16, 16, dtype=torch.bool)
    masks[0, 0, :, :8] = True
    drawn = torch.full((1, 2, 2, 4, 4), -8.0)
    drawn[0, 0, :, :, :2] = drawn[0, 1, :, :, 2:] = 8.0
    boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]])
    logits = torch.zeros(1, 2, 2, 3, requires_grad=True)
    target = ClipTarget(torch.tensor([0]), masks, torch.full((2,), exhaustive))
    return FrameClipOutput(logits, boxes[None, :, None].repeat(1, 1, 2, 1), drawn), target


def class_gradient(output: FrameClipOutput, target: ClipTarget) -> Tensor:
    VisTRCriterion()(output, [target])["class"].backward()
    gradient = output.class_logits.grad
    assert gradient is not None
    return gradient[0]


def test_a_query_is_no_object_where_its_instance_is_absent() -> None:
    gradient = class_gradient(*made_clip())
    assert gradient[0, 0, 0] < 0  # present: its class increases
    assert gradient[0, 1, 2] < 0  # absent: "no object" increases
    assert (gradient[1, :, 2] < 0).all()  # unmatched: "no object" increases


def test_a_query_on_an_unlabelled_object_is_not_penalised() -> None:
    gradient = class_gradient(*made_clip(exhaustive=False))
    assert gradient[1].abs().max() == 0
    assert gradient[0, 0, 0] < 0
    assert gradient[0, 1, 2] < 0  # the absence of its instance is known even so


def test_a_query_on_a_labelled_object_is_known_to_be_a_duplicate() -> None:
    output, target = made_clip(exhaustive=False)
    boxes = output.boxes.clone()
    boxes[0, 1] = torch.tensor([0.3, 0.5, 0.5, 1.0])  # nine tenths are on the labelled half
    twice = FrameClipOutput(output.class_logits, boxes, output.mask_logits)
    gradient = class_gradient(twice, target)
    assert (gradient[1, 0, :2] > 0).all()  # all classes decrease
    assert gradient[1, 1].abs().max() == 0  # nothing is labelled on this frame


def test_in_a_region_its_class_is_not_penalised_and_pixels_do_not_count() -> None:
    """The region, for class 1, is the right half of the second frame."""
    output, target = made_clip()
    region = torch.zeros(1, 2, 16, 16, dtype=torch.bool)
    region[0, 1, :, 8:] = True
    marked = replace(target, regions=region, region_labels=torch.tensor([1]))
    gradient = class_gradient(output, marked)[1]
    assert (gradient[0, :2] > 0).all()  # outside, any class is wrong
    assert gradient[1, 0] > 0 > gradient[1, 1]
    assert gradient[1, 1].item() == pytest.approx(gradient[1, 2].item())

    spilt = output.mask_logits.clone()
    spilt[0, 0, 0, :, 3:] = 8.0  # on the first frame
    more = FrameClipOutput(output.class_logits, output.boxes, spilt)
    there = replace(marked, regions=region.flip(1))
    for name in ("focal", "dice"):
        clean, spilling = (VisTRCriterion()(o, [there])[name] for o in (output, more))
        torch.testing.assert_close(clean, spilling)
        assert VisTRCriterion()(more, [target])[name] > clean + 0.1


def clips_to_train_on() -> tuple[Tensor, list[ClipTarget]]:
    """Two clips, with two instances and one; the second is labelled in part."""
    pixels = torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(3, 3, 64, 64, dtype=torch.bool)
    masks[0, :, :20, :30], masks[1, 1:, 30:, 30:], masks[2, 0, 10:50, :20] = True, True, True
    first = ClipTarget(torch.tensor([0, 1]), masks[:2], torch.tensor([True, True]))
    return pixels, [first, ClipTarget(torch.tensor([1]), masks[2:], torch.tensor([True, False]))]


def test_losses_and_gradients_are_the_same_with_masks_of_matched_queries_only() -> None:
    pixels, targets = clips_to_train_on()
    criterion = VisTRCriterion()
    results = []
    for choose in (None, partial(criterion.chosen, targets=targets)):
        model = tiny_vistr()
        output = model(pixels, auxiliary=True, choose=choose)
        terms = criterion(output, targets)
        criterion.total(terms).backward()
        drawn = output.mask_logits.flatten(2).any(2)
        results.append((drawn, terms, [p.grad for p in model.parameters()]))
    (all_drawn, *expected), (drawn, *found) = results
    assert all_drawn.all()
    assert drawn.sum(1).tolist() == [2, 1]
    # The same convolutions in batches of another size: float32 rounding differs.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_without_labels_every_parameter_still_has_a_gradient() -> None:
    """In distributed training, the processes would otherwise wait for it."""
    pixels, targets = clips_to_train_on()
    nothing = [ClipTarget(t.labels[:0], t.masks[:0], t.exhaustive) for t in targets]
    criterion, model = VisTRCriterion(), tiny_vistr()
    choose = partial(criterion.chosen, targets=nothing)
    terms = criterion(model(pixels, auxiliary=True, choose=choose), nothing)
    criterion.total(terms).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None for p in trained)


def test_a_perfect_clip_has_only_a_class_loss() -> None:
    output, target = made_clip()
    terms = VisTRCriterion()(output, [target])
    assert terms["box"].item() == pytest.approx(0, abs=1e-6)
    assert terms["giou"].item() == pytest.approx(0, abs=1e-5)
    assert terms["focal"].item() < 0.05
    assert terms["dice"].item() < 0.05


def test_the_terms_of_a_batch_are_the_weighted_means_of_its_clips() -> None:
    model = tiny_vistr()
    pixels, targets = clips_to_train_on()
    criterion = VisTRCriterion()
    with torch.no_grad():
        both = criterion(model(pixels, auxiliary=True), targets)
        alone = [criterion(model(pixels[i : i + 1], auxiliary=True), [targets[i]]) for i in (0, 1)]
    rows = (6, 3)
    for name in ("box", "giou", "focal", "dice", "box_0", "giou_0"):
        mean = sum(n * terms[name] for n, terms in zip(rows, alone, strict=True)) / sum(rows)
        torch.testing.assert_close(both[name], mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 4])
def test_targets_of_another_length_are_refused(frames: int) -> None:
    output, target = made_clip()
    masks = target.masks[:, :1].repeat(1, frames, 1, 1)
    with pytest.raises(ValueError, match="clips of"):
        VisTRCriterion()(output, [ClipTarget(target.labels, masks, target.exhaustive)])


@given(data=st.data())
@settings(deadline=None)
def test_a_box_is_the_smallest_around_its_mask(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    seed = data.draw(st.integers(0, 2**31))
    masks = torch.rand(4, height, width, generator=torch.Generator().manual_seed(seed)) > 0.8
    corners = xyxy_of(boxes_of_masks(masks)) * torch.tensor([width, height, width, height])
    for mask, corner in zip(masks, corners.round().int().tolist(), strict=True):
        left, top, right, bottom = corner
        inside = mask[top:bottom, left:right]
        assert inside.sum() == mask.sum()
        if mask.any():
            ends = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
            assert all(bool(end.any()) for end in ends)
        else:
            assert corner == [0, 0, 0, 0]


def _naive(a: list[float], b: list[float]) -> dict[str, Any]:
    """Box overlaps, counted on a fine grid of points."""
    points = (torch.arange(400) + 0.5) / 400 * 2 - 0.5
    y, x = torch.meshgrid(points, points, indexing="ij")

    def covers(box: list[float]) -> Tensor:
        cx, cy, w, h = box
        return ((x - cx).abs() < w / 2) & ((y - cy).abs() < h / 2)

    first, second = covers(a), covers(b)
    both, either = (first & second).sum(), (first | second).sum()
    rows, columns = (first | second).any(1).nonzero(), (first | second).any(0).nonzero()
    around = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    return {
        "iou": both / either,
        "giou": both / either - (around - either) / around,
        "coverage": both / first.sum(),
    }


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_box_overlaps_equal_counts_of_points(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, 4, generator=generator) * 0.5 + 0.25
    naive = _naive(a.tolist(), b.tolist())
    assert box_iou(a, b).item() == pytest.approx(naive["iou"].item(), abs=0.03)
    assert box_giou(a, b).item() == pytest.approx(naive["giou"].item(), abs=0.04)
    assert box_coverage(a, b).item() == pytest.approx(naive["coverage"].item(), abs=0.03)
    assert box_giou(a, a).item() == pytest.approx(1, abs=1e-4)


def test_presence_and_boxes_are_read_from_the_masks() -> None:
    _, target = made_clip()
    frames = frame_target(target)
    assert frames.present.tolist() == [[True, False]]
    assert frames.labels.tolist() == [[0, 2]]
    assert frames.boxes.tolist() == [[[0.25, 0.5, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]]]


def test_the_label_without_the_instance_is_no_object_or_as_published_class_0() -> None:
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[0, 0, 2:5, 2:5] = True
    target = ClipTarget(torch.tensor([1]), masks, torch.ones(3, dtype=torch.bool))
    assert frame_target(target).labels.tolist() == [[1, 3]]
    assert frame_target(target, "published").labels.tolist() == [[1, 0]]
