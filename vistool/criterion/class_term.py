"""The class term of both models, for clips that may be partly labelled."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vistool.criterion.losses import absence_loss, class_loss

NO_OBJECT_WEIGHT = 0.1  # the weight of an unmatched query in the class term (both papers)
# An unmatched query is a duplicate or a part of a labelled object, and not an unlabelled object, if
# more than this share of its mask lies on labelled objects (IFC), or of its box inside the box of
# one labelled object (VisTR).
DUPLICATE_SHARE = 0.5


class Counts(NamedTuple):
    """The denominators of the loss terms of a training step.

    They depend only on the targets, so they are known before the forward pass. A step may be
    computed in parts (batches, processes): if every part is divided by the counts of the whole
    step, the sum of the parts equals the terms of one large batch.
    """

    instances: float  # IFC: instances; VisTR: instances times frames; may be 0
    class_weight: float  # summed over all rows
    matched: float  # number of rows that match an instance
    clips: float


def class_weight(rows: float, matched: float) -> float:
    """The sum of the weights of `rows` rows, of which `matched` match an instance.

    Unmatched rows without exhaustive labels count, too. Otherwise a partly labelled clip would
    increase the weight of the other clips.
    """
    return matched + NO_OBJECT_WEIGHT * (rows - matched)


def class_terms(
    logits: Tensor, matched: Tensor, labels: Tensor, exhaustive: Tensor
) -> tuple[Tensor, Tensor]:
    """Class loss and weight of every row: a query (IFC), or a query on one frame (VisTR).

    Args:
        logits: [R, K + 1]; exhaustive: [R, K] bool, the classes that are wrong for the row if it is
            unmatched, because all their instances are labelled.
        matched: [P], the rows that match an instance; labels: [P], the classes of the instances.

    Returns: losses and weights, [R] each; unmatched rows without exhaustive classes have weight 0.
    """
    free = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    free[matched] = False
    value = absence_loss(logits, exhaustive)
    value = value.index_put((matched,), class_loss(logits[matched], labels))
    return value, torch.where(free, absence_weight(logits, exhaustive), 1.0)


@torch.no_grad()
def absence_weight(logits: Tensor, exhaustive: Tensor) -> Tensor:
    """The weight of unmatched rows in the class term: [R].

    The published term weights a row by its class: 1 for an instance, `NO_OBJECT_WEIGHT` for "no
    object". With partial labels, an unmatched row may be "no object" or an unlabelled instance of
    a class that is not exhaustively labelled. Its class term is therefore the expected value over
    these possible classes. A model that is trained with weights w predicts p_k proportional to w_k
    times the true probability of class k, so the expected gradient of the published term is

        sum(p_k / w_k * w_k * grad(-log p_k)) / sum(p_k / w_k)
            = sum(p_k) / sum(p_k / w_k) * grad(-log sum(p_k))

    with sums over the possible classes. This is the gradient of the absence loss, -log sum(p_k),
    times the harmonic mean of the weights; the function returns this mean. If all unmatched rows
    had the weight of "no object", unlabelled objects would reduce the logits of labelled classes
    ten times less than labelled objects do, and would be predicted as labelled classes.

    Args: logits: [R, K + 1]; exhaustive: [R, K] bool, as in `class_terms`.
    """
    excluded = F.pad(exhaustive, (0, 1), value=False)
    probs = logits.masked_fill(excluded, -torch.inf).softmax(1)
    mean = 1 / (probs[:, :-1].sum(1) + probs[:, -1] / NO_OBJECT_WEIGHT)
    return torch.where(exhaustive.any(1), mean, 0.0)


@torch.no_grad()
def lies_on(mask_logits: Tensor, labelled: Tensor) -> Tensor:
    """[R] bool: more than `DUPLICATE_SHARE` of the row's mask lies on labelled objects.

    Args: mask_logits: [R, ...]; labelled: [R, ...] or [...] for all rows, in [0, 1].
    """
    own = mask_logits.float().sigmoid()
    return (own * labelled).flatten(1).sum(1) > DUPLICATE_SHARE * own.flatten(1).sum(1)


@torch.no_grad()
def exhaustive_outside(
    regions: Tensor, labels: Tensor, exhaustive: Tensor, duplicate: Tensor
) -> Tensor:
    """The exhaustive classes of every row without the classes of the regions that it lies in.

    Args:
        regions: [R, ...] bool, the rows inside each region; labels: [R], the regions' classes.
        exhaustive: [..., K] bool, before regions are considered.
        duplicate: [...] bool, the rows on labelled objects; regions do not apply to them.

    Returns: [..., K] bool.
    """
    of_class = F.one_hot(labels, exhaustive.shape[-1]).bool()
    unclear = regions[..., None] & of_class.view(-1, *[1] * duplicate.ndim, of_class.shape[1])
    return exhaustive & ~(unclear.any(0) & ~duplicate[..., None])


def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
    """The number of rows whose most likely class is not their label: [P, K + 1], [P] -> []."""
    return (logits.argmax(1) != labels).sum()


def miscounted(logits: Tensor, expected: int) -> Tensor:
    """The difference between the number of rows that predict a class and `expected`: []."""
    return ((logits.argmax(1) != logits.shape[1] - 1).sum() - expected).abs()


def class_error(wrong: Tensor, clips: int, counts: Counts) -> Tensor:
    """Percentage of a step's matched rows that are misclassified; 100 without matched rows.

    Args:
        wrong: number of misclassified rows in this part of the step.
        clips: number of clips in this part of the step.
    """
    if counts.matched:
        return 100.0 * wrong / counts.matched
    return torch.full_like(wrong, 100.0 * clips / counts.clips)
