"""Duplicate removal (NMS): which tracks repeat a higher-scoring track or a part of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import torch

from vistool.structures import FrameTracks

# A track is part of another of its class if more than this share of its pixels lies inside that.
INSIDE = 0.8


class TrackOverlaps:
    """Overlaps between the masks of all tracks of a video; frames are added one by one.

    Memory grows with the number of overlapping pairs of tracks, not with the number of frames.
    """

    def __init__(self) -> None:
        self._areas: Counter[int] = Counter()  # track id -> mask cells over all frames
        self._shared: Counter[tuple[int, int]] = (
            Counter()
        )  # two track ids, lower first -> shared cells

    def add(self, frame: FrameTracks) -> None:
        """Add the masks of a frame, counted at the resolution of the model's masks."""
        inside = (frame.mask_logits > 0).flatten(1).float()
        shared = torch.triu(inside @ inside.T).cpu()
        for row, column in shared.nonzero().tolist():
            cells, pair = int(shared[row, column]), (frame.track_ids[row], frame.track_ids[column])
            if row == column:
                self._areas[pair[0]] += cells
            else:
                self._shared[pair] += cells

    def iou(self, one: int, other: int) -> float:
        """IoU of two tracks over all frames so far, in [0, 1]; 0 for tracks without masks."""
        shared = self._shared[min(one, other), max(one, other)]
        return shared / max(1, self._areas[one] + self._areas[other] - shared)

    def inside(self, one: int, other: int) -> float:
        """Share of one track's mask cells that lie inside another's, over all frames so far."""
        return self._shared[min(one, other), max(one, other)] / max(1, self._areas[one])

    def duplicates(self, labels: Mapping[int, int], max_overlap: float) -> set[int]:
        """The tracks to leave out; all others are kept.

        A track is left out if a kept track with a higher score overlaps it by an IoU above
        `max_overlap`, or if it lies inside a kept track of its own class (the head of a dog is not
        a second dog).

        Args: labels: track id -> class, in the order of falling scores.
        """
        neighbours: dict[int, list[int]] = defaultdict(list)
        for one, other in self._shared:
            neighbours[one].append(other)
            neighbours[other].append(one)
        kept: set[int] = set()
        for track, label in labels.items():
            higher_scoring = kept.intersection(neighbours[track])
            if not any(
                self.iou(track, other) > max_overlap
                or (label == labels[other] and self.inside(track, other) > INSIDE)
                for other in higher_scoring
            ):
                kept.add(track)
        return labels.keys() - kept
