"""Clips and targets of VisTR's published training: every instance has one row per frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vistool.config import PixelConfig, VisTRPipeline
from vistool.data.clips import TrainingClip
from vistool.data.labelled import LabelledTrack, LabelledVideo
from vistool.data.published.clips import Region, draw_region, vistr_frames
from vistool.data.sampling import Frames
from vistool.data.shots import read_image
from vistool.ops.boxes import boxes_of_masks, cxcywh_of, xyxy_of
from vistool.ops.pixels import input_size, resize
from vistool.structures import ClipTarget, Size

Presence = Literal["visible", "annotated"]
Overflow = Literal["clip", "wrap"]

DETR = PixelConfig(rounding="down")
BRIGHTNESS = 32.0  # the largest change, grey levels
GAIN = (0.5, 1.5)  # factors of contrast and saturation
HUE = 18.0  # the largest change, degrees


@dataclass(frozen=True, slots=True)
class FrameRows:
    """T frames of a video and its N instances, each with one row per frame."""

    frames: np.ndarray  # [T, H, W, 3] uint8, RGB
    labels: Tensor  # [N] int64
    present: Tensor  # [N, T] bool, as annotated; crops do not change it
    boxes: Tensor  # [N, T, 4] float32 left, top, right, bottom in pixels; of size 0 if absent
    masks: Tensor  # [N, T, H, W] bool

    @property
    def size(self) -> Size:
        """The size of the frames."""
        return Size(*self.frames.shape[1:3])

    def boxes_cxcywh(self) -> Tensor:
        """[N, T, 4] centre x, centre y, width, height, fractions of the frame."""
        height, width = self.size
        return cxcywh_of(self.boxes) / torch.tensor([width, height, width, height])


def read_rows(video: LabelledVideo, frames: Frames) -> FrameRows:
    """The frames of a clip without augmentation, with all instances in the order of the file.

    Boxes are those stated in the file, or if these were not read, those of the masks.
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
        masks=by_instance.transpose(0, 1),
    )


def mirrored(rows: FrameRows) -> FrameRows:
    """The rows with left and right exchanged."""
    width = rows.size.width
    left, top, right, bottom = rows.boxes.unbind(-1)
    return replace(
        rows,
        frames=rows.frames[:, :, ::-1],
        boxes=torch.stack([width - right, top, width - left, bottom], dim=-1),
        masks=rows.masks.flip(-1),
    )


def resized(rows: FrameRows, short: int, long: int | None) -> FrameRows:
    """The rows with the short side `short`, or less if the long side would be larger than `long`.

    Sizes are rounded as in DETR.
    """
    size = input_size(rows.size, short, long, DETR)
    down, across = size.height / rows.size.height, size.width / rows.size.width
    masks = F.interpolate(rows.masks.flatten(0, 1)[:, None].to(torch.uint8), size=list(size))
    return replace(
        rows,
        frames=np.stack([resize(np.ascontiguousarray(frame), size) for frame in rows.frames]),
        boxes=rows.boxes * torch.tensor([across, down, across, down]),
        masks=masks[:, 0].unflatten(0, rows.masks.shape[:2]) > 0,
    )


def cropped(rows: FrameRows, region: Region) -> FrameRows:
    """The rows cropped to a region; boxes outside it are reduced to size 0 at its edge."""
    top, left, (height, width) = region
    moved = rows.boxes - torch.tensor([left, top, left, top])
    boxes = moved.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    return replace(
        rows,
        frames=rows.frames[:, top : top + height, left : left + width],
        boxes=boxes,
        masks=rows.masks[..., top : top + height, left : left + width],
    )


def recoloured(rows: FrameRows, rng: np.random.Generator, overflow: Overflow) -> FrameRows:
    """The rows with the colours of every frame distorted independently."""
    return replace(rows, frames=np.stack([distorted(f, rng, overflow) for f in rows.frames]))


