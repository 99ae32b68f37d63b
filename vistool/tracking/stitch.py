"""Link clip predictions into tracks by soft mask IoU on the frames that clips share (IFC, 3.3).

Memory does not grow with the length of the video: a clip is dropped when no later clip overlaps it,
a frame when no later clip can cover it. Only the class probabilities of ended tracks remain.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vistool.structures import ClipPrediction, FrameTracks


def soft_sequence_iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Overlap of every pair of mask sequences, over space and time (IFC, section 3.3).

    Args: a: [N, T, H, W] probabilities; b: [P, T, H, W], the same T frames.
    Returns: [N, P] in [0, 1]; 0 where both sequences are empty.
    """
    both = einsum(a, b, "n t h w, p t h w -> n p")
    either = a.sum((1, 2, 3))[:, None] + b.sum((1, 2, 3))[None] - both
    return both / (either + eps)


@dataclass(frozen=True, slots=True)
class _SeenClip:
    """The tracks and masks of a clip, kept while later clips may overlap it."""

    frame_ids: tuple[int, ...]
    rows: Tensor  # [N] int64 on the CPU: the track of every instance, counted from 0
    mask_probs: Tensor  # [N, T, h, w]


@dataclass(slots=True)
class _PendingFrame:
    """Sums of mask logits over the clips so far, for a frame that later clips may cover."""

    sums: Tensor  # [n, h, w] mask logits
    place: dict[int, int]  # row of a track -> its place in `sums`
    clips: list[int]  # [n], the number of clips that were added

    def add(self, rows: Sequence[int], mask_logits: Tensor) -> None:
        """Add a clip's masks [N, h, w] of the tracks `rows`, which are all different."""
        new = [row for row in rows if row not in self.place]
        if new:
            self.place.update((row, len(self.clips) + i) for i, row in enumerate(new))
            self.clips += [0] * len(new)
            blank = mask_logits.new_zeros((len(new), *mask_logits.shape[1:]))
            self.sums = torch.cat([self.sums, blank])
        places = [self.place[row] for row in rows]
        for place in places:
            self.clips[place] += 1
        self.sums.index_add_(
            0, torch.tensor(places, dtype=torch.int64, device=self.sums.device), mask_logits
        )

    def mean(self, frame_id: int) -> FrameTracks:
        rows = sorted(self.place)
        places = torch.tensor([self.place[row] for row in rows], dtype=torch.int64)
        clips = torch.tensor(self.clips, dtype=self.sums.dtype)[places]
        device = self.sums.device
        return FrameTracks(
            frame_id=frame_id,
            track_ids=tuple(row + 1 for row in rows),
            mask_logits=self.sums[places.to(device)] / clips.to(device)[:, None, None],
        )


