"""One-to-one pairing of queries and instances (Hungarian)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vistool.criterion.losses import dice_score
from vistool.ops.boxes import box_iou

# Of the terms that pairs are chosen by, as published.
DICE_WEIGHT = 3.0
BOX_WEIGHT = 5.0
IOU_WEIGHT = 2.0

Validity = Literal["own", "published"]


def match_scores(
    class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor
) -> Tensor:
    """How well every query fits every instance (IFC section 3.3): class probability + 3 * Dice.

    Args:
        class_logits: [Q, K + 1]; mask_logits: [Q, T, h, w].
        labels: [N]; masks: [N, T, h, w] in [0, 1].

    Returns: [Q, N], higher is better.
    """
    probs = class_logits.softmax(-1)
    return probs[:, labels] + DICE_WEIGHT * dice_score(mask_logits, masks)


def frame_match_costs(
    class_logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor
) -> Tensor:
    """How badly every query fits every instance over the frames of a clip (VisTR, section 3.4).

    -(class probability) + 5 * mean absolute difference of the boxes - 2 * IoU, each a mean over
    all frames, those without the instance too: its box is zeros there.

    Args:
        class_logits: [Q, T, K + 1]; boxes: [Q, T, 4] cxcywh, fractions of the frame.
        labels: [N, T]; target_boxes: [N, T, 4].

    Returns: [Q, N], lower is better.
    """
    probs = class_logits.softmax(-1)
    wanted = labels.expand(len(probs), *labels.shape)
    of_label = probs[:, None].expand(-1, len(labels), -1, -1).gather(3, wanted[..., None])
    difference = (boxes[:, None] - target_boxes).abs().mean((2, 3))
    overlap = box_iou(boxes[:, None], target_boxes).mean(2)
    return BOX_WEIGHT * difference - of_label.mean((2, 3)) - IOU_WEIGHT * overlap


class PairedFrames(NamedTuple):
    """Where a query is to show an instance: [R] int64 each, one row a frame."""

    query: Tensor
    instance: Tensor
    frame: Tensor


def paired_frames(
    query: Tensor, instance: Tensor, present: Tensor, validity: Validity = "own"
) -> PairedFrames:
    """The frames of every pair that has the instance on them.

    Args:
        query, instance: [P], the pairs; present: [N, T] bool.
        validity: "own" takes the frames of the pair's instance. "published" takes, for pair j,
            those of instance j, whichever it was paired with: VisTR's code does so.
    """
    shown = present[instance] if validity == "own" else present[: len(instance)]
    pair, frame = shown.nonzero(as_tuple=True)
    return PairedFrames(query[pair], instance[pair], frame)


def hungarian(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The pairing of rows and columns with the highest total.

    Args: scores: [Q, N].  Returns: row and column indices, rows ascending, min(Q, N) of each.
    """
    # Outputs that are no numbers pair up anyhow: the losses then show it, with their names.
    known = scores.detach().float().nan_to_num(0.0).cpu().numpy()
    rows, columns = linear_sum_assignment(known, maximize=True)
    return (
        torch.as_tensor(rows, device=scores.device),
        torch.as_tensor(columns, device=scores.device),
    )
