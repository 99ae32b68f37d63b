"""Loss terms, one function each, with one value per row; the models' criteria average them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from vistool.ops.boxes import box_giou

LAYER = re.compile(r"_\d+$")
FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


def dice_score(logits: Tensor, target: Tensor) -> Tensor:
    """Dice of every pair, with 1 added to numerator and denominator.

    Args: logits: [Q, ...]; target: [N, ...] in [0, 1].
    Returns: [Q, N] in (0, 1].
    """
    p, y = logits.sigmoid().flatten(1), target.flatten(1)
    return (2 * (p @ y.T) + 1) / (p.sum(1)[:, None] + y.sum(1)[None] + 1)


def dice_loss(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """1 - Dice of every row, smoothed as in `dice_score`.

    Args:
        logits, target: [N, ...], N mask sequences (IFC) or masks of single frames (VisTR).
        counted: bool in the shape of `target`, the pixels that count; None: all.

    Returns: [N] in [0, 1).
    """
    p, y = logits.sigmoid().flatten(1), target.flatten(1)
    if counted is not None:
        p, y = p * counted.flatten(1), y * counted.flatten(1)
    return 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)


def focal_loss(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Sigmoid focal loss, the mean over the pixels of every row.

    Args:
        logits: [N, ...]; target: [N, ...] in [0, 1].
        counted: bool in the shape of `target`, the pixels that count; the loss of the others is 0.
            None: all count.

    Returns: [N].
    """
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_target = p * target + (1 - p) * (1 - target)
    alpha = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    loss = alpha * (1 - p_target) ** FOCAL_GAMMA * entropy
    return (loss if counted is None else loss * counted).flatten(1).mean(1)


def class_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy. logits: [N, K + 1]; label: [N] in [0, K). -> [N]"""
    return F.cross_entropy(logits, label, reduction="none")


def box_loss(boxes: Tensor, target: Tensor) -> Tensor:
    """Sum of the four absolute differences. Both [N, 4] cxcywh, fractions of the frame. -> [N]"""
    return (boxes - target).abs().sum(1)


def giou_loss(boxes: Tensor, target: Tensor) -> Tensor:
    """1 - generalised IoU, in [0, 2]. Both [N, 4] cxcywh, fractions of the frame. -> [N]"""
    return 1 - box_giou(boxes, target)


def absence_loss(logits: Tensor, exhaustive: Tensor) -> Tensor:
    """The class loss of an unmatched query: it should not predict an exhaustively labelled class.

    The loss is -log(1 - sum of the probabilities of these classes). If all classes are labelled
    exhaustively, it is the cross-entropy with "no object". If none is, it is 0, because the query
    may predict an unlabelled object.

    The gradient raises the logits of all other classes and of "no object" by the same amount, as
    the natural gradient does (Amari, 1998). So a step does not change the odds between them. The
    plain gradient would raise the most likely one most. This is "no object" for nearly all queries,
    and through shared weights "no object" would also become more likely on unlabelled objects.

    Args: logits: [N, K + 1]; exhaustive: [N, K] bool.
    Returns: [N].
    """
    allowed = ~F.pad(exhaustive, (0, 1), value=False)
    mean = (logits * allowed).sum(1, keepdim=True) / allowed.sum(1, keepdim=True)
    lifted = torch.where(allowed, logits.detach() + (mean - mean.detach()), logits)
    return lifted.logsumexp(1) - lifted.masked_fill(~allowed, -torch.inf).logsumexp(1)


def counted_pixels(regions: Tensor, masks: Tensor) -> Tensor:
    """The pixels that count for an instance: those of its mask, and those outside all regions.

    Args: regions: [R, ...] bool or in [0, 1], to be ignored; masks: [N, ...], likewise.
    Returns: [N, ...] bool.
    """
    return (regions <= 0).all(0) | (masks > 0)


def weighted_total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum of the terms; `dice_0`, of decoder layer 0, has the weight of `dice`.

    Terms without a weight are left out: they are only reported.
    """
    kinds = {name: LAYER.sub("", name) for name in terms}
    return torch.stack(
        [weights[kinds[name]] * value for name, value in terms.items() if kinds[name] in weights]
    ).sum()
