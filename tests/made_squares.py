"""Synthetic videos of coloured squares, and a model that segments them, for tests of predict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistool.config import IFCConfig, PixelConfig, PredictConfig
from vistool.engine.predict.job import PredictJob
from vistool.engine.predict.video import predict_opened
from vistool.engine.tracked_video import TrackedVideo
from vistool.formats.masks.rle import decode_mask, encode_mask
from vistool.formats.results.files import VideoMeta, read_meta, read_results
from vistool.formats.video.reader import open_video
from vistool.formats.video.writer import VideoWriter
from vistool.models.checkpoints.files import LoadedModel, WeightsHeader
from vistool.progress import OnProgress, silent
from vistool.structures import ClipOutput, FrameFeatures, Size, TrackSegmentation

SIZE = Size(96, 160)
COLOURS = {"red": (220, 0, 0), "green": (0, 220, 0), "blue": (0, 0, 220)}
QUIET = PredictConfig(overlay=False)

# For every object: name, frames, row, column on frame 0, columns per frame. Sides are 40 pixels.
Scene = list[tuple[str, range, int, int, int]]
LENGTH = 14
SCENE: Scene = [
    ("red", range(14), 8, 8, 4),
    ("green", range(4, 14), 52, 100, -4),
    ("blue", range(9), 8, 112, 0),
]


class SquareFinder(nn.Module):
    """A model with known predictions: one query per colour, "no object" if it is not visible.

    The order of its queries changes from clip to clip, since queries are not tied to objects.
    """

    config = IFCConfig(
        class_names=tuple(COLOURS),
        category_ids=(7, 5, 3),
        pixels=PixelConfig(mean=(0, 0, 0), std=(255, 255, 255)),
        clip_length=4,
        clip_stride=2,
        test_short_side=96,
    )

    def __init__(self, longest_clip: int = 10**6) -> None:
        super().__init__()
        self.longest_clip = longest_clip
        self.encoded = 0
        self.clips: list[tuple[int, int]] = []  # B, T

    def encode_frames(self, pixels: Tensor) -> FrameFeatures:
        self.encoded += len(pixels)
        cells = [F.avg_pool2d(pixels, stride, ceil_mode=True) for stride in (32, 16, 8)]
        return FrameFeatures(cells[0], tuple(cells[1:]), None)

    def decode_clips(self, features: FrameFeatures, num_frames: int) -> ClipOutput:
        if num_frames > self.longest_clip:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        frames = features.laterals[-1].unflatten(0, (-1, num_frames))  # [B, T, 3, h, w]
        colours = torch.tensor(list(COLOURS.values())) / 255
        distance = (frames[:, None] - colours[:, None, :, None, None]).norm(dim=3)
        masks = 20 * (0.4 - distance)  # [B, 3, T, h, w]
        seen = (masks > 0).flatten(2).any(2)
        logits = torch.where(
            seen[..., None],
            torch.tensor([[4.0, 0, 0, 0], [0, 3, 0, 0], [0, 0, 2, 0]]),
            torch.tensor([0.0, 0, 0, 3]),
        )
        order = torch.arange(3).roll(len(self.clips))
        self.clips.append((len(frames), num_frames))
        return ClipOutput(logits[:, order], masks[:, order])


def score_of(name: str) -> float:
    strength = {"red": 4.0, "green": 3.0, "blue": 2.0}[name]
    return float(np.exp(strength) / (np.exp(strength) + 3))


def loaded(model: nn.Module | None = None) -> LoadedModel:
    model = model or SquareFinder()
    config: Any = model.config
    header = WeightsHeader(Path("squares.safetensors"), config, {})
    return LoadedModel(model, header, "0" * 64)  # type: ignore[arg-type]


def truth(scene: Scene, name: str, frame: int) -> np.ndarray | None:
    """The mask of an object on a frame; None if it is absent."""
    for other, frames, row, column, speed in scene:
        if other == name and frame in frames:
            left = column + speed * frame
            mask = np.zeros(SIZE, dtype=bool)
            mask[row : row + 40, left : left + 40] = True
            return mask
    return None


def pictures(scene: Scene, length: int) -> Iterator[np.ndarray]:
    for frame in range(length):
        image = np.full((*SIZE, 3), 110, np.uint8)
        for name, *_ in scene:
            mask = truth(scene, name, frame)
            if mask is not None:
                image[mask] = COLOURS[name]
        yield image


def save_frames(folder: Path, scene: Scene = SCENE, length: int = LENGTH) -> Path:
    """Write a folder of frames, which vistool reads as 10 frames per second."""
    folder.mkdir(parents=True)
    for i, image in enumerate(pictures(scene, length)):
        cv2.imwrite(str(folder / f"{i:03}.png"), image[..., ::-1])
    return folder


def save_clip(path: Path, scene: Scene = SCENE, length: int = LENGTH) -> Path:
    """The same frames as an mp4."""
    with VideoWriter(path, SIZE, fps=10) as writer:
        for i, image in enumerate(pictures(scene, length)):
            writer.write(image, i / 10)
    return path


def save_labels(folder: Path) -> None:
    """valid.json: what is to be seen in the clip; results.json: predictions of just that."""
    about = {"id": 1, "width": SIZE.width, "height": SIZE.height, "length": LENGTH}
    tracks = [
        {
            **{"video_id": 1, "category_id": category},
            "segmentations": [
                None if (mask := truth(SCENE, name, frame)) is None else encode_mask(mask)
                for frame in range(LENGTH)
            ],
        }
        for name, category in zip(COLOURS, SquareFinder.config.category_ids, strict=True)
    ]
    categories = [{"id": id_, "name": n} for id_, n in zip((7, 5, 3), COLOURS, strict=True)]
    labels = [{"id": n, **track} for n, track in enumerate(tracks, start=1)]
    content = {"videos": [about], "annotations": labels, "categories": categories}
    (folder / "valid.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps([{**t, "score": 0.9} for t in tracks]))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_frames(tmp_path / "squares")


def predict_into(
    model: LoadedModel,
    source: Path,
    folder: Path,
    config: PredictConfig | None = None,
    on_progress: OnProgress = silent,
) -> TrackedVideo:
    """Predict one source, like the command."""
    with open_video(source) as reader:
        video, _ = predict_opened(
            PredictJob(model, config or PredictConfig()), reader, folder, on_progress
        )
    return video


def outcome(folder: Path) -> tuple[list[TrackSegmentation], VideoMeta]:
    return read_results(folder / "results.json"), read_meta(folder / "meta.json")


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def assert_tracks_follow_the_squares(
    results: list[TrackSegmentation], seen: range, names: tuple[str, ...] = ("red", "green", "blue")
) -> None:
    """One track per object, on exactly its frames; `seen`: the frames that the model processed."""
    name_of = dict(zip((7, 5, 3), COLOURS, strict=True))
    assert [name_of[r["category_id"]] for r in results] == list(names)
    for result, name in zip(results, names, strict=True):
        for frame, mask in enumerate(result["segmentations"]):
            expected = truth(SCENE, name, frame) if frame in seen else None
            assert (mask is None) == (expected is None), (name, frame)
            if mask is not None and expected is not None:
                # The model's masks have cells of 8 pixels; a square has 40 pixels per side.
                assert overlap(decode_mask(mask), expected) > 0.8
