"""Which pieces of its mask are an instance, and which lie on another one.

A query that draws one object often spills over to others that look alike: their pieces are apart
from it in space and time. Where such a piece is the body of another instance, it is no part of
this one; a piece that nobody else has stays, since an object behind a post is in pieces, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

SAME = 0.5  # IoU from which two instances have the same body
NEXT_BEST = 0.5  # of the largest piece's mass; a smaller one is no body
TAKEN = 0.25  # of a piece; so much inside the body of another instance makes it that one's
TOUCHING = np.ones((3, 3, 3))  # frame to frame, and edge or corner within one


class _Instance:
    """The pieces of one mask over a clip: what is connected through space and time."""

    def __init__(self, mask_logits: np.ndarray) -> None:
        """mask_logits: [T, h, w]."""
        labels, self.count = ndimage.label(mask_logits > 0, TOUCHING)
        self.labels = labels.ravel()  # [T * h * w]: 0 outside, piece i has i + 1
        self.cells = np.flatnonzero(self.labels)
        inside = self.labels[self.cells]
        probs = 1 / (1 + np.exp(-mask_logits.ravel()[self.cells]))
        self.mass = np.bincount(inside, weights=probs, minlength=self.count + 1)[1:]
        self.sizes = np.bincount(inside, minlength=self.count + 1)[1:]
        self.body = np.empty(0, np.int64)  # the cells of the piece that the instance is

    def shared(self, cells: np.ndarray) -> np.ndarray:
        """How many of some cells every piece has: [count]."""
        return np.bincount(self.labels[cells], minlength=self.count + 1)[1:]

    def choose_body(self, bodies: Sequence[np.ndarray]) -> None:
        """The heaviest piece; if others have it, the next that is not much lighter."""
        free = np.ones(self.count, bool)
        for body in bodies:
            shared = self.shared(body)
            free &= shared <= SAME * (self.sizes + len(body) - shared)
        possible = free & (self.mass >= NEXT_BEST * self.mass.max())
        chosen = np.where(possible, self.mass, 0).argmax() if possible.any() else self.mass.argmax()
        self.body = np.flatnonzero(self.labels == chosen + 1)

    def foreign(self, bodies: Sequence[np.ndarray]) -> np.ndarray:
        """The cells of pieces that are the bodies of other instances."""
        taken = np.zeros(self.count + 1, bool)
        for body in bodies:
            taken[1:] |= self.shared(body) > TAKEN * self.sizes
        taken[self.labels[self.body[0]]] = False
        return self.cells[taken[self.labels[self.cells]]]


def without_foreign_pieces(mask_logits: Tensor, scores: Tensor) -> Tensor:
    """Masks of a clip, from which pieces that are other instances are taken.

    The surest instance chooses first which of its pieces is its body. A piece that is taken away
    gets the opposite logits: as sure as it was to be inside, it is to be outside.

    Args: mask_logits: [N, T, h, w], > 0 is inside; scores: [N].
    Returns: [N, T, h, w].
    """
    logits = mask_logits.float().cpu().numpy()
    order = scores.argsort(descending=True, stable=True).tolist()
    instances = {n: _Instance(logits[n]) for n in order}
    drawn = {n: instance for n, instance in instances.items() if instance.count}
    bodies: list[np.ndarray] = []
    for instance in drawn.values():
        instance.choose_body(bodies)
        bodies.append(instance.body)
    cleaned = logits.copy()
    for n, instance in drawn.items():
        others = [body for body in bodies if body is not instance.body]
        cleaned[n].ravel()[instance.foreign(others)] *= -1
    return torch.from_numpy(cleaned).to(mask_logits)
