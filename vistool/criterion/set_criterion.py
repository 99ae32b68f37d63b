"""The training objective: match, then class, focal and Dice terms for every decoder layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vistool.criterion.losses import absence_loss, class_loss, dice_loss, focal_loss
from vistool.criterion.matcher import hungarian, match_scores
from vistool.ops.masks import resize_masks
from vistool.structures import ClipOutput, ClipTarget

# A query that matches nothing counts this much in the class term (both papers).
NO_OBJECT_WEIGHT = 0.1
# Of a query that matches nothing: the share of its mask that lies on labelled objects from which
# on it must be a duplicate or a part, and not something that nobody labelled.
DUPLICATE_SHARE = 0.5
TARGET_STRIDE = 4  # masks are compared at a quarter of the picture (IFC)


class SetCriterion:
    """IFC's losses (section 3.3) for clips that may be labelled in part.

    Args: class_weight, focal_weight, dice_weight: of the terms in the total (paper: 1, 3, 3).
    """

    def __init__(
        self, *, class_weight: float = 1.0, focal_weight: float = 3.0, dice_weight: float = 3.0
    ) -> None:
        self.weights = {"class": class_weight, "focal": focal_weight, "dice": dice_weight}

    def __call__(self, output: ClipOutput, targets: Sequence[ClipTarget]) -> dict[str, Tensor]:
        """Unweighted terms of all layers: `class`, `focal`, `dice`, and `class_0`... of layer 0...

        Every mask is compared at a quarter of the targets' canvas.
        """
        height, width = targets[0].masks.shape[-2:]
        size = (-(-height // TARGET_STRIDE), -(-width // TARGET_STRIDE))
        masks = [resize_masks(target.masks, size) for target in targets]
        terms = self._layer(output, targets, masks)
        for layer, auxiliary in enumerate(output.auxiliary):
            for name, value in self._layer(auxiliary, targets, masks).items():
                terms[f"{name}_{layer}"] = value
        return terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum that is minimised."""
        return torch.stack(
            [self.weights[name.partition("_")[0]] * value for name, value in terms.items()]
        ).sum()

    def _layer(
        self, output: ClipOutput, targets: Sequence[ClipTarget], masks: list[Tensor]
    ) -> dict[str, Tensor]:
        class_sum = output.class_logits.new_zeros((), dtype=torch.float32)
        class_weight, focal_sum, dice_sum = (torch.zeros_like(class_sum) for _ in range(3))
        for clip, (target, target_masks) in enumerate(zip(targets, masks, strict=True)):
            class_logits = output.class_logits[clip].float()
            size = target_masks.shape[-2:]
            with torch.no_grad():
                all_masks = resize_masks(output.mask_logits[clip], size)
                scores = match_scores(class_logits, all_masks, target.labels, target_masks)
            query, instance = hungarian(scores)
            value, weight = _class_terms(
                class_logits, all_masks, target, target_masks, query, instance
            )
            class_sum = class_sum + (weight * value).sum()
            class_weight = class_weight + weight.sum()
            # Once more for the paired queries alone: a gradient is kept for no others.
            paired, truth = resize_masks(output.mask_logits[clip][query], size), target_masks
            focal_sum = focal_sum + focal_loss(paired, truth[instance]).sum()
            dice_sum = dice_sum + dice_loss(paired, truth[instance]).sum()
        instances = max(1, sum(len(target.labels) for target in targets))
        return {
            # A batch in which no query may be judged has no class term at all.
            "class": class_sum / class_weight.clamp(min=NO_OBJECT_WEIGHT),
            "focal": focal_sum / instances,
            "dice": dice_sum / instances,
        }


def _class_terms(
    class_logits: Tensor,
    mask_logits: Tensor,
    target: ClipTarget,
    target_masks: Tensor,
    query: Tensor,
    instance: Tensor,
) -> tuple[Tensor, Tensor]:
    """Class loss and weight of every query of one clip, both [Q]."""
    free = torch.ones(len(class_logits), dtype=torch.bool, device=class_logits.device)
    free[query] = False
    exhaustive = target.exhaustive.expand(len(class_logits), -1)
    if not target.exhaustive.all():
        exhaustive = exhaustive | _lies_on(mask_logits, target_masks)[:, None]
    value = absence_loss(class_logits, exhaustive)
    value = value.index_put((query,), class_loss(class_logits[query], target.labels[instance]))
    judged = free & exhaustive.any(1)
    return value, torch.where(free, NO_OBJECT_WEIGHT * judged, 1.0)


@torch.no_grad()
def _lies_on(mask_logits: Tensor, target_masks: Tensor) -> Tensor:
    """[Q] bool: most of the query's own mask lies on labelled objects."""
    own = mask_logits.sigmoid()
    labelled = target_masks.sum(0).clamp(max=1)
    return (own * labelled).flatten(1).sum(1) > DUPLICATE_SHARE * own.flatten(1).sum(1)
