"""VisTR's training objective: matching by class and boxes, and terms of every pair and frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vistool.criterion.class_term import (
    DUPLICATE_SHARE,
    Counts,
    class_error,
    class_terms,
    class_weight,
    exhaustive_outside,
    misclassified,
    miscounted,
)
from vistool.criterion.losses import (
    box_loss,
    counted_pixels,
    dice_loss,
    focal_loss,
    giou_loss,
    weighted_total,
)
from vistool.criterion.matcher import (
    PairedFrames,
    Validity,
    frame_match_costs,
    hungarian,
    paired_frames,
)
from vistool.ops.boxes import box_coverage, boxes_of_masks, resize_masks
from vistool.structures import ClipTarget, FrameClipOutput, FrameHeads


@dataclass(frozen=True, slots=True)
class FrameTarget:
    """The labelled instances of one clip, frame by frame."""

    labels: Tensor  # [N, T] int64 in [0, K]; only for matching on frames without the instance
    present: Tensor  # [N, T] bool
    boxes: Tensor  # [N, T, 4] cxcywh, fractions of the frame; zeros without the instance
    masks: Tensor  # [N, T, H, W] bool
    exhaustive: Tensor  # [K] bool
    regions: Tensor | None  # as in ClipTarget
    region_labels: Tensor | None


def frame_target(target: ClipTarget, validity: Validity = "own") -> FrameTarget:
    """Boxes and presence of every instance on every frame, from its masks if they are not given.

    Args: validity: "published" uses class 0, which never occurs in the published data, on frames
        without the instance; "own" uses "no object".
    """
    present = _present(target)
    labels = target.labels[:, None].expand(present.shape)
    return FrameTarget(
        labels=labels.where(present, len(target.exhaustive) if validity == "own" else 0),
        present=present,
        boxes=boxes_of_masks(target.masks) if target.boxes is None else target.boxes,
        masks=target.masks,
        exhaustive=target.exhaustive,
        regions=target.regions,
        region_labels=target.region_labels,
    )


def _present(target: ClipTarget) -> Tensor:
    """[N, T] bool: the frames with each instance."""
    return target.masks.flatten(2).any(2) if target.present is None else target.present


class VisTRCriterion:
    """VisTR's losses (section 3.4) for batches of clips that may be partly labelled.

    A query is matched with one instance for the whole clip. On frames without the instance, the
    query is trained to predict "no object".

    Args:
        class_weight, ...: weights of the terms (paper: 1, 5, 2, 1, 1).
        validity: "published" repeats faults of the published training; see `paired_frames` and
            `frame_target`.
    """

    def __init__(
        self,
        *,
        class_weight: float = 1.0,
        box_weight: float = 5.0,
        giou_weight: float = 2.0,
        focal_weight: float = 1.0,
        dice_weight: float = 1.0,
        validity: Validity = "own",
    ) -> None:
        self.validity: Validity = validity
        self.weights = {
            "class": class_weight,
            "box": box_weight,
            "giou": giou_weight,
            "focal": focal_weight,
            "dice": dice_weight,
        }

    def chosen(self, heads: FrameHeads, targets: Sequence[ClipTarget]) -> Tensor:
        """The matched queries, [B, Q] bool, at least one: masks of others are not needed."""
        chosen = torch.zeros(
            heads.class_logits.shape[:2], dtype=torch.bool, device=heads.class_logits.device
        )
        for clip, target in enumerate(targets):
            query, _ = self._pairs(heads, clip, frame_target(target, self.validity))
            chosen[clip, query] = True
        # In distributed training, every parameter needs a gradient, even if it is zero.
        chosen[0, 0] |= ~chosen.any()
        return chosen

    def counts(self, targets: Sequence[ClipTarget], num_queries: int) -> Counts:
        """The denominators of the terms of these clips; add them up for several batches.

        Instances count on all frames, also where they are absent (as published).
        """
        present = [_present(target) for target in targets]
        weight = all_matched = 0.0
        for frames in present:
            matched: float = int(frames[:num_queries].sum())
            if len(frames) > num_queries and self.validity == "own":
                # The matched instances are not known yet, so this is the expected number.
                matched = int(frames.sum()) * num_queries / len(frames)
            weight += class_weight(num_queries * frames.shape[1], matched)
            all_matched += matched
        rows = sum(frames.numel() for frames in present)
        return Counts(rows, weight, all_matched, len(present))

    def __call__(
        self, output: FrameClipOutput, targets: Sequence[ClipTarget], counts: Counts | None = None
    ) -> dict[str, Tensor]:
        """The unweighted terms: `class`, `box`, `giou`, `focal`, `dice`.

        The first three are also computed for earlier decoder layers: `class_0` and so on. Two more
        are reported but not part of the total: `class_error`, the percentage of matched queries
        that are misclassified on a frame, and `cardinality_error`, the mean difference between the
        number of query frames that predict a class and the number of instances times frames.

        Masks are compared at the targets' full size.

        Args: counts: of the whole step, if the targets are only a part of it.
        Raises: ValueError if output and targets have different numbers of frames.
        """
        counts = counts or self.counts(targets, output.class_logits.shape[1])
        by_frame = [frame_target(target, self.validity) for target in targets]
        frames = {output.mask_logits.shape[2], *(target.present.shape[1] for target in by_frame)}
        if len(frames) > 1:
            raise ValueError(f"clips of {sorted(frames)} frames")
        exhaustive = [
            _exhaustive(boxes, target) for boxes, target in zip(output.boxes, by_frame, strict=True)
        ]
        last = FrameHeads(output.class_logits, output.boxes)
        terms, pairs = self._heads(last, by_frame, exhaustive, counts)
        terms |= _mask_terms(output.mask_logits, by_frame, pairs, counts.instances or 1)
        for layer, heads in enumerate(output.auxiliary):
            for name, value in self._heads(heads, by_frame, exhaustive, counts)[0].items():
                if name != "class_error":
                    terms[f"{name}_{layer}"] = value
        return terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms: the loss."""
        return weighted_total(terms, self.weights)

    @torch.no_grad()
    def _pairs(self, heads: FrameHeads, clip: int, target: FrameTarget) -> tuple[Tensor, Tensor]:
        """The matched queries and instances of a clip of the batch: [P] int64 each."""
        logits, boxes = heads.class_logits[clip].float(), heads.boxes[clip].float()
        return hungarian(-frame_match_costs(logits, boxes, target.labels, target.boxes))

    def _heads(
        self,
        heads: FrameHeads,
        targets: Sequence[FrameTarget],
        exhaustive: Sequence[Tensor],
        counts: Counts,
    ) -> tuple[dict[str, Tensor], list[PairedFrames]]:
        """The terms of one decoder layer, and the matched pairs of every clip."""
        class_sum = heads.class_logits.new_zeros((), dtype=torch.float32)
        box_sum, giou_sum, wrong, apart = (torch.zeros_like(class_sum) for _ in range(4))
        pairs = []
        for clip, target in enumerate(targets):
            logits, boxes = heads.class_logits[clip].float(), heads.boxes[clip].float()
            query, instance = self._pairs(heads, clip, target)
            at = paired_frames(query, instance, target.present, self.validity)
            wrong_classes = exhaustive[clip].clone()
            # On frames without its instance, a matched query is "no object" even if other objects
            # are unlabelled.
            wrong_classes[query] = True
            labels = target.labels[at.instance, at.frame]
            value, weight = class_terms(
                logits.flatten(0, 1),
                at.query * logits.shape[1] + at.frame,
                labels,
                wrong_classes.flatten(0, 1),
            )
            class_sum = class_sum + (weight * value).sum()
            wrong += misclassified(logits[at.query, at.frame], labels)
            apart += miscounted(logits.flatten(0, 1), target.present.numel())
            found, truth = boxes[at.query, at.frame], target.boxes[at.instance, at.frame]
            box_sum = box_sum + box_loss(found, truth).sum()
            giou_sum = giou_sum + giou_loss(found, truth).sum()
            pairs.append(at)
        rows = counts.instances or 1
        terms = {
            "class": class_sum / counts.class_weight,
            "box": box_sum / rows,
            "giou": giou_sum / rows,
            "class_error": class_error(wrong, len(targets), counts),
            "cardinality_error": apart / counts.clips,
        }
        return terms, pairs


