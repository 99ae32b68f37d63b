"""IFC's matching and losses: equal to recorded numbers of the published code; partial labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.recorded import recorded, recorded_json
from tests.test_ifc import normalised, small_ifc, small_training_batch
from vistool.criterion.class_term import NO_OBJECT_WEIGHT, absence_weight, class_terms
from vistool.criterion.ifc_criterion import IFCCriterion
from vistool.criterion.losses import LAYER, absence_loss, class_loss
from vistool.criterion.matcher import hungarian, match_scores
from vistool.models.checkpoints.names import IFC_NAMES, rename_key
from vistool.ops.boxes import resize_masks
from vistool.structures import ClipOutput, ClipTarget

TERMS = {
    "class": "loss_ce",
    "focal": "loss_mask",
    "dice": "loss_dice",
    "class_error": "class_error",
    "cardinality_error": "cardinality_error",
}


def recorded_targets() -> list[ClipTarget]:
    """The labelled tracks of the two recorded videos, on the canvas of the batch."""
    losses = recorded("ifc/small_losses")
    targets = []
    for video in (0, 1):
        frames = [losses[f"gt.video{video}.frame{t}.masks"].bool() for t in range(3)]
        classes = torch.stack([losses[f"gt.video{video}.frame{t}.classes"] for t in range(3)], 1)
        masks = torch.stack(frames, dim=1)
        present = masks.flatten(2).any(2)
        kept = present.any(1)
        canvas = torch.zeros(len(masks), 3, 70, 88, dtype=torch.bool)
        canvas[..., : masks.shape[-2], : masks.shape[-1]] = masks
        # The class on the first frame with the track.
        labels = classes.gather(1, present.int().argmax(1, keepdim=True))[:, 0]
        targets.append(ClipTarget(labels[kept], canvas[kept], torch.ones(7, dtype=torch.bool)))
    return targets


def recorded_output() -> ClipOutput:
    forward = recorded("ifc/small_train_forward")
    first = ClipOutput(forward["out.aux_0.pred_logits"], forward["out.aux_0.pred_masks"])
    return ClipOutput(forward["out.pred_logits"], forward["out.pred_masks"], (first,))


@pytest.mark.parity
@pytest.mark.parametrize("video", [0, 1])
def test_targets_and_pairs_are_the_recorded_ones(video: int) -> None:
    losses = recorded("ifc/small_losses")
    target, output = recorded_targets()[video], recorded_output()
    reduced = resize_masks(target.masks, (18, 22))
    assert target.labels.tolist() == losses[f"target.video{video}.labels"].tolist()
    torch.testing.assert_close(reduced, losses[f"target.video{video}.masks"])
    for layer, name in ((output, "final"), (output.auxiliary[0], "aux_0")):
        scores = match_scores(
            layer.class_logits[video],
            resize_masks(layer.mask_logits[video], (18, 22)),
            target.labels,
            reduced,
        )
        # Sums over 1,188 pixels in another order: they differ by up to 1.3e-5, values are up to 4.
        expected = losses[f"cost.{name}.video{video}"]
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=3e-5)
        query, instance = hungarian(scores)
        assert query.tolist() == losses[f"idx_src.{name}.video{video}"].tolist()
        assert instance.tolist() == losses[f"idx_tgt.{name}.video{video}"].tolist()


@pytest.mark.parity
def test_losses_are_the_recorded_ones() -> None:
    meta = recorded_json("ifc/small_meta")
    criterion = IFCCriterion()
    terms = criterion(recorded_output(), recorded_targets())
    assert len(terms) == len(meta["losses_unweighted"])
    for name, value in terms.items():
        term = LAYER.sub("", name)
        expected = meta["losses_unweighted"][TERMS[term] + name.removeprefix(term)]
        assert value.item() == pytest.approx(expected, rel=1e-5), name
    assert criterion.total(terms).item() == pytest.approx(meta["weighted_total"], rel=1e-5)


@pytest.mark.parity
def test_losses_of_a_clip_without_instances_are_the_recorded_ones() -> None:
    meta = recorded_json("ifc/small_meta")
    pixels = normalised(recorded("ifc/small_train_forward")["in.video0"], meta["config"])
    with torch.no_grad():
        output = small_ifc()(pixels[None], auxiliary=True)
    nothing = ClipTarget(
        torch.zeros(0, dtype=torch.long),
        torch.zeros(0, *pixels[:, 0].shape, dtype=torch.bool),
        torch.ones(7, dtype=torch.bool),
    )
    terms = IFCCriterion()(output, [nothing])
    expected = meta["no_object_video0"]
    # The tolerance includes the float32 rounding of the whole model.
    assert terms["class"].item() == pytest.approx(expected["loss_ce"], rel=1e-4)
    assert terms["class_0"].item() == pytest.approx(expected["loss_ce_0"], rel=1e-4)
    assert terms["focal"].item() == terms["dice"].item() == 0
    for name in ("class_error", "cardinality_error", "cardinality_error_0"):
        assert terms[name].item() == expected[name]


@pytest.mark.parity
def test_gradients_are_the_recorded_ones() -> None:
    losses = recorded("ifc/small_losses")
    model = small_ifc()
    criterion = IFCCriterion()
    pixels, padded = small_training_batch()
    terms = criterion(model(pixels, padded, auxiliary=True), recorded_targets())
    criterion.total(terms).backward()
    parameters = dict(model.named_parameters())
    checked = [key for key in losses if key.startswith("grad.")]
    assert len(checked) >= 12
    for key in checked:
        gradient = parameters[rename_key(key.removeprefix("grad."), IFC_NAMES)].grad
        assert gradient is not None
        # Relative to the tensor's largest value: float32 sums over thousands of terms.
        scale = losses[key].abs().max().item()
        torch.testing.assert_close(gradient, losses[key], rtol=0, atol=3e-4 * scale)


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_absence_loss_is_no_object_with_all_labels_and_zero_without_labels(
    classes: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(4, classes + 1, generator=generator)
    everything = torch.ones(4, classes, dtype=torch.bool)
    no_object = torch.full((4,), classes)
    torch.testing.assert_close(absence_loss(logits, everything), class_loss(logits, no_object))
    assert absence_loss(logits, ~everything).abs().max() < 1e-5


def _partly_labelled_rows(classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits [6, K + 1], some with probabilities near 1, and the exhaustive classes [6, K]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 8 * torch.randn(6, classes + 1, generator=generator, dtype=torch.float64)
    return logits, torch.rand(6, classes, generator=generator) < 0.5


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_the_gradient_of_an_unmatched_row_is_that_of_the_expected_class_term(
    classes: int, seed: int
) -> None:
    logits, exhaustive = _partly_labelled_rows(classes, seed)
    exhaustive[:, 0] = True  # rows without exhaustive classes have no gradient
    weights = torch.tensor([1.0] * classes + [NO_OBJECT_WEIGHT], dtype=torch.float64)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    none = torch.zeros(0, dtype=torch.long)
    value, weight = class_terms(ours, none, none, exhaustive)
    (weight * value).sum().backward()

    # The published term of every class, times the probability of the class: the predicted one
    # divided by the weight it was trained with, normalised over the possible classes.
    log_probs = theirs.log_softmax(1)
    odds = log_probs.detach().exp() / weights
    odds[:, :-1][exhaustive] = 0
    often = odds / odds.sum(1, keepdim=True)
    (often * weights * -log_probs).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad[:, :-1][exhaustive], theirs.grad[:, :-1][exhaustive])
    # The sum over the possible classes is the same, but here all have the same gradient.
    left = F.pad(~exhaustive, (0, 1), value=True)
    torch.testing.assert_close((ours.grad * left).sum(1), (theirs.grad * left).sum(1))
    alike = (theirs.grad * left).sum(1, keepdim=True) / left.sum(1, keepdim=True)
    torch.testing.assert_close(ours.grad * left, alike * left)


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_the_weight_of_an_unmatched_row_is_as_published_unless_it_may_be_an_instance(
    classes: int, seed: int
) -> None:
    logits, exhaustive = _partly_labelled_rows(classes, seed)
    logits = logits.float() * 20  # some probabilities are rounded to 0 and 1
    weight = absence_weight(logits, exhaustive)
    assert (weight[~exhaustive.any(1)] == 0).all()
    assert (weight[exhaustive.all(1)] == NO_OBJECT_WEIGHT).all()
    some = weight[exhaustive.any(1)]
    assert ((some > NO_OBJECT_WEIGHT * 0.999) & (some < 1.001)).all()


def test_a_likely_unlabelled_instance_has_the_weight_of_a_labelled_one() -> None:
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])  # an unlabelled instance; no object
    weight = absence_weight(logits, torch.tensor([False, True]).expand(2, 2))
    torch.testing.assert_close(weight, torch.tensor([1.0, NO_OBJECT_WEIGHT]), rtol=2e-3, atol=0)


def _partial_clip(mask_rows: slice) -> tuple[ClipOutput, ClipTarget]:
    """Two queries: the first is on the only labelled object, the second on `mask_rows`."""
    masks = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    masks[0, 0, :8] = True
    drawn = torch.full((1, 2, 1, 4, 4), -8.0)
    drawn[0, 0, 0, :2] = 8.0
    drawn[0, 1, 0, mask_rows] = 8.0
    logits = torch.tensor([[[4.0, 0.0, 0.0], [2.0, 0.0, 0.0]]], requires_grad=True)
    target = ClipTarget(torch.tensor([0]), masks, torch.zeros(2, dtype=torch.bool))
    return ClipOutput(logits, drawn), target


def _class_gradient(output: ClipOutput, target: ClipTarget) -> Tensor:
    IFCCriterion()(output, [target])["class"].backward()
    gradient = output.class_logits.grad
    assert gradient is not None
    return gradient[0]


@given(st.integers(2, 6), st.integers(0, 2**31), st.floats(0.01, 10))
def test_the_loss_of_an_unmatched_row_keeps_the_odds_of_its_possible_classes(
    classes: int, seed: int, rate: float
) -> None:
    logits, exhaustive = _partly_labelled_rows(classes, seed)
    exhaustive[:, 0], exhaustive[:, 1] = True, False
    logits.requires_grad_()
    loss = absence_loss(logits, exhaustive)
    loss.sum().backward()
    assert logits.grad is not None
    after = (logits - rate * logits.grad).detach()
    torch.testing.assert_close(
        (after[:, 1] - after[:, -1]), (logits[:, 1] - logits[:, -1]).detach()
    )
    # exp(-loss) is the summed probability of the possible classes.
    excluded = (logits.softmax(1)[:, :-1] * exhaustive).sum(1)
    torch.testing.assert_close((-loss).exp(), 1 - excluded)


def test_a_query_on_an_unlabelled_object_is_not_penalised() -> None:
    gradient = _class_gradient(*_partial_clip(slice(2, 4)))
    assert gradient[1].abs().max() == 0
    assert gradient[0, 0] < 0


def test_a_second_query_on_a_labelled_object_is_penalised_even_with_partial_labels() -> None:
    gradient = _class_gradient(*_partial_clip(slice(0, 2)))
    assert gradient[1, 0] > 0
    assert gradient[1, 2] < 0


def _with_region(target: ClipTarget, rows: slice, label: int) -> ClipTarget:
    region = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    region[0, 0, rows] = True
    return replace(target, regions=region, region_labels=torch.tensor([label]))


def test_in_a_region_a_query_is_penalised_for_all_classes_except_the_regions() -> None:
    output, target = _partial_clip(slice(2, 4))
    target = replace(target, exhaustive=torch.ones(2, dtype=torch.bool))
    region = _with_region(target, slice(8, 16), label=0)
    gradient = _class_gradient(output, region)[1]
    # The odds of class 0 (which is possible) and "no object" do not change; class 1 is reduced.
    assert gradient[0].item() == pytest.approx(gradient[2].item())
    assert gradient[0] < 0 < gradient[1]


def test_a_region_has_no_effect_on_queries_elsewhere_and_on_duplicates() -> None:
    for drawn, rows in ((slice(2, 4), slice(0, 7)), (slice(0, 2), slice(0, 16))):
        output, target = _partial_clip(drawn)
        target = replace(target, exhaustive=torch.ones(2, dtype=torch.bool))
        gradient = _class_gradient(output, _with_region(target, rows, label=0))[1]
        assert gradient[0] > 0
        assert gradient[2] < 0


def test_pixels_of_a_region_do_not_count_for_masks_of_other_instances() -> None:
    """The loss of a mask that extends into a region equals that of a mask that does not."""
    output, target = _partial_clip(slice(2, 4))
    spilt = output.mask_logits.clone()
    spilt[0, 0, 0, 2:] = 8.0
    more = ClipOutput(output.class_logits, spilt)
    criterion, region = IFCCriterion(), _with_region(target, slice(8, 16), label=1)
    for name in ("focal", "dice"):
        clean, spilling = (criterion(o, [region])[name] for o in (output, more))
        torch.testing.assert_close(clean, spilling)
        assert criterion(more, [target])[name] > 2 * criterion(output, [target])[name]


def test_pixels_of_an_instance_count_inside_a_region_too() -> None:
    output, target = _partial_clip(slice(2, 4))
    missed = ClipOutput(output.class_logits, torch.full_like(output.mask_logits, -8.0))
    criterion, region = IFCCriterion(), _with_region(target, slice(0, 16), label=0)
    for name in ("focal", "dice"):
        assert criterion(missed, [region])[name] > 5 * criterion(output, [region])[name]


@pytest.mark.parametrize("count", [0, 2])
def test_parts_of_a_step_add_up_to_its_class_error_and_cardinality_error(count: int) -> None:
    torch.manual_seed(3)
    output = ClipOutput(torch.randn(3, 5, 3), torch.randn(3, 5, 2, 8, 8))
    masks = torch.rand(count, 2, 32, 32) > 0.5
    target = ClipTarget(torch.arange(count), masks, torch.ones(2, dtype=torch.bool))
    criterion, targets = IFCCriterion(), [target] * 3
    whole = criterion(output, targets)
    counts = criterion.counts(targets, num_queries=5)
    first = ClipOutput(output.class_logits[:1], output.mask_logits[:1])
    rest = ClipOutput(output.class_logits[1:], output.mask_logits[1:])
    parts = criterion(first, targets[:1], counts), criterion(rest, targets[1:], counts)
    for name in ("class_error", "cardinality_error"):
        torch.testing.assert_close(sum(part[name] for part in parts), whole[name])
