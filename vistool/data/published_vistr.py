"""Clips and targets as VisTR's training made them: every instance has a row a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vistool.config import PixelConfig, VisTRPipeline
from vistool.data.annotations import LabelledTrack, LabelledVideo
from vistool.data.published_clips import PublishedClip, Region, draw_region
from vistool.data.published_colour import Overflow, distorted
from vistool.data.published_sampling import Frames, vistr_frames
from vistool.data.shots import read_image
from vistool.ops.boxes import boxes_of_masks, cxcywh_of, xyxy_of
from vistool.ops.pixels import input_size, resize
from vistool.structures import ClipTarget, Size

Validity = Literal["visible", "annotated"]

DETR = PixelConfig(rounding="down")


@dataclass(frozen=True, slots=True)
class FrameRows:
    """T frames of a video and its N instances, each with a row a frame."""

    frames: np.ndarray  # [T, H, W, 3] uint8, RGB
    labels: Tensor  # [N] int64
    present: Tensor  # [N, T] bool, as annotated; a crop changes nothing in it
    boxes: Tensor  # [N, T, 4] float32 left, top, right, bottom in pixels; absent: no width, height
    areas: Tensor  # [N, T] pixels, as annotated, and scaled with the boxes
    masks: Tensor  # [N, T, H, W] bool

    @property
    def size(self) -> Size:
        """Of every frame."""
        return Size(*self.frames.shape[1:3])

    def boxes_cxcywh(self) -> Tensor:
        """[N, T, 4] centre x, centre y, width, height, fractions of the frame."""
        height, width = self.size
        return cxcywh_of(self.boxes) / torch.tensor([width, height, width, height])


def read_rows(video: LabelledVideo, frames: Frames) -> FrameRows:
    """The frames of a clip as they are, with all instances of the video in the file's order.

    Boxes and areas are those that the file states (`read_with_stated`), or else the masks' own.
    """
    pictures = {frame: read_image(video, frame) for frame in set(frames)}
    n, t = len(video.tracks), len(frames)
    masks = {
        frame: np.array([track.mask(frame, video.size) for track in video.tracks], bool)
        for frame in pictures
    }
    by_instance = torch.from_numpy(np.stack([masks[frame] for frame in frames])).view(
        t, n, *video.size
    )
    areas = [[_area(track, frame, video.size) for frame in frames] for track in video.tracks]
    boxes = [[_box(track, frame, video.size) for frame in frames] for track in video.tracks]
    return FrameRows(
        frames=np.stack([pictures[frame] for frame in frames]),
        labels=torch.tensor([track.label for track in video.tracks], dtype=torch.int64),
        present=torch.tensor(
            [[track.segmentations[f] is not None for f in frames] for track in video.tracks],
            dtype=torch.bool,
        ).view(n, t),
        boxes=torch.stack([box for row in boxes for box in row]).view(n, t, 4)
        if n
        else torch.zeros(0, t, 4),
        areas=torch.tensor(areas).view(n, t),
        masks=by_instance.transpose(0, 1),
    )


def mirrored(rows: FrameRows) -> FrameRows:
    """Left and right exchanged."""
    width = rows.size.width
    left, top, right, bottom = rows.boxes.unbind(-1)
    return replace(
        rows,
        frames=rows.frames[:, :, ::-1],
        boxes=torch.stack([width - right, top, width - left, bottom], dim=-1),
        masks=rows.masks.flip(-1),
    )


def resized(rows: FrameRows, short: int, long: int | None) -> FrameRows:
    """Short side `short`, unless the long one would exceed `long`; sizes rounded as by DETR."""
    size = input_size(rows.size, short, long, DETR)
    down, across = size.height / rows.size.height, size.width / rows.size.width
    masks = F.interpolate(rows.masks.flatten(0, 1)[:, None].to(torch.uint8), size=list(size))
    return replace(
        rows,
        frames=np.stack([resize(np.ascontiguousarray(frame), size) for frame in rows.frames]),
        boxes=rows.boxes * torch.tensor([across, down, across, down]),
        areas=rows.areas * (across * down),
        masks=masks[:, 0].unflatten(0, rows.masks.shape[:2]) > 0,
    )


def cropped(rows: FrameRows, region: Region) -> FrameRows:
    """What lies in a part of the frames; a box that lies outside shrinks to nothing at the edge."""
    top, left, (height, width) = region
    moved = rows.boxes - torch.tensor([left, top, left, top])
    boxes = moved.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    return replace(
        rows,
        frames=rows.frames[:, top : top + height, left : left + width],
        boxes=boxes,
        areas=(boxes[..., 2:] - boxes[..., :2]).prod(-1),
        masks=rows.masks[..., top : top + height, left : left + width],
    )


def recoloured(rows: FrameRows, rng: np.random.Generator, overflow: Overflow) -> FrameRows:
    """Every frame in colours of its own."""
    return replace(rows, frames=np.stack([distorted(f, rng, overflow) for f in rows.frames]))


class VisTRClips:
    """VisTR's training clips: one an epoch for every frame of every video, which it ends with."""

    def __init__(
        self, videos: Sequence[LabelledVideo], clip_length: int, config: VisTRPipeline
    ) -> None:
        self.videos = videos
        self.clip_length = clip_length
        self.config = config
        self.last_frames = [
            (v, f) for v, video in enumerate(videos) for f in range(len(video.files))
        ]
        self.groups = np.zeros(len(self.last_frames), np.int64)

    def draw(self, number: int, rng: np.random.Generator) -> PublishedClip:
        """Clip `number` of an epoch, augmented as in training."""
        v, last = self.last_frames[number]
        video = self.videos[v]
        rows = read_rows(video, vistr_frames(last, len(video.files), self.clip_length))
        rows = self.augmented(rows, rng)
        return PublishedClip(
            frames=tuple(rows.frames),
            target=clip_target(rows, video.exhaustive, self.config.validity),
            origin=f"{video.files[last]}",
        )

    def augmented(self, rows: FrameRows, rng: np.random.Generator) -> FrameRows:
        """Mirrored or not, resized, recoloured, resized, cropped and resized once more."""
        c = self.config
        if rng.random() < 0.5:
            rows = mirrored(rows)
        rows = resized(rows, int(rng.choice(c.first_short_sides)), c.first_long_side)
        rows = recoloured(rows, rng, c.overflow)
        rows = resized(rows, int(rng.choice(c.crop_short_sides)), None)
        rows = cropped(rows, draw_region(rows.size, c.crop_sides, rng))
        return resized(rows, c.short_side, c.long_side)