def distorted(
    image: np.ndarray, rng: np.random.Generator, overflow: Overflow = "clip"
) -> np.ndarray:
    """Change brightness, contrast, saturation, hue and channel order, each with probability 0.5.

    The published code treats its RGB pictures as BGR. This has no effect: the hue then changes in
    the other direction, and both directions are equally likely.

    Args:
        image: [H, W, 3] uint8, RGB.
        overflow: "clip" limits values to 0 to 255. "wrap" wraps them around, so that the brightest
            pixels become black, as in the published code.

    Returns: [H, W, 3] uint8.
    """
    values = image.astype(np.float32)
    if _happens(rng):
        values += rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    contrast_first = _happens(rng)
    if contrast_first and _happens(rng):
        values *= rng.uniform(*GAIN)
    values = _recoloured(values, rng)
    if not contrast_first and _happens(rng):
        values *= rng.uniform(*GAIN)
    if _happens(rng):
        values = values[..., rng.permutation(3)]
    return as_bytes(values, overflow)


def as_bytes(values: np.ndarray, overflow: Overflow) -> np.ndarray:
    """Truncate values to whole grey levels: [...] float32 -> uint8."""
    if overflow == "clip":
        values = values.clip(0, 255)
    return np.ascontiguousarray(values.astype(np.int32).astype(np.uint8))


def _recoloured(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    saturation = float(rng.uniform(*GAIN)) if _happens(rng) else None
    turn = float(rng.uniform(-HUE, HUE)) if _happens(rng) else None
    if saturation is None and turn is None:
        return values
    hsv = cv2.cvtColor(values, cv2.COLOR_RGB2HSV)
    if saturation is not None:
        hsv[..., 1] = hsv[..., 1] * saturation
    if turn is not None:
        hsv[..., 0] = (hsv[..., 0] + turn) % 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _happens(rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.5)


class VisTRClips:
    """VisTR's training clips: one per epoch that ends with each frame of each video."""

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

    def draw(self, number: int, rng: np.random.Generator) -> TrainingClip:
        """Clip `number` of an epoch, with augmentation."""
        v, last = self.last_frames[number]
        video = self.videos[v]
        rows = read_rows(video, vistr_frames(last, len(video.files), self.clip_length))
        rows = self.augmented(rows, rng)
        return TrainingClip(
            frames=tuple(rows.frames),
            target=clip_target(rows, video.exhaustive, self.config.validity),
            origin=f"{video.files[last]}",
        )

    def augmented(self, rows: FrameRows, rng: np.random.Generator) -> FrameRows:
        """Mirror with probability 0.5, resize, distort colours, resize, crop and resize again."""
        c = self.config
        if rng.random() < 0.5:
            rows = mirrored(rows)
        rows = resized(rows, int(rng.choice(c.first_short_sides)), c.first_long_side)
        rows = recoloured(rows, rng, c.overflow)
        rows = resized(rows, int(rng.choice(c.crop_short_sides)), None)
        rows = cropped(rows, draw_region(rows.size, c.crop_sides, rng))
        return resized(rows, c.short_side, c.long_side)


def clip_target(rows: FrameRows, exhaustive: Sequence[bool], validity: Presence) -> ClipTarget:
    """The target of a clip.

    Args: validity: with "visible", an instance is present on the frames where its mask is not
        empty, and left out without such a frame. With "annotated", as published, it is present on
        all annotated frames, also if the crop has removed it.
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
    """The box of a track, clipped to the frame: [4] left, top, right, bottom in pixels."""
    stated = track.boxes_xywh[frame] if track.boxes_xywh else None
    limits = torch.tensor([size.width, size.height, size.width, size.height])
    if track.segmentations[frame] is None:
        return torch.zeros(4)
    if stated is None:
        mask = torch.from_numpy(track.mask(frame, size).astype(bool))
        return xyxy_of(boxes_of_masks(mask)) * limits
    box = torch.tensor(stated, dtype=torch.float32)
    return torch.cat([box[:2], box[:2] + box[2:]]).clamp(min=0).minimum(limits)
