"""Which category is taken for which: counts of labelled against predicted tracks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """Labelled tracks by row, predicted ones by column, in the order of `category_ids`.

    The last row is the background: predictions on nothing that is labelled. The last column is
    what was missed. Their corner is 0.
    """

    category_ids: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]  # [K + 1][K + 1]
    min_score: float  # predictions below it are left out
    min_iou: float  # tracks that overlap less are not paired
