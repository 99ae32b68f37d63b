"""Clips and targets of IFC's published training, which loads pictures with detectron2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco
from torch import Tensor

from vistool.config import IFCPipeline
from vistool.data.clips import TrainingClip, masks_on_canvas
from vistool.data.labelled import LabelledTrack, LabelledVideo
from vistool.data.published.clips import (
    Region,
    draw_region,
    ifc_frames,
)
from vistool.data.sampling import Frames
from vistool.data.shots import read_image
from vistool.ops.boxes import boxes_of_masks, cxcywh_of, xyxy_of
from vistool.ops.pixels import input_size, resize
from vistool.structures import ClipTarget, Size

ABSENT = -1  # the id of an instance on frames where it is not visible
MIN_BOX_SIDE = 1e-5  # pixels


@dataclass(frozen=True, slots=True)
class View:
    """The crop, size and mirroring with which a picture is given to the model."""

    region: Region
    size: Size  # that the region is resized to
    mirrored: bool

    def picture(self, image: np.ndarray) -> np.ndarray:
        """[H, W, 3] uint8 -> [h, w, 3] uint8."""
        seen = resize(np.ascontiguousarray(self._cut(image)), self.size).numpy()
        return np.ascontiguousarray(seen[:, ::-1]) if self.mirrored else seen

    def mask(self, track: LabelledTrack, frame: int, picture: Size) -> np.ndarray:
        """The mask of a track in the view: [h, w] bool.

        Run-length codes are resized as pixels, by nearest neighbour. Outlines are transformed as
        polygons and filled at the size of the view.
        """
        outlines = track.outlines[frame] if track.outlines else None
        if outlines is not None:
            return self._filled(outlines)
        mask = Image.fromarray(np.ascontiguousarray(self._cut(track.mask(frame, picture))))
        seen = mask.resize((self.size.width, self.size.height), Image.Resampling.NEAREST)
        return np.asarray(seen, dtype=bool)[:, :: -1 if self.mirrored else 1]

    def _cut(self, image: np.ndarray) -> np.ndarray:
        top, left, (height, width) = self.region
        return image[top : top + height, left : left + width]

    def _filled(self, outlines: Sequence[np.ndarray]) -> np.ndarray:
        top, left, region = self.region
        seen = []
        for outline in outlines:
            points = clipped_outline(outline - (left, top), region)
            points = points * (self.size.width / region.width, self.size.height / region.height)
            if self.mirrored:
                points[:, 0] = self.size.width - points[:, 0]
            if len(points) >= 3:
                seen.append(points.ravel())
        if not seen:
            return np.zeros(self.size, bool)
        code = coco.merge(coco.frPyObjects(seen, *self.size))
        return np.asarray(coco.decode(code), dtype=bool)


def clipped_outline(points: np.ndarray, size: Size) -> np.ndarray:
    """The part of a polygon inside a picture of `size`: [P, 2] x, y -> [R, 2].

    It is clipped at one edge after the other (Sutherland-Hodgman algorithm).
    """
    for axis, limit, sign in ((0, 0, 1), (0, size.width, -1), (1, 0, 1), (1, size.height, -1)):
        inside = sign * (points[:, axis] - limit) >= 0
        if inside.all():
            continue
        kept = []
        for n in range(len(points)):
            before, point = points[n - 1], points[n]
            if inside[n] != inside[n - 1]:
                share = (limit - before[axis]) / (point[axis] - before[axis])
                kept.append(before + share * (point - before))
            if inside[n]:
                kept.append(point)
        points = np.array(kept, np.float64).reshape(-1, 2)
    return points


@dataclass(frozen=True, slots=True)
class FrameTruth:
    """N instances on one frame; all frames of a clip have the same instances in the same order."""

    ids: Tensor  # [N] int64, of the annotation; ABSENT if the instance is not visible
    labels: Tensor  # [N] int64; K, which is not a class, if the instance has no mask on the frame
    boxes: Tensor  # [N, 4] float32 left, top, right, bottom in pixels, around the masks
    masks: Tensor  # [N, H, W] bool


def frame_truth(
    tracks: Sequence[LabelledTrack], frame: int, picture: Size, view: View, num_classes: int
) -> FrameTruth:
    """The instances `tracks` of a video on one frame, in a view.

    Args: frame: index in the video; picture: size of the video's frames; num_classes: K.
    """
    there = [track.segmentations[frame] is not None for track in tracks]
    masks = torch.zeros(len(tracks), *view.size, dtype=torch.bool)
    for n, track in enumerate(tracks):
        if there[n]:
            masks[n] = torch.from_numpy(view.mask(track, frame, picture).copy())
    boxes = (xyxy_of(boxes_of_masks(masks)) * _unit(view.size)).round()  # whole pixels
    nothing = ((boxes[:, 2:] - boxes[:, :2]) <= MIN_BOX_SIDE).any(1)
    ids = torch.tensor([track.id for track in tracks], dtype=torch.int64)
    labels = [
        track.label if seen else num_classes for track, seen in zip(tracks, there, strict=True)
    ]
    return FrameTruth(
        ids=ids.masked_fill(nothing, ABSENT),
        labels=torch.tensor(labels, dtype=torch.int64),
        boxes=boxes,
        masks=masks,
    )


def annotated_tracks(video: LabelledVideo, frames: Frames) -> list[LabelledTrack]:
    """The instances with a mask on at least one of the frames."""
    return [
        track
        for track in video.tracks
        if any(track.segmentations[frame] is not None for frame in frames)
    ]


def clip_target(frames: Sequence[FrameTruth], exhaustive: Sequence[bool]) -> ClipTarget:
    """The target of a clip: the instances that are visible on at least one frame."""
    present = torch.stack([frame.ids != ABSENT for frame in frames], dim=1)
    canvas = Size(*(max(frame.masks.shape[axis] for frame in frames) for axis in (1, 2)))
    masks = torch.stack([masks_on_canvas(frame.masks, canvas) for frame in frames], dim=1)
    labels = torch.stack([frame.labels for frame in frames], dim=1)
    boxes = [cxcywh_of(f.boxes) / _unit(Size(*f.masks.shape[1:])) for f in frames]
    shown = present.any(1)
    first = present[shown].int().argmax(1, keepdim=True)
    return ClipTarget(
        labels=labels[shown].gather(1, first)[:, 0],
        masks=masks[shown] & present[shown][..., None, None],
        exhaustive=torch.tensor(exhaustive, dtype=torch.bool),
        present=present[shown],
        boxes=torch.stack(boxes, dim=1)[shown],
    )


def _unit(size: Size) -> Tensor:
    """[4], by which a box in pixels is divided to get fractions of the frame."""
    return torch.tensor([size.width, size.height, size.width, size.height])


class IFCClips:
    """IFC's training clips: one per epoch for every video or picture."""

    def __init__(
        self, videos: Sequence[LabelledVideo], clip_length: int, config: IFCPipeline
    ) -> None:
        self.videos = videos
        self.clip_length = clip_length
        self.config = config
        self.groups = np.array([video.size.width > video.size.height for video in videos], np.int64)

    def draw(self, number: int, rng: np.random.Generator) -> TrainingClip:
        """Clip `number` of an epoch: one view for a video, and one per frame for a picture."""
        video = self.videos[number]
        if len(video.files) == 1:  # a picture, or a video for which the published code fails
            frames: Frames = (0,) * self.clip_length
            views = [self._draw_view(video.size, rng) for _ in frames]
        else:
            frames = ifc_frames(
                len(video.files), self.clip_length, rng, self.config.max_frame_distance
            )
            views = [self._draw_view(video.size, rng)] * len(frames)
        tracks = annotated_tracks(video, frames)
        truths = [
            frame_truth(tracks, frame, video.size, view, len(video.exhaustive))
            for frame, view in zip(frames, views, strict=True)
        ]
        return TrainingClip(
            frames=tuple(
                view.picture(read_image(video, frame))
                for frame, view in zip(frames, views, strict=True)
            ),
            target=clip_target(truths, video.exhaustive),
            origin=f"{video.files[frames[0]]}",
        )

    def _draw_view(self, picture: Size, rng: np.random.Generator) -> View:
        region = Region(0, 0, picture)
        if self.config.crop_sides is not None:
            region = draw_region(picture, self.config.crop_sides, rng)
        short = int(rng.choice(self.config.short_sides))
        size = input_size(region.size, short, self.config.long_side)
        return View(region, size, mirrored=bool(rng.random() < 0.5))
