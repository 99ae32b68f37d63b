"""Batches of the papers' clips: order, padding, and training of both models on them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_data import make_pictures, make_video
from vistool.config import (
    IFCPipeline,
    LossConfig,
    PixelConfig,
    SourceConfig,
    TrainConfig,
    VisTRPipeline,
)
from vistool.data.batches import loader, padded_batch
from vistool.data.clips import TrainingClip
from vistool.data.labelled import LabelledVideo
from vistool.data.published.batches import EpochOrder
from vistool.data.published.clips import draw_region
from vistool.data.published.ifc import IFCClips
from vistool.engine.train.setup import training_batches
from vistool.engine.train.train import train
from vistool.errors import UsageError
from vistool.structures import ClipTarget, Size

IFC_SMALL = IFCPipeline(short_sides=(32, 40))
VISTR_SMALL = VisTRPipeline(
    first_short_sides=(40, 48),
    first_long_side=60,
    crop_short_sides=(36, 40),
    crop_sides=(24, 40),
    short_side=32,
    long_side=60,
)
TINY = {
    "backbone": {"kind": "resnet", "stem_channels": 8, "bottleneck_channels": 4},
    "hidden_dim": 32,
    "num_heads": 4,
    "feedforward_dim": 64,
    "num_queries": 5,
    "encoder_layers": 1,
    "decoder_layers": 2,
}
VISTR_TINY = {**TINY, "architecture": "vistr", "hidden_dim": 48, "clip_length": 3}


def config(folder: Path, paper: str, file: str = "videos.json", **changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "classes": {"red": ("red square",), "blue": ("blue square",)},
        "sources": (SourceConfig(annotations=file),),
        "data": str(folder),
        "model": TINY if paper == "ifc" else VISTR_TINY,
        "pipeline": IFC_SMALL if paper == "ifc" else VISTR_SMALL,
        "init": "random",
        "steps": 3,
        "batch": 2,
        "clip_length": 3,
        "frozen_blocks": 0,
        "workers": 0,
        "device": "cpu",
        **changes,
    }
    return TrainConfig(**values)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=50)
def test_epochs_have_every_clip_once_and_all_clips_of_a_batch_are_of_one_group(
    groups: list[int], size: int, epochs: int
) -> None:
    order = EpochOrder(np.array(groups), size, seed=3)
    sizes = Counter(groups)
    steps = sum(epochs * count // size for count in sizes.values())
    batches = [order(step) for step in range(steps)]
    assert all(len({groups[clip] for clip in batch}) == 1 for batch in batches)
    counts = Counter(int(clip) for batch in batches for clip in batch)
    for group, members in sizes.items():
        seen = [counts[clip] for clip, its_group in enumerate(groups) if its_group == group]
        assert sum(seen) == epochs * members // size * size  # fewer clips than a batch remain
        assert max(seen) - min(seen) <= -(-size // members)


def test_every_epoch_has_a_new_order_that_does_not_depend_on_earlier_calls() -> None:
    groups = np.zeros(10, np.int64)
    order = EpochOrder(groups, 10, seed=0)
    late, early = order(7), order(2)
    assert sorted(late) == sorted(early) == list(range(10))
    assert list(late) != list(early)
    np.testing.assert_array_equal(EpochOrder(groups, 10, seed=0)(7), late)
    assert list(EpochOrder(groups, 10, seed=1)(7)) != list(late)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 99))
def test_a_crop_lies_in_its_picture_and_its_sides_are_in_the_range(
    height: int, width: int, seed: int
) -> None:
    top, left, size = draw_region(Size(height, width), (20, 30), np.random.default_rng(seed))
    assert top >= 0
    assert left >= 0
    assert top + size.height <= height
    assert left + size.width <= width
    for side, whole in zip(size, (height, width), strict=True):
        assert min(20, whole) <= side <= min(30, whole)


def one_frame_clip(size: Size, value: int) -> TrainingClip:
    target = ClipTarget(
        labels=torch.tensor([0]),
        masks=torch.ones(1, 1, *size, dtype=torch.bool),
        exhaustive=torch.tensor([True]),
        boxes=torch.tensor([[[0.5, 0.5, 1.0, 1.0]]]),
    )
    return TrainingClip((np.full((*size, 3), value, np.uint8),), target, "made")


def test_a_batch_is_padded_below_and_to_the_right_with_zeros_after_normalising() -> None:
    clips = [one_frame_clip(Size(4, 6), 100), one_frame_clip(Size(5, 3), 200)]
    batch = padded_batch(clips, PixelConfig(mean=(50.0, 50.0, 50.0), std=(10.0, 10.0, 10.0)))
    assert batch.pixels.shape == (2, 1, 3, 5, 6)
    assert batch.padded is not None
    for n, (size, value) in enumerate(((Size(4, 6), 5.0), (Size(5, 3), 15.0))):
        inside = torch.zeros(5, 6, dtype=torch.bool)
        inside[: size.height, : size.width] = True
        assert torch.equal(batch.padded[n, 0], ~inside)
        assert torch.equal(batch.pixels[n, 0], (value * inside).expand(3, -1, -1))
        assert torch.equal(batch.targets[n].masks[0, 0], inside)
    # Boxes stay fractions of their own frames.
    assert batch.targets[0].boxes is clips[0].target.boxes
    assert padded_batch(clips[:1], PixelConfig()).padded is None


@pytest.mark.parametrize("paper", ["ifc", "vistr"])
def test_a_batch_depends_only_on_seed_and_number(paper: str, tmp_path: Path) -> None:
    make_video(tmp_path, 5)
    batches = training_batches(config(tmp_path, paper), PixelConfig())
    first, second = batches.make(1, range(2)), next(loader(batches, 1, workers=0))
    assert torch.equal(first.pixels, second.pixels)
    for a, b in zip(first.targets, second.targets, strict=True):
        assert torch.equal(a.masks, b.masks)
    assert first.pixels.shape[:3] == (2, 3, 3)
    assert "v" in Path(first.origins[0]).parts
    # One of two processes gets the same clips as a single process.
    half = batches.make(1, range(1, 2))
    torch.testing.assert_close(half.targets[0].labels, first.targets[1].labels)


AS_PUBLISHED: dict[str, Any] = {
    "pipeline": msgspec.structs.replace(VISTR_SMALL, overflow="wrap", validity="annotated"),
    "loss": LossConfig(validity="published"),
    "classes": {"(unused)": (), "red": ("red square",), "blue": ("blue square",)},
}


@pytest.mark.parametrize(
    ("paper", "changes"),
    [("ifc", {}), ("vistr", {}), ("vistr", AS_PUBLISHED)],
    ids=["ifc", "vistr", "vistr with the published faults"],
)
def test_a_model_is_trained_on_a_paper_s_clips_of_different_sizes(
    paper: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    make_video(tmp_path, 5)
    settings = config(tmp_path, paper, **changes)
    sizes = [
        batch.padded is not None
        for batch in loader(training_batches(settings, PixelConfig()), 0, 0)
    ]
    assert any(sizes)
    train(settings, tmp_path / "run")
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in log]
    assert len(losses) == 3
    assert np.isfinite(losses).all()


def test_a_picture_s_frames_are_cropped_one_by_one(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    pipeline = IFCPipeline(short_sides=(32,), crop_sides=(20, 60))
    settings = config(tmp_path, "ifc", "pictures.json", pipeline=pipeline)
    batch = training_batches(settings, PixelConfig()).make(0, range(2))
    assert batch.padded is not None
    sizes = {tuple((~padded).nonzero().amax(0).tolist()) for padded in batch.padded[0]}
    assert len(sizes) > 1


def test_wide_videos_and_all_others_are_separate_groups() -> None:
    videos = [LabelledVideo((), Size(*size), (), ()) for size in ((3, 4), (4, 3), (4, 4), (2, 9))]
    assert IFCClips(videos, 3, IFC_SMALL).groups.tolist() == [1, 0, 0, 1]


def test_different_weights_of_sources_are_refused(tmp_path: Path) -> None:
    make_video(tmp_path, 3)
    sources = tuple(SourceConfig(annotations="videos.json", weight=w) for w in (1.0, 2.0))
    with pytest.raises(UsageError, match="have different weights, but an epoch of"):
        training_batches(config(tmp_path, "ifc", sources=sources), PixelConfig())


def test_ifc_refuses_vistr_s_validity(tmp_path: Path) -> None:
    make_video(tmp_path, 3)
    with pytest.raises(UsageError, match="validity: IFC predicts no boxes"):
        train(config(tmp_path, "ifc", loss=LossConfig(validity="own")), tmp_path / "run")
