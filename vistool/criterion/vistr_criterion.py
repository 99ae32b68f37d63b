"""VisTR's training objective: match by class and boxes, then one term a frame of every pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vistool.criterion.class_term import (
    DUPLICATE_SHARE,
    Counts,
    blamed_outside,
    class_error,
    class_terms,
    class_weight,
    miscounted,
    misjudged,
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
    """The truth of one clip, frame by frame."""

    labels: Tensor  # [N, T] int64 in [0, K]; on frames without the instance, only matching uses it
    present: Tensor  # [N, T] bool
    boxes: Tensor  # [N, T, 4] centre x, centre y, width, height, fractions of the frame; or zeros
    masks: Tensor  # [N, T, H, W] bool
    exhaustive: Tensor  # [K] bool
    regions: Tensor | None  # as in ClipTarget
    region_labels: Tensor | None


def frame_target(target: ClipTarget, validity: Validity = "own") -> FrameTarget:
    """Boxes and presence of every instance on every frame, from its masks unless they are given.

    Args: validity: "published" has class 0, which never occurs in the published data, where an
        instance is absent.
    """
    present = _present(target)
    labels = target.labels[:, None].expand(present.shape)
    return FrameTarget(
        # Where an instance is absent, a query that follows it is right to see no object.
        labels=labels.where(present, len(target.exhaustive) if validity == "own" else 0),
        present=present,
        boxes=boxes_of_masks(target.masks) if target.boxes is None else target.boxes,
        masks=target.masks,
        exhaustive=target.exhaustive,
        regions=target.regions,
        region_labels=target.region_labels,
    )


def _present(target: ClipTarget) -> Tensor:
    """[N, T] bool."""
    return target.masks.flatten(2).any(2) if target.present is None else target.present


class VisTRCriterion:
    """VisTR's losses (section 3.4) for clips that may be labelled in part, and batches of them.

    A query belongs to one instance over the whole clip; on frames where that is absent, the query
    is to see no object.

    Args:
        class_weight, ...: of the terms in the total (paper: 1, 5, 2, 1, 1).
        validity: "published" repeats faults of the published training, see `paired_frames` and
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
        """The queries that are paired, whose masks alone are compared; at least one. [B, Q] bool"""
        chosen = torch.zeros(
            heads.class_logits.shape[:2], dtype=torch.bool, device=heads.class_logits.device
        )
        for clip, target in enumerate(targets):
            query, _ = self._pairs(heads, clip, frame_target(target, self.validity))
            chosen[clip, query] = True
        # Processes that train together count on a gradient, if of zeros, in every parameter.
        chosen[0, 0] |= ~chosen.any()
        return chosen

    def counts(self, targets: Sequence[ClipTarget], num_queries: int) -> Counts:
        """What the terms of these clips are divided by; of several batches, the sum.

        Instances count on all frames, whether present or not (as published).
        """
        present = [_present(target) for target in targets]
        weight = all_matched = 0.0
        for frames in present:
            matched: float = int(frames[:num_queries].sum())
            if len(frames) > num_queries and self.validity == "own":
                # Which instances are matched is not known yet: on the average.
                matched = int(frames.sum()) * num_queries / len(frames)
            weight += class_weight(num_queries * frames.shape[1], matched)
            all_matched += matched
        rows = sum(frames.numel() for frames in present)
        return Counts(rows, weight, all_matched, len(present))

    def __call__(
        self, output: FrameClipOutput, targets: Sequence[ClipTarget], counts: Counts | None = None
    ) -> dict[str, Tensor]:
        """Unweighted terms: `class`, `box`, `giou`, `focal`, `dice`; the first three of the
        earlier decoder layers too, as `class_0`...

        To look at, and no part of the total: `class_error`, percent of the matched queries that
        are taken for something else on a frame, and by how many rows, one for every instance on
        every frame whether present or not, a clip is off, `cardinality_error`.

        Masks are compared at the targets' full size.

        Args: counts: of the whole step that the targets are a part of; None: they are all of it.
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
        """The weighted sum that is minimised."""
        return weighted_total(terms, self.weights)

    @torch.no_grad()
    def _pairs(self, heads: FrameHeads, clip: int, target: FrameTarget) -> tuple[Tensor, Tensor]:
        """Which query is which instance in a clip of the batch: [P] int64 each."""
        logits, boxes = heads.class_logits[clip].float(), heads.boxes[clip].float()
        return hungarian(-frame_match_costs(logits, boxes, target.labels, target.boxes))

    def _heads(
        self,
        heads: FrameHeads,
        targets: Sequence[FrameTarget],
        exhaustive: Sequence[Tensor],
        counts: Counts,
    ) -> tuple[dict[str, Tensor], list[PairedFrames]]:
        """The terms of one decoder layer, and which query is which instance in every clip."""
        class_sum = heads.class_logits.new_zeros((), dtype=torch.float32)
        box_sum, giou_sum, wrong, apart = (torch.zeros_like(class_sum) for _ in range(4))
        pairs = []
        for clip, target in enumerate(targets):
            logits, boxes = heads.class_logits[clip].float(), heads.boxes[clip].float()
            query, instance = self._pairs(heads, clip, target)
            at = paired_frames(query, instance, target.present, self.validity)
            judged = exhaustive[clip].clone()
            # That the instance is absent elsewhere is known, whatever else may be unlabelled.
            judged[query] = True
            labels = target.labels[at.instance, at.frame]
            value, weight = class_terms(
                logits.flatten(0, 1),
                at.query * logits.shape[1] + at.frame,
                labels,
                judged.flatten(0, 1),
            )
            class_sum = class_sum + (weight * value).sum()
            wrong += misjudged(logits[at.query, at.frame], labels)
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
    """[Q, T, K] bool: the classes a query may not claim on a frame where it matches nothing.

    boxes: [Q, T, 4] of the last layer.
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
    return blamed_outside(within, target.region_labels, exhaustive, duplicate)
