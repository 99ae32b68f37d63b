"""Which pieces of its mask are an instance, and which lie on another one.

A query that draws one object often spills over to others that look alike: there its mask has
pieces of its own, apart in space and time. One that another instance's body covers, if only by
more than a quarter, goes to that one; a piece that nobody else has stays, since an object behind
a post is in pieces, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

SAME = 0.5  # instances whose bodies have a higher IoU are the same
NEXT_BEST = 0.5  # of the heaviest piece; a lighter one is no body
COVERED = 0.25  # of a piece; with more of it inside the body of another instance, it is that one's
TOUCHING = np.ones((3, 3, 3))  # frame to frame, and edge or corner within one


class _Instance:
    """The pieces of one mask over a clip: what is connected through space and time."""

    def __init__(self, mask_logits: np.ndarray) -> None:
        """mask_logits: [T, h, w], some above 0."""
        labels, self.count = ndimage.label(mask_logits > 0, TOUCHING)
        self.labels = labels.ravel()  # [T * h * w]: 0 outside, piece i has i + 1
        self.cells = np.flatnonzero(self.labels)
        inside = self.labels[self.cells]
        probs = 1 / (1 + np.exp(-mask_logits.ravel()[self.cells]))
        self.mass = np.bincount(inside, weights=probs)[1:]
        self.sizes = np.bincount(inside)[1:]
        self.body = self.cells  # the cells of the piece that the instance is

    def choose_body(self, surer: Sequence[_Instance]) -> None:
        """The heaviest piece; if surer ones have it, the next that is not much lighter."""
        if self.count == 1:
            return
        shared = self._shared(surer)
        lengths = np.array([len(other.body) for other in surer])[:, None]
        free = (shared <= SAME * (self.sizes + lengths - shared)).all(0)
        possible = free & (self.mass >= NEXT_BEST * self.mass.max())
        mass = np.where(possible, self.mass, 0) if possible.any() else self.mass
        self.body = np.flatnonzero(self.labels == mass.argmax() + 1)

    def foreign(self, others: Sequence[_Instance]) -> np.ndarray:
        """The cells of pieces that belong to others, however unsure these are."""
        taken = np.zeros(self.count + 1, bool)
        taken[1:] = (self._shared(others) > COVERED * self.sizes).any(0)
        taken[self.labels[self.body[0]]] = False
        return self.cells[taken[self.labels[self.cells]]]

    def _shared(self, others: Sequence[_Instance]) -> np.ndarray:
        """How many cells of every piece are in the bodies of others: [others, count]."""
        bodies = [other.body for other in others]
        row = np.repeat(np.arange(len(bodies)), [len(body) for body in bodies])
        labels = self.labels[np.concatenate([np.empty(0, np.int64), *bodies])]
        width = self.count + 1
        cells = np.bincount(row * width + labels, minlength=len(bodies) * width)
        return cells.reshape(-1, width)[:, 1:]


def without_foreign_pieces(mask_logits: Tensor, scores: Tensor) -> Tensor:
    """Masks of a clip, from which pieces that are other instances are taken.

    The surest instance chooses first which of its pieces is its body. A piece that is taken away
    gets the opposite logits: as sure as it was to be inside, it is to be outside.

    Args: mask_logits: [N, T, h, w], > 0 is inside; scores: [N].
    Returns: [N, T, h, w].
    """
    logits = mask_logits.detach().float().cpu().numpy()
    order = scores.argsort(descending=True, stable=True).tolist()
    instances = {n: _Instance(logits[n]) for n in order if (logits[n] > 0).any()}
    drawn: list[_Instance] = []
    for instance in instances.values():
        instance.choose_body(drawn)
        drawn.append(instance)
    cleaned = logits.copy()
    for n, instance in instances.items():
        if instance.count > 1:
            cleaned[n].ravel()[instance.foreign(drawn)] *= -1
    return torch.from_numpy(cleaned).to(mask_logits)
