"""One-to-one matching of queries and instances (Hungarian algorithm)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vistool.criterion.losses import dice_score
from vistool.ops.boxes import box_iou

# Weights of the terms of the matching cost, as published.
DICE_WEIGHT = 3.0
BOX_WEIGHT = 5.0
IOU_WEIGHT = 2.0

Validity = Literal["own", "published"]


def match_scores(
    class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor
) -> Tensor:
    """Matching scores (IFC, section 3.3): class probability + 3 * Dice.

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
    """Matching costs over the frames of a clip (VisTR, section 3.4).

    The cost is -(class probability) + 5 * mean absolute difference of the boxes - 2 * IoU. Each
    term is the mean over all frames, also those without the instance, where its box is zeros.

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
    """The frames of matched pairs, one per row: [R] int64 each."""

    query: Tensor
    instance: Tensor
    frame: Tensor


def paired_frames(
    query: Tensor, instance: Tensor, present: Tensor, validity: Validity = "own"
) -> PairedFrames:
    """The frames on which every matched query is trained to show its instance.

    Args:
        query, instance: [P], the pairs; present: [N, T] bool.
        validity: "own" takes the frames with the pair's instance. "published" takes, for pair j,
            the frames with instance j, even if pair j has another instance, as in VisTR's code.
    """
    shown = present[instance] if validity == "own" else present[: len(instance)]
    pair, frame = shown.nonzero(as_tuple=True)
    return PairedFrames(query[pair], instance[pair], frame)


def hungarian(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The one-to-one matching of rows and columns with the highest sum of scores.

    Args: scores: [Q, N].
    Returns: row and column indices, [min(Q, N)] each, rows ascending.
    """
    # NaN scores are matched as 0, so that the losses become NaN and are reported by name.
    known = scores.detach().float().nan_to_num(0.0).cpu().numpy()
    rows, columns = linear_sum_assignment(known, maximize=True)
    return (
        torch.as_tensor(rows, device=scores.device),
        torch.as_tensor(columns, device=scores.device),
    )
