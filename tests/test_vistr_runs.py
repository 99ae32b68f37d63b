"""VisTR from pictures to results, compared with the published script; long videos; training."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.made_data import make_pictures
from tests.recorded import FIXTURES, recorded, recorded_json
from tests.test_vistr import small_vistr, tiny_vistr
from vistool.config import LossConfig, PredictConfig, SourceConfig, TrainConfig
from vistool.engine.predict.segment import Segmenter, clip_settings
from vistool.engine.train.log import LOG
from vistool.engine.train.train import train
from vistool.errors import UsageError
from vistool.formats.masks.rle import decode_mask, encode_mask
from vistool.models.checkpoints.files import load_model
from vistool.models.vistr import VisTR, by_instance
from vistool.structures import RLE, FrameClipOutput, FrameHeads, FrameTracks, Size, VideoFrame
from vistool.tracking.postprocess import (
    clip_prediction,
    likely,
    masks_at,
    results_single_class,
)
from vistool.tracking.stitch import TrackStitcher

CPU = torch.device("cpu")


def as_published(
    frames: list[FrameTracks], class_probs: Tensor, size: Size
) -> list[dict[str, Any]]:
    """Tracks in the published script's form: an empty mask is written, an absent instance is null.

    An instance with a mask that is absent from every frame is an entry of nulls.
    """
    nothing = encode_mask(np.zeros(size, bool))
    entries = []
    for track_id, label, score in results_single_class(class_probs):
        masks: list[RLE | None] = []
        for frame in frames:
            drawn = dict(masks_at(frame, size)).get(track_id)
            empty = nothing if track_id in frame.track_ids else None
            masks.append(empty if drawn is None else encode_mask(drawn))
        entries.append({"score": score, "category_id": label, "segmentations": masks})
    return entries


@pytest.mark.parity
@pytest.mark.parametrize("place", [0, 1, 2])
def test_preset_outputs_give_the_recorded_results(place: int) -> None:
    raw = recorded("vistr/inference_post/raw_outputs")
    video = recorded_json("vistr/inference_post/videos")["videos"][place]
    logits, masks = raw[f"v{place}.pred_logits"], raw[f"v{place}.pred_masks"]
    logits, masks = by_instance(logits, 6), by_instance(masks, 6)
    output = FrameClipOutput(logits, torch.zeros(*logits.shape[:3], 4), masks)
    stitcher = TrackStitcher(41)
    stitcher.add(clip_prediction(output, range(video["length"])))
    size = Size(video["height"], video["width"])
    frames = list(stitcher.pop_final(video["length"]))
    found = as_published(frames, stitcher.class_probs(), size)
    expected = [
        entry
        for entry in recorded_json("vistr/inference_post/results")
        if entry["video_id"] == video["id"]
    ]
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-6)
        assert ours["category_id"] == theirs["category_id"]
        assert ours["segmentations"] == theirs["segmentations"]


def pictures(video: dict[str, Any]) -> list[VideoFrame]:
    folder = FIXTURES / "vistr" / "inference_e2e" / "images"
    frames = []
    for index, name in enumerate(video["file_names"]):
        image = cv2.imread(str(folder / name))
        assert image is not None
        frames.append(VideoFrame(index, float(index), image[..., ::-1].copy()))
    return frames


def segmented(model: VisTR, frames: list[VideoFrame]) -> tuple[list[FrameTracks], Tensor]:
    segmenter = Segmenter(model, PredictConfig(conf=0, precision="fp32"), CPU)
    tracks = [frame.tracks for frame in segmenter.frames(frames)]
    assert len(tracks) == len(frames)
    return [t for t in tracks if t is not None], segmenter.class_probs()


@pytest.mark.parity
@pytest.mark.parametrize("place", [0, 1, 2])
def test_pictures_give_the_recorded_results(place: int) -> None:
    """Covers resizing, model, votes and masks; two videos are shorter than the clip."""
    video = recorded_json("vistr/inference_e2e/videos")["videos"][place]
    tracks, class_probs = segmented(small_vistr(), pictures(video))
    found = as_published(tracks, class_probs, Size(video["height"], video["width"]))
    expected = [
        entry
        for entry in recorded_json("vistr/inference_e2e/results")
        if entry["video_id"] == video["id"]
    ]
    assert len(found) == len(expected) > 0
    differing = 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert ours["category_id"] == theirs["category_id"]
        for mask, other in zip(ours["segmentations"], theirs["segmentations"], strict=True):
            assert (mask is None) == (other is None)
            if mask is not None:
                differing += int((decode_mask(mask) != decode_mask(other)).sum())
    # The masks are noise: of 300,000 logits, a few are so near 0 that float32 rounding decides.
    assert differing <= 3


def drawn_clip(queries: list[int], present: list[bool]) -> FrameClipOutput:
    """Three frames; instance i, of class i of 3, is predicted by queries[i] in column i of 4."""
    logits = torch.full((1, 3, 3, 4), -4.0)
    masks = torch.full((1, 3, 3, 4, 4), -6.0)
    for instance, query in enumerate(queries):
        for t in range(3):
            logits[0, query, t, instance if present[t] or instance else 3] = 6.0
            masks[0, query, t, :, instance] = 6.0
    logits[0, queries[0], [t for t in range(3) if not present[t]], :3] = -20.0
    return FrameClipOutput(logits, torch.zeros(1, 3, 3, 4), masks)


def test_an_instance_keeps_its_track_from_clip_to_clip_whatever_its_query() -> None:
    stitcher = TrackStitcher(3)
    first = clip_prediction(drawn_clip([0, 1], [True, True, False]), (0, 1, 2))
    second = clip_prediction(drawn_clip([2, 0], [True, True, True]), (1, 2, 3))
    assert stitcher.add(first) == (1, 2)
    assert stitcher.add(second) == (2, 1)  # in the order of the queries
    frames = list(stitcher.pop_final(4))
    # On frame 2 the first clip did not see instance 1, and the second did.
    assert [f.track_ids for f in frames] == [(1, 2), (1, 2), (1, 2), (1, 2)]
    torch.testing.assert_close(frames[2].mask_logits[0], second.mask_logits[1, 1])
    assert stitcher.class_probs().argmax(1).tolist() == [0, 1]


def test_an_instance_is_absent_where_all_classes_are_unlikely() -> None:
    clip = clip_prediction(drawn_clip([0, 1], [True, False, True]), (0, 1, 2))
    assert clip.present is not None
    assert clip.present.tolist() == [[True, False, True], [True, True, True]]
    stitcher = TrackStitcher(3)
    stitcher.add(clip)
    assert [f.track_ids for f in stitcher.pop_final(3)] == [(1, 2), (2,), (1, 2)]


def test_likely_queries_are_chosen_by_their_classes_on_the_frames_of_the_clip() -> None:
    logits = torch.zeros(1, 3, 3, 4)  # three classes and "no object", 0.25 each
    logits[0, 1, :2, 3] = 4.0  # almost "no object", except on the padding frame
    logits[0, 2, 0, 3] = 4.0  # on one of two frames
    heads = FrameHeads(logits, torch.zeros(1, 3, 3, 4))
    assert likely(heads, 2).tolist() == [[True, False, True]]


def test_the_mask_of_a_query_does_not_depend_on_other_queries() -> None:
    model, chosen = tiny_vistr(), torch.tensor([[False, True, True], [True, False, False]])
    pixels = torch.randn(2, 3, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        everything = model(pixels).mask_logits
        some = model(pixels, choose=lambda heads: chosen).mask_logits
    torch.testing.assert_close(some[chosen], everything[chosen], rtol=1e-4, atol=1e-5)
    assert not some[~chosen].any()


def test_a_video_with_mask_aware_scoring_has_the_tracks_of_likely_queries_only() -> None:
    frames = [VideoFrame(i, float(i), np.full((40, 56, 3), 30 * i, np.uint8)) for i in range(5)]
    kept = {}
    for name, shift in (("likely", 0.0), ("unlikely", 50.0)):
        model = tiny_vistr(clip_length=4, test_short_side=40, scoring="mask-aware")
        with torch.no_grad():
            list(model.instance_head.parameters())[-1].add_(50.0)  # masks of the whole frame
            model.class_head.bias[0] += 10.0
            model.class_head.bias[-1] += shift
        segmenter = Segmenter(model, PredictConfig(), CPU)
        tracks = [frame.tracks for frame in segmenter.frames(frames)]
        kept[name] = sum(len(t.track_ids) for t in tracks if t is not None)
    assert kept["likely"] > 0
    assert kept["unlikely"] == 0


def test_without_likely_queries_no_mask_is_computed() -> None:
    model = tiny_vistr()
    with torch.no_grad():
        model.class_head.bias[-1] += 50.0
        output = model(torch.randn(1, 3, 3, 40, 56), choose=partial(likely, num_frames=3))
    assert output.mask_logits.shape[:3] == output.class_logits.shape[:3]
    assert not output.mask_logits.any()


def test_a_long_video_is_predicted_in_overlapping_clips_with_constant_memory() -> None:
    generator = np.random.default_rng(0)
    frames = [
        VideoFrame(i, float(i), generator.integers(0, 255, (40, 60, 3), dtype=np.uint8))
        for i in range(11)
    ]
    model = tiny_vistr(clip_length=4, test_short_side=40)
    segmenter = Segmenter(model, PredictConfig(conf=0), CPU)
    assert (segmenter.clip_length, segmenter.clip_stride) == (4, 2)
    seen = []
    for frame in segmenter.frames(frames):
        assert len(segmenter._windows) <= 4
        assert len(segmenter._stitcher._pending) <= 4
        assert frame.tracks is not None
        seen.append(frame.tracks.frame_id)
    assert seen == list(range(11))


@pytest.mark.parametrize("length", [3, 5, "all"])
def test_a_clip_length_the_weights_do_not_have_is_refused(length: Any) -> None:
    model = tiny_vistr(clip_length=4)
    with pytest.raises(UsageError, match="these weights see 4 frames"):
        clip_settings(model.config, PredictConfig(clip_length=length))
    assert clip_settings(model.config, PredictConfig(clip_length=4)) == (4, 2)


def vistr_training(folder: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "classes": {"red": ("red square",), "blue": ("blue square",)},
        "sources": (SourceConfig(annotations="pictures.json"),),
        "data": str(folder),
        "model": {
            "architecture": "vistr",
            "backbone": {
                "kind": "resnet",
                "stem_channels": 4,
                "bottleneck_channels": 4,
                "blocks": [1, 1, 1, 1],
            },
            "hidden_dim": 48,
            "num_heads": 4,
            "feedforward_dim": 32,
            "num_queries": 4,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "clip_length": 2,
        },
        "clip_length": 2,
        "init": "random",
        "steps": 2,
        "batch": 2,
        "canvases": ((64, 64),),
        "frozen_blocks": 1,
        "workers": 0,
        "device": "cpu",
        **changes,
    }
    return TrainConfig(**values)


def test_vistr_trains_on_batches_and_its_weights_come_back(tmp_path: Path) -> None:
    make_pictures(tmp_path, 4)
    weights = train(vistr_training(tmp_path), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    terms = {"class", "box", "giou", "focal", "dice", "class_0", "box_0", "giou_0"}
    assert len(lines) == 2
    assert all(terms <= line.keys() for line in lines)
    assert isinstance(load_model(str(weights)).model, VisTR)
    train(vistr_training(tmp_path), tmp_path / "run")  # complete already, with equal settings


def test_a_weight_of_a_term_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    config = vistr_training(tmp_path, model={}, clip_length=1, loss=LossConfig(box_weight=1))
    with pytest.raises(UsageError, match="box_weight: IFC predicts no boxes"):
        train(config, tmp_path / "run")


def test_training_for_another_clip_length_than_the_model_s_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"clip_length 3, but \[model\] has clip_length 2"):
        vistr_training(tmp_path, clip_length=3).model_config()
