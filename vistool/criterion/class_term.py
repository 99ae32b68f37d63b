"""The class term of both models, for clips that may be labelled in part."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vistool.criterion.losses import absence_loss, class_loss

# A query that matches nothing counts this much in the class term (both papers).
NO_OBJECT_WEIGHT = 0.1
# Of a query that matches nothing: the share of its mask (IFC), or of its box in that of a single
# object (VisTR), that lies on what is labelled from which on it must be a duplicate or a part, and
# not something that nobody labelled.
DUPLICATE_SHARE = 0.5


class Counts(NamedTuple):
    """What the sums over a step are divided by.

    It is known from the targets alone, before the model has seen them. So the terms of a part of a
    step can be divided by the counts of the whole step, and those of all parts, in any number of
    batches and processes, add up to what one large batch has.
    """

    instances: float  # IFC: instances; VisTR: instances times frames; 0 where nothing is summed
    class_weight: float  # of all rows
    matched: float  # rows that match an instance
    clips: float


def class_weight(rows: float, matched: float) -> float:
    """The summed weight of rows of which some match an instance.

    Rows that cannot be judged count as well: an unlabelled clip is no reason to learn more from
    the others.
    """
    return matched + NO_OBJECT_WEIGHT * (rows - matched)


def class_terms(
    logits: Tensor, matched: Tensor, labels: Tensor, exhaustive: Tensor
) -> tuple[Tensor, Tensor]:
    """Class loss and weight of every row, a query (IFC) or a query on a frame (VisTR).

    Args:
        logits: [R, K + 1]; exhaustive: [R, K] bool, the classes that the row would be wrong to
            claim where it matches nothing.
        matched: [P], the rows that match an instance; labels: [P], of that.

    Returns: values and weights, [R] each; a row that cannot be judged has weight 0.
    """
    free = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    free[matched] = False
    value = absence_loss(logits, exhaustive)
    value = value.index_put((matched,), class_loss(logits[matched], labels))
    return value, torch.where(free, absence_weight(logits, exhaustive), 1.0)


@torch.no_grad()
def absence_weight(logits: Tensor, exhaustive: Tensor) -> Tensor:
    """How much a row that matches nothing counts, by what it may be instead. [R]

    The published term weighs a row by its class: 1, or `NO_OBJECT_WEIGHT`. Where some classes are
    not labelled completely, the row may be of any of those, or of none; its term is then to be
    expected over them. Learnt with weights w, class k has the probability p_k / w_k, but for
    what makes them add up to 1, so the expected gradient of the published term is

        sum(p_k / w_k * w_k * grad(-log p_k)) / sum(p_k / w_k)
            = sum(p_k) / sum(p_k / w_k) * grad(-log sum(p_k))

    over the classes that are left: that of -log sum(p_k), the absence loss, times the harmonic
    mean of the weights, which is what this returns. With the weight of "no object" instead, an
    unlabelled object would say only a tenth as loudly that it is none of the labelled classes as
    a labelled one says that it is none of the others, and would be taken for one of the former.

    Args: logits: [R, K + 1]; exhaustive: [R, K] bool, as in `class_terms`.
    """
    blamed = F.pad(exhaustive, (0, 1), value=False)
    believed = logits.masked_fill(blamed, -torch.inf).softmax(1)
    mean = 1 / (believed[:, :-1].sum(1) + believed[:, -1] / NO_OBJECT_WEIGHT)
    return torch.where(exhaustive.any(1), mean, 0.0)


@torch.no_grad()
def lies_on(mask_logits: Tensor, labelled: Tensor) -> Tensor:
    """[R] bool: most of the row's own mask lies on labelled objects.

    Args: mask_logits: [R, ...]; labelled: [R, ...] or one for all, in [0, 1].
    """
    own = mask_logits.float().sigmoid()
    return (own * labelled).flatten(1).sum(1) > DUPLICATE_SHARE * own.flatten(1).sum(1)


@torch.no_grad()
def blamed_outside(
    regions: Tensor, labels: Tensor, exhaustive: Tensor, duplicate: Tensor
) -> Tensor:
    """The classes that a row may be blamed for, less those of the regions that it lies in.

    Args:
        regions: [R, ...] bool, the rows in each of the regions; labels: [R], their classes.
        exhaustive: [..., K] bool, without regard to regions.
        duplicate: [...] bool, the rows on labelled objects; they are blamed wherever they are.
    """
    of_class = F.one_hot(labels, exhaustive.shape[-1]).bool()
    unclear = regions[..., None] & of_class.view(-1, *[1] * duplicate.ndim, of_class.shape[1])
    return exhaustive & ~(unclear.any(0) & ~duplicate[..., None])


def misjudged(logits: Tensor, labels: Tensor) -> Tensor:
    """How many rows are likelier something else than their label. [P, K + 1], [P] -> []"""
    return (logits.argmax(1) != labels).sum()


def miscounted(logits: Tensor, expected: int) -> Tensor:
    """By how many the rows that are likelier a class than "no object" miss `expected`. -> []"""
    return ((logits.argmax(1) != logits.shape[1] - 1).sum() - expected).abs()


def class_error(wrong: Tensor, clips: int, counts: Counts) -> Tensor:
    """Percent of a step's matched rows that are taken for something else; 100 if none is matched.

    Args: wrong: rows, among those of this part of the step, which has so many `clips`.
    """
    if counts.matched:
        return 100.0 * wrong / counts.matched
    return torch.full_like(wrong, 100.0 * clips / counts.clips)
