"""IFC's training objective: matching, and class, focal and Dice terms of every decoder layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vistool.criterion.class_term import (
    Counts,
    class_error,
    class_terms,
    class_weight,
    exhaustive_outside,
    lies_on,
    misclassified,
    miscounted,
)
from vistool.criterion.losses import counted_pixels, dice_loss, focal_loss, weighted_total
from vistool.criterion.matcher import hungarian, match_scores
from vistool.ops.boxes import resize_masks
from vistool.structures import ClipOutput, ClipTarget

TARGET_STRIDE = 4  # masks are compared at a quarter of the frame's size (IFC)


class IFCCriterion:
    """IFC's losses (section 3.3) for clips that may be partly labelled.

    Args: class_weight, focal_weight, dice_weight: weights of the terms (paper: 1, 3, 3).
    """

    def __init__(
        self, *, class_weight: float = 1.0, focal_weight: float = 3.0, dice_weight: float = 3.0
    ) -> None:
        self.weights = {"class": class_weight, "focal": focal_weight, "dice": dice_weight}

    def counts(self, targets: Sequence[ClipTarget], num_queries: int) -> Counts:
        """The denominators of the terms of these clips; add them up for several batches."""
        matched = sum(min(len(target.labels), num_queries) for target in targets)
        return Counts(
            instances=sum(len(target.labels) for target in targets),
            class_weight=class_weight(num_queries * len(targets), matched),
            matched=matched,
            clips=len(targets),
        )

    def __call__(
        self, output: ClipOutput, targets: Sequence[ClipTarget], counts: Counts | None = None
    ) -> dict[str, Tensor]:
        """The unweighted terms: `class`, `focal`, `dice`; for layer 0, `class_0` and so on.

        Two more are reported but not part of the total: `class_error`, the percentage of matched
        queries that are misclassified, and `cardinality_error`, the mean difference between the
        predicted and the labelled number of instances in a clip.

        Masks are compared at a quarter of the targets' size. With groups of queries (the output of
        every clip is then followed by those of its other groups), terms are means over the groups.

        Args: counts: of the whole step, if the targets are only a part of it.
        """
        counts = counts or self.counts(targets, output.class_logits.shape[1])
        groups = len(output.class_logits) // len(targets)
        counts = Counts(*(groups * count for count in counts))
        height, width = targets[0].masks.shape[-2:]
        size = (-(-height // TARGET_STRIDE), -(-width // TARGET_STRIDE))
        masks = [resize_masks(target.masks, size) for target in targets for _ in range(groups)]
        targets = [target for target in targets for _ in range(groups)]
        terms = self._layer(output, targets, masks, counts)
        for layer, auxiliary in enumerate(output.auxiliary):
            for name, value in self._layer(auxiliary, targets, masks, counts).items():
                if name != "class_error":
                    terms[f"{name}_{layer}"] = value
        return terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms: the loss."""
        return weighted_total(terms, self.weights)

    def _layer(
        self,
        output: ClipOutput,
        targets: Sequence[ClipTarget],
        masks: list[Tensor],
        counts: Counts,
    ) -> dict[str, Tensor]:
        class_sum = output.class_logits.new_zeros((), dtype=torch.float32)
        focal_sum, dice_sum, wrong, apart = (torch.zeros_like(class_sum) for _ in range(4))
        # Unbind once: indexing a single clip would give a gradient as large as the whole batch.
        clips = zip(
            output.class_logits.float().unbind(),
            output.mask_logits.unbind(),
            targets,
            masks,
            strict=True,
        )
        for class_logits, mask_logits, target, target_masks in clips:
            size = target_masks.shape[-2:]
            with torch.no_grad():
                all_masks = resize_masks(mask_logits, size)
                scores = match_scores(class_logits, all_masks, target.labels, target_masks)
            query, instance = hungarian(scores)
            value, weight = class_terms(
                class_logits,
                query,
                target.labels[instance],
                _exhaustive(all_masks, target, target_masks),
            )
            class_sum = class_sum + (weight * value).sum()
            wrong += misclassified(class_logits[query], target.labels[instance])
            apart += miscounted(class_logits, len(target.labels))
            # Resize the matched queries again, so that gradients are stored only for these.
            paired, truth = resize_masks(mask_logits[query], size), target_masks[instance]
            counted = None
            if target.regions is not None:
                counted = counted_pixels(resize_masks(target.regions, size), truth)
            focal_sum = focal_sum + focal_loss(paired, truth, counted).sum()
            dice_sum = dice_sum + dice_loss(paired, truth, counted).sum()
        instances = counts.instances or 1
        return {
            "class": class_sum / counts.class_weight,
            "focal": focal_sum / instances,
            "dice": dice_sum / instances,
            "class_error": class_error(wrong, len(targets), counts),
            "cardinality_error": apart / counts.clips,
        }


@torch.no_grad()
def _exhaustive(mask_logits: Tensor, target: ClipTarget, target_masks: Tensor) -> Tensor:
    """[Q, K] bool: the classes that are wrong for a query if it is unmatched."""
    exhaustive = target.exhaustive.expand(len(mask_logits), -1)
    if target.exhaustive.all() and target.regions is None:
        return exhaustive
    duplicate = lies_on(mask_logits, target_masks.sum(0).clamp(max=1))
    exhaustive = exhaustive | duplicate[:, None]
    if target.regions is None or target.region_labels is None:
        return exhaustive
    regions = resize_masks(target.regions, target_masks.shape[-2:])
    inside = torch.stack([lies_on(mask_logits, region) for region in regions])
    return exhaustive_outside(inside, target.region_labels, exhaustive, duplicate)
