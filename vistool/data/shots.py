"""Shots: frames of a picture or video through a camera, and the masks of its instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vistool.annotations.dataset import other_size
from vistool.data.labelled import LabelledTrack, LabelledVideo
from vistool.data.motion import Camera, frame_times, shifted
from vistool.data.warping import (
    CanvasBox,
    Part,
    canvas_box_of,
    exposure,
    magnification,
    project,
    seen,
    seen_mask,
    shrunk,
)
from vistool.formats.masks.rle import decode_columns
from vistool.formats.video.frame_files import read_frame
from vistool.structures import RLE, Size


@dataclass(frozen=True, slots=True)
class Patch:
    """A mask, cropped to the box around its instance."""

    mask: np.ndarray  # [h, w] uint8, 1 on the instance
    left: int
    top: int

    @classmethod
    def of(cls, mask: np.ndarray) -> Patch | None:
        """From an [H, W] uint8 mask; None if it is empty."""
        return cls.of_columns(np.ascontiguousarray(mask.T))

    @classmethod
    def of_columns(cls, columns: np.ndarray) -> Patch | None:
        """From the transpose of a mask, [W, H] uint8; only the box is transposed back."""
        top, left, height, width = cv2.boundingRect(columns)
        box = columns[left : left + width, top : top + height]
        return cls(np.ascontiguousarray(box.T), left, top) if width else None

    @property
    def corners(self) -> np.ndarray:
        """[4, 2] x, y of the box in the picture."""
        height, width = self.mask.shape
        steps = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
        return np.array([self.left - 0.5, self.top - 0.5]) + steps * (width, height)

    @property
    def middle(self) -> tuple[float, float]:
        """x, y of the mask's centre of mass in the picture."""
        moments = cv2.moments(self.mask, binaryImage=True)
        x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
        return self.left + x, self.top + y

    def on(self, out: np.ndarray, matrix: np.ndarray) -> None:
        """Transform the mask by a matrix and write it to `out`, a canvas [H, W] bool."""
        height, width = out.shape
        box = canvas_box_of(self.corners, [matrix], Size(height, width), margin=1)
        if box is not None:
            part = Part(self.mask, shifted(self.left, self.top))
            out[box.pixels] = seen_mask(part, matrix, box)


@dataclass(frozen=True, slots=True)
class Shot:
    """T frames of a picture or video, a camera, and the masks of the tracks on these frames."""

    video: LabelledVideo
    frame_ids: tuple[int, ...]
    patches: dict[int, list[Patch | None]]  # by frame, one per track
    camera: Camera

    @property
    def times(self) -> list[float]:
        """The clip times of its frames, from -1 to 1."""
        return frame_times(len(self.frame_ids))

    def frames(self, shutter: float) -> np.ndarray:
        """The frames on the canvas: [T, H, W, 3] uint8.

        Args: shutter: the exposure of a frame, in clip time.
        """
        canvas = self.camera.canvas
        box = CanvasBox.whole(canvas)
        edges = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * (canvas.width, canvas.height)
        middle = np.array([[canvas.width / 2, canvas.height / 2]])
        matrices = [self.camera.matrix(time) for time in self.times]
        scale = max(magnification(m, project(middle, np.linalg.inv(m))[0]) for m in matrices)
        parts = {f: shrunk(read_image(self.video, f), scale) for f in set(self.frame_ids)}
        frames = []
        for frame, time, matrix in zip(self.frame_ids, self.times, matrices, strict=True):
            points = project(edges, np.linalg.inv(matrix))
            moments = exposure(self.camera.matrix, time, points, shutter, canvas)
            frames.append(_mean([seen(parts[frame], moment, box) for moment in moments]))
        return np.stack(frames)

    def masks(self) -> np.ndarray:
        """The masks of the tracks on the canvas: [N, T, H, W] bool."""
        return self._on_canvas(self.patches, len(self.video.tracks))

    def region_masks(self) -> np.ndarray:
        """The video's regions on the canvas: [R, T, H, W] bool."""
        regions = self.video.regions
        patches = patches_of(regions, set(self.frame_ids)) if regions else {}
        return self._on_canvas(patches, len(regions))

    def _on_canvas(self, patches: dict[int, list[Patch | None]], count: int) -> np.ndarray:
        """[count, T, H, W] bool."""
        masks = np.zeros((count, len(self.frame_ids), *self.camera.canvas), bool)
        for t, (frame, time) in enumerate(zip(self.frame_ids, self.times, strict=True)):
            matrix = self.camera.matrix(time)
            for n, patch in enumerate(patches.get(frame, ())):
                if patch is not None:
                    patch.on(masks[n, t], matrix)
        return masks


def read_patches(video: LabelledVideo, frames: set[int]) -> dict[int, list[Patch | None]]:
    """The masks of all tracks of a video, by frame."""
    return patches_of(video.tracks, frames)


def patches_of(tracks: Sequence[LabelledTrack], frames: set[int]) -> dict[int, list[Patch | None]]:
    """The masks of some tracks, by frame."""
    return {f: [_patch(track.segmentations[f]) for track in tracks] for f in frames}


def _patch(rle: RLE | None) -> Patch | None:
    return None if rle is None else Patch.of_columns(decode_columns(rle))


def _mean(pictures: list[np.ndarray]) -> np.ndarray:
    """The mean of uint8 pictures of equal size."""
    if len(pictures) == 1:
        return pictures[0]
    total = np.zeros(pictures[0].shape, np.uint16)
    for picture in pictures:
        cv2.add(total, picture, dst=total, dtype=cv2.CV_16U)
    return cv2.convertScaleAbs(total, alpha=1 / len(pictures))


def read_image(video: LabelledVideo, frame: int) -> np.ndarray:
    """[H, W, 3] uint8, RGB, as displayed.

    Raises: DataError if the file is missing or has another size than the video.
    """
    path = video.files[frame]
    image = read_frame(video.files, frame, cut_off=True)
    size = Size(*image.shape[:2])
    if size != video.size:
        raise other_size(path, size, video.size)
    return image
