"""Connected components of masks: remove those that belong to another instance.

A query's mask often includes parts of similar objects nearby. These parts are connected components
(over space and time) apart from the main one. A component is removed if the main component of
another instance covers more than a quarter of it. Components that no other instance claims are
kept: an object behind a post has several components, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

SAME = 0.5  # main components with a higher IoU show the same object
NEXT_BEST = 0.5  # a main component has at least this share of the heaviest one's mass
COVERED = 0.25  # a component covered by more than this share belongs to the other instance
CONNECTED = np.ones((3, 3, 3))  # 26 neighbours: over time, and by edge or corner within a frame


class _Instance:
    """The connected components of one mask over a clip."""

    def __init__(self, mask_logits: np.ndarray) -> None:
        """mask_logits: [T, h, w], some above 0."""
        labels, self.count = ndimage.label(mask_logits > 0, CONNECTED)
        self.labels = labels.ravel()  # [T * h * w]: 0 outside, i + 1 in component i
        self.cells = np.flatnonzero(self.labels)
        inside = self.labels[self.cells]
        probs = 1 / (1 + np.exp(-mask_logits.ravel()[self.cells]))
        self.mass = np.bincount(inside, weights=probs)[1:]
        self.sizes = np.bincount(inside)[1:]
        self.main = self.cells  # the cells of the main component

    def choose_main(self, higher_scoring: Sequence[_Instance]) -> None:
        """Choose the heaviest component that no higher-scoring instance has as its main one.

        If only much lighter components are free, choose the heaviest of all.
        """
        if self.count == 1:
            return
        shared = self._shared(higher_scoring)
        lengths = np.array([len(other.main) for other in higher_scoring])[:, None]
        free = (shared <= SAME * (self.sizes + lengths - shared)).all(0)
        possible = free & (self.mass >= NEXT_BEST * self.mass.max())
        mass = np.where(possible, self.mass, 0) if possible.any() else self.mass
        self.main = np.flatnonzero(self.labels == mass.argmax() + 1)

    def misassigned(self, others: Sequence[_Instance]) -> np.ndarray:
        """The cells of components that belong to other instances, whatever these score."""
        taken = np.zeros(self.count + 1, bool)
        taken[1:] = (self._shared(others) > COVERED * self.sizes).any(0)
        taken[self.labels[self.main[0]]] = False
        return self.cells[taken[self.labels[self.cells]]]

    def _shared(self, others: Sequence[_Instance]) -> np.ndarray:
        """Cells of every component inside the main components of others: [others, count]."""
        mains = [other.main for other in others]
        row = np.repeat(np.arange(len(mains)), [len(main) for main in mains])
        labels = self.labels[np.concatenate([np.empty(0, np.int64), *mains])]
        width = self.count + 1
        cells = np.bincount(row * width + labels, minlength=len(mains) * width)
        return cells.reshape(-1, width)[:, 1:]


def remove_misassigned_components(mask_logits: Tensor, scores: Tensor) -> Tensor:
    """Remove from the masks of a clip the components that belong to another instance.

    Instances choose their main components in the order of falling scores. The logits of a removed
    component change their sign.

    Args: mask_logits: [N, T, h, w], > 0 is inside; scores: [N].
    Returns: [N, T, h, w].
    """
    logits = mask_logits.detach().float().cpu().numpy()
    order = scores.argsort(descending=True, stable=True).tolist()
    instances = {n: _Instance(logits[n]) for n in order if (logits[n] > 0).any()}
    drawn: list[_Instance] = []
    for instance in instances.values():
        instance.choose_main(drawn)
        drawn.append(instance)
    cleaned = logits.copy()
    for n, instance in instances.items():
        if instance.count > 1:
            cleaned[n].ravel()[instance.misassigned(drawn)] *= -1
    return torch.from_numpy(cleaned).to(mask_logits)
