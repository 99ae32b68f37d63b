"""Which tracks of a video show what a surer one shows, or a part of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import torch

from vistool.structures import FrameTracks

INSIDE = 0.8  # of a track; with more of it inside a surer one of its class, it is a part of that


class TrackOverlaps:
    """How much of their masks tracks share over a video, of which frames are added one by one.

    What is kept grows with the pairs of tracks that touch each other, and not with the frames.
    """

    def __init__(self) -> None:
        self._areas: Counter[int] = Counter()  # by track id, mask cells over all frames
        self._shared: Counter[tuple[int, int]] = Counter()  # by track ids, the lower one first

    def add(self, frame: FrameTracks) -> None:
        """Count the masks of a frame, at the size that the model draws them."""
        inside = (frame.mask_logits > 0).flatten(1).float()
        shared = torch.triu(inside @ inside.T).cpu()
        for row, column in shared.nonzero().tolist():
            cells, pair = int(shared[row, column]), (frame.track_ids[row], frame.track_ids[column])
            if row == column:
                self._areas[pair[0]] += cells
            else:
                self._shared[pair] += cells

    def iou(self, one: int, other: int) -> float:
        """Of two tracks' masks over all frames so far; 0 for tracks without any."""
        shared = self._shared[min(one, other), max(one, other)]
        return shared / max(1, self._areas[one] + self._areas[other] - shared)

    def inside(self, one: int, other: int) -> float:
        """How much of one track's masks lies inside another's, over all frames so far."""
        return self._shared[min(one, other), max(one, other)] / max(1, self._areas[one])

    def duplicates(self, labels: Mapping[int, int], max_overlap: float) -> set[int]:
        """The tracks that overlap one that is kept by more than `max_overlap`.

        And those that lie inside one of their class: a head is no second dog.

        Args: labels: the classes of the tracks, by id, the surest first.
        """
        neighbours: dict[int, list[int]] = defaultdict(list)
        for one, other in self._shared:
            neighbours[one].append(other)
            neighbours[other].append(one)
        kept: set[int] = set()
        for track, label in labels.items():
            surer = kept.intersection(neighbours[track])
            if not any(
                self.iou(track, other) > max_overlap
                or (label == labels[other] and self.inside(track, other) > INSIDE)
                for other in surer
            ):
                kept.add(track)
        return labels.keys() - kept
