"""Training clips: frames of a picture or video under a moving camera, with pasted instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vistool.config import AugmentConfig
from vistool.data.augment import blur, change_colours, compress, happens, make_noise
from vistool.data.labelled import LabelledTrack, LabelledVideo
from vistool.data.motion import draw_camera, draw_object_path
from vistool.data.pasting import Pasted, paste
from vistool.data.sampling import ClipSampler, draw_frames
from vistool.data.shots import Patch, Shot, read_patches
from vistool.data.warping import project
from vistool.errors import UsageError
from vistool.structures import ClipTarget, Size

MIN_VISIBLE = 16  # instances with fewer pixels, summed over the clip, are left out
SHUTTER = (0.15, 0.6)  # exposure with motion blur, as a share of the time between two frames
REAL_MOTION = 0.2  # videos, which have their own motion, get this share of the camera motion


@dataclass(frozen=True, slots=True)
class TrainingClip:
    """T frames and their labels; in the papers' clips, frames may have different sizes."""

    frames: tuple[np.ndarray, ...]  # [H, W, 3] uint8, RGB
    target: ClipTarget  # without occluded pixels, on a canvas of the largest frame's size
    origin: str  # the file of its first frame, for messages


def masks_on_canvas(masks: Tensor, canvas: Size) -> Tensor:
    """Pad masks below and to the right with False: [..., h, w] bool -> [..., H, W]."""
    height, width = masks.shape[-2:]
    return F.pad(masks, (0, canvas.width - width, 0, canvas.height - height))


