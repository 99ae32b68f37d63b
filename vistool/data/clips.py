"""Training clips: frames of a picture or video seen by a moving camera, with pasted instances."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vistool.config import AugmentConfig
from vistool.data.annotations import LabelledVideo
from vistool.data.augment import blur, change_colours
from vistool.data.motion import draw_views
from vistool.data.sampling import ClipSampler, draw_frames
from vistool.errors import DataError
from vistool.structures import Size

MIN_VISIBLE = 16  # pixels on the canvas, summed over the clip; less is no instance


@dataclass(frozen=True, slots=True)
class TrainingClip:
    """T frames with N instances, exact after occlusion."""

    frames: np.ndarray  # [T, H, W, 3] uint8, RGB
    masks: np.ndarray  # [N, T, H, W] bool
    labels: np.ndarray  # [N] int64
    exhaustive: np.ndarray  # [K] bool
    origin: str = ""  # where its first picture lies, for messages


class ClipMaker:
    """Draws training clips; the same generator state gives the same clip."""

    def __init__(self, sampler: ClipSampler, clip_length: int, augment: AugmentConfig) -> None:
        self.sampler = sampler
        self.clip_length = clip_length
        self.augment = augment

    def draw(self, canvas: Size, rng: np.random.Generator) -> TrainingClip:
        """A clip of `canvas` size."""
        clip = self._render(self.sampler.draw(rng), canvas, rng, self.augment.scale)
        if rng.random() < self.augment.paste_chance:
            clip = self._paste(clip, canvas, rng)
        visible = clip.masks.sum(axis=(1, 2, 3)) >= MIN_VISIBLE
        frames = change_colours(clip.frames, rng, self.augment.colour)
        return TrainingClip(
            frames=blur(frames, rng, self.augment.blur_chance),
            masks=clip.masks[visible],
            labels=clip.labels[visible],
            exhaustive=clip.exhaustive,
            origin=clip.origin,
        )

    def _render(
        self,
        video: LabelledVideo,
        canvas: Size,
        rng: np.random.Generator,
        scale: tuple[float, float],
    ) -> TrainingClip:
        frame_ids = draw_frames(
            len(video.files), self.clip_length, self.augment.max_frame_distance, rng
        )
        if rng.random() < 0.5:
            frame_ids = frame_ids[::-1]
        moves = self.augment.motion if len(video.files) == 1 else 0.2 * self.augment.motion
        source = {f: _read_image(video, f) for f in set(frame_ids)}
        masks = {f: [track.mask(f, video.size) for track in video.tracks] for f in source}
        views = draw_views(
            video.size,
            canvas,
            self.clip_length,
            rng,
            scale_range=scale,
            motion=moves * rng.random(),
            focus=_some_instance(masks[frame_ids[0]], rng),
        )
        shape = (len(video.tracks), self.clip_length, *canvas)
        warped = np.zeros(shape, bool)
        for t, (frame, view) in enumerate(zip(frame_ids, views, strict=True)):
            for n, mask in enumerate(masks[frame]):
                if mask.any():
                    warped[n, t] = view.mask(mask)
        return TrainingClip(
            frames=np.stack(
                [view.picture(source[f]) for f, view in zip(frame_ids, views, strict=True)]
            ),
            masks=warped,
            labels=np.array([track.label for track in video.tracks], np.int64),
            exhaustive=np.array(video.exhaustive, bool),
            origin=str(video.files[frame_ids[0]]),
        )

    def _paste(self, clip: TrainingClip, canvas: Size, rng: np.random.Generator) -> TrainingClip:
        """Cut instances out of another clip and put them, moving on their own, over this one."""
        other = self._render(self.sampler.draw(rng), canvas, rng, self.augment.paste_scale)
        visible = np.flatnonzero(other.masks.any(axis=(1, 2, 3)))
        if len(visible) == 0:
            return clip
        count = min(len(visible), int(rng.integers(1, self.augment.max_pasted + 1)))
        chosen = rng.choice(visible, size=count, replace=False)
        pasted = other.masks[chosen]
        cover = pasted.any(0)
        frames = np.stack(
            [_blend(*layers) for layers in zip(clip.frames, other.frames, cover, strict=True)]
        )
        return TrainingClip(
            frames=frames,
            masks=np.concatenate([clip.masks & ~cover, pasted]),
            labels=np.concatenate([clip.labels, other.labels[chosen]]),
            exhaustive=clip.exhaustive,
            origin=clip.origin,
        )


def _blend(below: np.ndarray, above: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """`above` where `cover`, with an edge a pixel soft, so that the cut is no clue."""
    alpha = cv2.GaussianBlur(cover.astype(np.float32), (3, 3), 0)[..., None]
    return (below * (1 - alpha) + above * alpha + 0.5).astype(np.uint8)


def _some_instance(masks: list[np.ndarray], rng: np.random.Generator) -> tuple[float, float] | None:
    """The middle of an instance, most of the time, so that crops are seldom empty."""
    visible = [mask for mask in masks if mask.any()]
    if not visible or rng.random() < 0.2:
        return None
    rows, columns = np.nonzero(visible[int(rng.integers(len(visible)))])
    return float(columns.mean()), float(rows.mean())


def _read_image(video: LabelledVideo, frame: int) -> np.ndarray:
    """[H, W, 3] uint8, RGB. Raises: DataError for a missing file or one of another size."""
    path = video.files[frame]
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path}: missing, or not a readable picture")
    if image.shape[:2] != video.size:
        height, width = image.shape[:2]
        raise DataError(
            f"{path}: is {width}x{height}, but its annotations say "
            f"{video.size.width}x{video.size.height}"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