def _mask_terms(
    mask_logits: Tensor,
    targets: Sequence[FrameTarget],
    pairs: Sequence[PairedFrames],
    rows: float,
) -> dict[str, Tensor]:
    focal_sum = mask_logits.new_zeros((), dtype=torch.float32)
    dice_sum = torch.zeros_like(focal_sum)
    for clip, (target, at) in enumerate(zip(targets, pairs, strict=True)):
        truth = target.masks[at.instance, at.frame].float()
        found = resize_masks(mask_logits[clip][at.query, at.frame], truth.shape[-2:])
        counted = None
        if target.regions is not None:
            counted = counted_pixels(target.regions[:, at.frame], truth)
        focal_sum = focal_sum + focal_loss(found, truth, counted).sum()
        dice_sum = dice_sum + dice_loss(found, truth, counted).sum()
    return {"focal": focal_sum / rows, "dice": dice_sum / rows}


@torch.no_grad()
def _exhaustive(boxes: Tensor, target: FrameTarget) -> Tensor:
    """[Q, T, K] bool: the classes that are wrong for a query on frames where it is unmatched.

    Args: boxes: [Q, T, 4], of the last layer.
    """
    exhaustive = target.exhaustive.expand(*boxes.shape[:2], -1)
    if target.exhaustive.all() and target.regions is None:
        return exhaustive
    inside = box_coverage(boxes.float()[:, None], target.boxes)  # [Q, N, T]
    covered = (inside * target.present).amax(1) if len(target.boxes) else inside.sum(1)
    duplicate = covered > DUPLICATE_SHARE
    exhaustive = exhaustive | duplicate[..., None]
    if target.regions is None or target.region_labels is None:
        return exhaustive
    around = boxes_of_masks(target.regions)[:, None]  # [R, 1, T, 4]
    within = box_coverage(boxes.float(), around) > DUPLICATE_SHARE  # [R, Q, T]
    return exhaustive_outside(within, target.region_labels, exhaustive, duplicate)
