"""Loss terms, one function each: one number a row; a model's criterion averages them."""

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
    """Dice of every pair, +1 smoothed. logits: [Q, ...]; target: [N, ...] in [0, 1]. -> [Q, N]"""
    p, y = logits.sigmoid().flatten(1), target.flatten(1)
    return (2 * (p @ y.T) + 1) / (p.sum(1)[:, None] + y.sum(1)[None] + 1)


def dice_loss(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """1 - Dice, +1 smoothed. Both [N, ...]: N sequences (IFC) or single frames (VisTR). -> [N]

    Args: counted: bool like the target, the pixels that say something; None: all.
    """
    p, y = logits.sigmoid().flatten(1), target.flatten(1)
    if counted is not None:
        p, y = p * counted.flatten(1), y * counted.flatten(1)
    return 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)


def focal_loss(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Sigmoid focal loss, mean over a row's pixels; target in [0, 1]. Both [N, ...] -> [N]

    Args: counted: bool like the target, the pixels that say something, the others being right;
        None: all.
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
    """How strongly a query that matches nothing claims a class of which everything is labelled.

    -log(1 - sum of the probabilities of those classes). Where every class is labelled exhaustively
    this is the cross-entropy with "no object"; where none is, it is 0: the query may well have
    found something that nobody was asked to label.

    What a query may be instead is lifted alike, so that a step leaves the odds between an instance
    of the other classes and "no object" as they are. The plain gradient would lift the likelier
    more, which is "no object" almost everywhere, and through the weights that queries share also
    where something unlabelled is; alike is what the natural gradient does (Amari, 1998).

    Args: logits: [N, K + 1]; exhaustive: [N, K] bool.  Returns: [N]
    """
    allowed = ~F.pad(exhaustive, (0, 1), value=False)
    mean = (logits * allowed).sum(1, keepdim=True) / allowed.sum(1, keepdim=True)
    lifted = torch.where(allowed, logits.detach() + (mean - mean.detach()), logits)
    return lifted.logsumexp(1) - lifted.masked_fill(~allowed, -torch.inf).logsumexp(1)


def counted_pixels(regions: Tensor, masks: Tensor) -> Tensor:
    """The pixels that say something of an instance: its own, and those in no region to ignore.

    Args: regions: [R, ...] bool or in [0, 1]; masks: [N, ...], likewise.  Returns: [N, ...] bool
    """
    return (regions <= 0).all(0) | (masks > 0)


def weighted_total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The sum that is minimised; `dice_0`, of decoder layer 0, has the weight of `dice`.

    What has no weight is there to be looked at.
    """
    kinds = {name: LAYER.sub("", name) for name in terms}
    return torch.stack(
        [weights[kinds[name]] * value for name, value in terms.items() if kinds[name] in weights]
    ).sum()
