"""One-to-one pairing of queries and instances (Hungarian)."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vistool.criterion.losses import dice_score

DICE_WEIGHT = 3.0


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