class TrackStitcher:
    """Links the instances of successive clips into tracks with stable ids, counted from 1.

    Clips are added in the order of their first frames. There is no limit on the number of tracks.
    """

    def __init__(
        self, num_classes: int, *, min_overlap: float = 0.05, prior_clips: int = 0
    ) -> None:
        """Start without tracks.

        Args:
            min_overlap: an instance continues a track if their mean soft IoU is above it.
            prior_clips: number of clips without the track that are averaged into its class
                probabilities, relative to a track that is in every clip. With 2, a track seen in
                one clip of many loses two thirds of its score, one seen in ten clips a sixth.
                With 0 (IFC), a track seen once scores as high as one that is always there.
        """
        self._min_overlap = min_overlap
        self._prior_clips = prior_clips
        self._num_clips = 0
        self._recent: deque[_SeenClip] = deque()
        self._pending: dict[int, _PendingFrame] = {}
        self._class_sums = np.zeros((16, num_classes))  # grows by doubling, rows are tracks
        self._clip_counts = np.zeros(16, dtype=np.int64)
        self._num_tracks = 0

    def __len__(self) -> int:
        """The number of tracks so far."""
        return self._num_tracks

    def add(self, clip: ClipPrediction) -> tuple[int, ...]:
        """Continue tracks with the instances of a clip, or start new ones.

        Returns: the track id of every instance.
        """
        mask_probs = clip.mask_logits.sigmoid()
        if clip.present is not None:
            mask_probs = mask_probs * clip.present[..., None, None]
        while self._recent and self._recent[0].frame_ids[-1] < clip.frame_ids[0]:
            self._recent.popleft()
        rows = self._assign(clip.frame_ids, mask_probs)
        self._recent.append(
            _SeenClip(clip.frame_ids, torch.tensor(rows, dtype=torch.int64), mask_probs)
        )
        self._num_clips += 1
        self._add_classes(rows, clip.class_probs)
        for place, frame_id in enumerate(clip.frame_ids):
            masks, seen = clip.mask_logits[:, place], rows
            if clip.present is not None:
                here = clip.present[:, place].nonzero().flatten()
                masks, seen = masks[here], [rows[n] for n in here.tolist()]
            if frame_id not in self._pending:
                self._pending[frame_id] = _PendingFrame(torch.zeros_like(masks[:0]), {}, [])
            self._pending[frame_id].add(seen, masks)
        return tuple(row + 1 for row in rows)

    def pop_final(self, before: int) -> Iterator[FrameTracks]:
        """Yield in order, and drop, the frames with an id below `before`.

        The caller guarantees that no later clip covers them. Frames without tracks are yielded too.
        """
        for frame_id in sorted(i for i in self._pending if i < before):
            yield self._pending.pop(frame_id).mean(frame_id)

    def class_probs(self, track_ids: Sequence[int] | None = None) -> Tensor:
        """Mean class probabilities over each track's clips so far: [P, K] float32.

        Args: track_ids: the rows to return; None: all tracks, row i is track i + 1.
        """
        rows = slice(self._num_tracks) if track_ids is None else [i - 1 for i in track_ids]
        clips = np.maximum(self._clip_counts[rows, None], 1)
        mean = self._class_sums[rows] / (clips + self._prior_clips)
        every_clip = max(1, self._num_clips)
        return torch.from_numpy(mean * ((every_clip + self._prior_clips) / every_clip)).float()

    def overlaps(self, frame_ids: Sequence[int], mask_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean soft IoU between a new clip's instances and the tracks that share frames with it.

        The mean is over the recent clips that have the track and share frames with the new clip.

        Args: mask_probs: [N, T, h, w] of the new clip.
        Returns: the tracks as rows counted from 0, [R] increasing, and their IoU, [R, N].
        """
        place = {frame_id: t for t, frame_id in enumerate(frame_ids)}
        sharing = [
            seen
            for seen in list(self._recent)[-len(frame_ids) :]
            if len(seen.rows) and not place.keys().isdisjoint(seen.frame_ids)
        ]
        every = torch.cat([torch.empty(0, dtype=torch.int64), *(seen.rows for seen in sharing)])
        rows, index, count = every.unique(return_inverse=True, return_counts=True)
        total = mask_probs.new_zeros(len(rows), len(mask_probs))
        for seen, target in zip(sharing, index.split([len(s.rows) for s in sharing]), strict=True):
            here = [t for t, frame_id in enumerate(seen.frame_ids) if frame_id in place]
            there = [place[seen.frame_ids[t]] for t in here]
            iou = soft_sequence_iou(seen.mask_probs[:, here], mask_probs[:, there])
            total.index_add_(0, target.to(total.device), iou)
        return rows, total / (count.to(total) + 1e-6)[:, None]  # 1e-6: as published

    def _assign(self, frame_ids: Sequence[int], mask_probs: Tensor) -> list[int]:
        """The track of every instance, as a row counted from 0; new tracks in input order."""
        rows, overlaps = self.overlaps(frame_ids, mask_probs)
        scores = overlaps.where(overlaps > self._min_overlap, 0).cpu().numpy()
        pairs = zip(*linear_sum_assignment(scores, maximize=True), strict=True)
        continued = {int(n): int(rows[p]) for p, n in pairs if scores[p, n] > 0}
        new = itertools.count(self._num_tracks)
        return [continued[n] if n in continued else next(new) for n in range(len(mask_probs))]

    def _add_classes(self, rows: Sequence[int], class_probs: Tensor) -> None:
        self._num_tracks = max([self._num_tracks, *(row + 1 for row in rows)])
        while len(self._clip_counts) < self._num_tracks:
            self._class_sums = np.concatenate([self._class_sums, np.zeros_like(self._class_sums)])
            self._clip_counts = np.concatenate(
                [self._clip_counts, np.zeros_like(self._clip_counts)]
            )
        self._class_sums[rows] += class_probs.double().cpu().numpy()
        self._clip_counts[rows] += 1