def clip_target(rows: FrameRows, exhaustive: Sequence[bool], validity: Validity) -> ClipTarget:
    """The truth of a clip.

    Args: validity: "visible" counts an instance as present on the frames that show it, and leaves
        out one that no frame shows. "annotated" goes by the annotation, as published: also where
        the crop has cut the instance off.
    """
    present = rows.present
    boxes = rows.boxes_cxcywh()
    kept = torch.ones(len(present), dtype=torch.bool)
    if validity == "visible":
        present = present & rows.masks.flatten(2).any(2)
        boxes = boxes * present[..., None]
        kept = present.any(1)
    return ClipTarget(
        labels=rows.labels[kept],
        masks=rows.masks[kept],
        exhaustive=torch.tensor(exhaustive, dtype=torch.bool),
        present=present[kept],
        boxes=boxes[kept],
    )


def _box(track: LabelledTrack, frame: int, size: Size) -> Tensor:
    """[4] left, top, right, bottom, within the frame."""
    stated = track.stated.boxes_xywh[frame] if track.stated else None
    limits = torch.tensor([size.width, size.height, size.width, size.height])
    if track.segmentations[frame] is None:
        return torch.zeros(4)
    if stated is None:
        mask = torch.from_numpy(track.mask(frame, size).astype(bool))
        return xyxy_of(boxes_of_masks(mask)) * limits
    box = torch.tensor(stated, dtype=torch.float32)
    return torch.cat([box[:2], box[:2] + box[2:]]).clamp(min=0).minimum(limits)


def _area(track: LabelledTrack, frame: int, size: Size) -> float:
    stated = track.stated.areas[frame] if track.stated else None
    if track.segmentations[frame] is None:
        return 0
    return int(track.mask(frame, size).sum()) if stated is None else stated