class ClipMaker:
    """Draws training clips; the same generator state gives the same clip.

    Args: class_names: of the sampler's labels, for settings that use class names.
    """

    def __init__(
        self,
        sampler: ClipSampler,
        clip_length: int,
        augment: AugmentConfig,
        class_names: Sequence[str] = (),
    ) -> None:
        self.sampler = sampler
        self.clip_length = clip_length
        self.augment = augment
        self.paste_chances = _paste_chances(sampler, augment.paste_classes, class_names)

    def draw(self, canvas: Size, rng: np.random.Generator) -> TrainingClip:
        """Draw a clip of the size `canvas`."""
        shot = self._shot(self.sampler.draw(rng), canvas, rng, self.augment.scale)
        shutter = self._shutter(rng)
        frames, masks, labels = shot.frames(shutter), shot.masks(), _labels(shot.video.tracks)
        regions = shot.region_masks()
        if rng.random() < self.augment.paste_chance:
            for _ in range(int(rng.integers(1, self.augment.max_paste_shots + 1))):
                label = self._pasted_class(rng)
                video = self.sampler.draw(rng, label)
                other = self._shot(video, canvas, rng, self.augment.paste_scale, label)
                instances = self._instances(other, rng, label)
                if instances:
                    masks = paste(frames, masks, shot, other, instances, shutter)
                    regions &= ~masks[-len(instances) :].any(0)
                    pasted = _labels(other.video.tracks)[[i.track for i in instances]]
                    labels = np.append(labels, pasted)
        visible = masks.sum(axis=(1, 2, 3)) >= MIN_VISIBLE
        region_labels = torch.from_numpy(_labels(shot.video.regions))
        return TrainingClip(
            frames=tuple(self._filmed(frames, rng)),
            target=ClipTarget(
                labels=torch.from_numpy(labels[visible]),
                masks=torch.from_numpy(masks[visible]),
                exhaustive=torch.tensor(shot.video.exhaustive, dtype=torch.bool),
                regions=torch.from_numpy(regions) if len(regions) else None,
                region_labels=region_labels if len(regions) else None,
            ),
            origin=str(shot.video.files[shot.frame_ids[0]]),
        )

    def _pasted_class(self, rng: np.random.Generator) -> int | None:
        """The class of the next pasted instances; None: any."""
        if self.paste_chances is None:
            return None
        return int(rng.choice(len(self.paste_chances), p=self.paste_chances))

    def _shot(
        self,
        video: LabelledVideo,
        canvas: Size,
        rng: np.random.Generator,
        scale: tuple[float, float],
        label: int | None = None,
    ) -> Shot:
        """Frames of a video with a camera that looks at an instance of class `label`, or of any."""
        frame_ids = draw_frames(
            len(video.files), self.clip_length, self.augment.max_frame_distance, rng
        )
        if rng.random() < 0.5:
            frame_ids = frame_ids[::-1]
        patches = read_patches(video, set(frame_ids))
        liveliness = rng.random() * (1.0 if len(video.files) == 1 else REAL_MOTION)
        camera = draw_camera(
            video.size,
            canvas,
            self.clip_length,
            rng,
            scale_range=scale,
            motion=self.augment.motion * liveliness,
            tilt=self.augment.perspective * liveliness,
            focus=_some_instance(
                [
                    patch
                    for patch, track in zip(patches[frame_ids[0]], video.tracks, strict=True)
                    if label in (None, track.label)
                ],
                rng,
            ),
        )
        return Shot(video, frame_ids, patches, camera)

    def _shutter(self, rng: np.random.Generator) -> float:
        """The exposure of every frame of a clip, in clip time; 0: without motion blur."""
        if self.clip_length == 1 or not happens(self.augment.motion_blur_chance, rng):
            return 0.0
        return float(rng.uniform(*SHUTTER)) * 2 / (self.clip_length - 1)

    def _instances(self, shot: Shot, rng: np.random.Generator, label: int | None) -> list[Pasted]:
        """Instances of a shot to be pasted, with their paths; of class `label`, or of any class."""
        boxes = _boxes(shot)
        if label is not None:
            boxes = {n: box for n, box in boxes.items() if shot.video.tracks[n].label == label}
        if self.clip_length > 1:  # instances at the edge of their picture would show a straight cut
            boxes = {n: boxes[n] for n in boxes if _is_whole(shot, n)} or boxes
        if not boxes:
            return []
        count = min(len(boxes), int(rng.integers(1, self.augment.max_pasted + 1)))
        return [
            Pasted(
                track=int(n),
                path=draw_object_path(
                    boxes[int(n)],
                    shot.camera.canvas,
                    self.clip_length,
                    rng,
                    motion=self.augment.object_motion * rng.random(),
                    leave_chance=self.augment.leave_chance,
                ),
                behind=happens(self.augment.behind_chance, rng),
            )
            for n in rng.choice(list(boxes), size=count, replace=False)
        ]

    def _filmed(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A clip [T, H, W, 3] uint8 with the effects of a cheap camera and a codec."""
        frames = change_colours(frames, rng, self.augment.colour)
        frames = blur(frames, rng, self.augment.blur_chance)
        frames = make_noise(frames, rng, self.augment.noise_chance)
        return compress(frames, rng, self.augment.compression_chance)


def _paste_chances(
    sampler: ClipSampler, weights: Mapping[str, float], class_names: Sequence[str]
) -> np.ndarray | None:
    """The probability that each class is pasted, [K]; None without `weights`.

    Raises: UsageError if a weight is of a class that is not trained.
    """
    if not weights:
        return None
    unknown = sorted(weights.keys() - set(class_names))
    if unknown:
        raise UsageError(
            f"[augment.paste_classes] {unknown[0]!r} is not a class of this training",
            hint=f"its classes: {', '.join(class_names)}",
        )
    chances = np.array(
        [
            weights.get(name, 1.0) if sampler.videos_of_class[label] else 0.0
            for label, name in enumerate(class_names)
        ]
    )
    return np.asarray(chances / chances.sum())


def _labels(tracks: Sequence[LabelledTrack]) -> np.ndarray:
    return np.array([track.label for track in tracks], np.int64)


def _middle_patches(shot: Shot) -> list[Patch | None]:
    return shot.patches[shot.frame_ids[len(shot.frame_ids) // 2]]


def _boxes(shot: Shot) -> dict[int, np.ndarray]:
    """Boxes of the instances on the middle frame, on the canvas.

    Returns: index of the track -> [2, 2], (left, top) and (right, bottom).
    """
    matrix, boxes = shot.camera.matrix(0.0), {}
    for n, patch in enumerate(_middle_patches(shot)):
        if patch is not None:
            cover = np.zeros(shot.camera.canvas, bool)
            patch.on(cover, matrix)
            if cover.any():
                corners = project(patch.corners, matrix)
                boxes[n] = np.stack([corners.min(0), corners.max(0)])
    return boxes


def _is_whole(shot: Shot, track: int) -> bool:
    """Whether an instance does not touch the edges of its picture."""
    patch = _middle_patches(shot)[track]
    if patch is None:
        return False
    low, high = patch.corners[0], patch.corners[-1]
    return bool(low.min() > 0 and (high < np.array(shot.video.size[::-1]) - 1).all())


def _some_instance(
    patches: list[Patch | None], rng: np.random.Generator
) -> tuple[float, float] | None:
    """The centre (x, y) of a random instance, so that crops are seldom empty; sometimes None."""
    visible = [patch for patch in patches if patch is not None]
    if not visible or rng.random() < 0.2:
        return None
    return visible[int(rng.integers(len(visible)))].middle
