"""IFC on whole videos, compared with the published code: streamed, as one clip, in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.recorded import recorded, recorded_json
from tests.test_ifc import small_ifc
from vistool.config import PredictConfig
from vistool.engine.predict.segment import SegmentedFrame, Segmenter
from vistool.structures import Size, VideoFrame
from vistool.tracking.postprocess import masks_at, results_multi_class, results_single_class

# Recorded results of the published code on whole videos.
CASES = recorded_json("ifc/small_meta")["e2e"]
CPU = torch.device("cpu")


def recorded_frames(number: int) -> Iterator[VideoFrame]:
    for index, frame in enumerate(recorded("ifc/small_e2e")[f"v{number}.in"]):
        image = np.ascontiguousarray(frame.permute(1, 2, 0).numpy())
        yield VideoFrame(index, index / 10, image)


def segmented(frames: list[VideoFrame], **settings: Any) -> tuple[Segmenter, list[SegmentedFrame]]:
    config = PredictConfig(size=min(frames[0].image.shape[:2]), **settings)
    segmenter = Segmenter(small_ifc(), config, CPU)
    return segmenter, list(segmenter.frames(frames))


@pytest.mark.parity
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_streamed_video_gives_the_recorded_masks_and_scores(number: int, batch: int) -> None:
    """Near-online with strides 1 to 3, and offline if the clip is longer than the video."""
    about, record = CASES[number], recorded("ifc/small_e2e")
    segmenter, frames = segmented(
        list(recorded_frames(number)),
        clip_length=about["T"],
        clip_stride=about["stride"],
        batch=batch,
    )
    # The published float32 differs from its float64 by 1e-4 for one clip; we sum in another order.
    tolerance: dict[str, Any] = {"rtol": 0, "atol": 5e-4}
    class_probs = segmenter.class_probs()
    torch.testing.assert_close(class_probs, record[f"v{number}.avg_cls"][:, :-1], **tolerance)
    logits = torch.full_like(record[f"v{number}.avg_logits"], torch.nan)
    masks = torch.zeros_like(record[f"v{number}.track_masks"])
    size = Size(about["out_h"], about["out_w"])
    for frame in frames:
        assert frame.tracks is not None
        rows = torch.tensor(frame.tracks.track_ids) - 1
        logits[rows, frame.index] = frame.tracks.mask_logits
        for track_id, mask in masks_at(frame.tracks, size):
            masks[track_id - 1, frame.index] = torch.from_numpy(mask)
    expected = record[f"v{number}.avg_logits"]
    torch.testing.assert_close(logits, expected, equal_nan=True, **tolerance)
    # Masks may differ only where the logit, enlarged as published, is 0 within the tolerance.
    enlarged = F.interpolate(expected.nan_to_num(-1), size, mode="bilinear")
    unlike = masks != record[f"v{number}.track_masks"]
    assert (enlarged[unlike].abs() < 5e-4).all()
    results = (
        results_multi_class(class_probs)
        if about["multi_cls"]
        else results_single_class(class_probs)
    )
    track_ids, labels, scores = (list(values) for values in zip(*results, strict=True))
    assert labels == record[f"v{number}.labels"].tolist()
    assert [track_id - 1 for track_id in track_ids] == record[f"v{number}.result_track"].tolist()
    torch.testing.assert_close(torch.tensor(scores), record[f"v{number}.scores"], **tolerance)


@pytest.mark.parity
def test_the_whole_video_as_one_clip_is_the_recorded_offline_mode() -> None:
    number = next(i for i, about in enumerate(CASES) if about["T"] >= about["length"])
    segmenter, _ = segmented(list(recorded_frames(number)), clip_length="all")
    torch.testing.assert_close(
        segmenter.class_probs(),
        recorded("ifc/small_e2e")[f"v{number}.avg_cls"][:, :-1],
        rtol=0,
        atol=5e-4,
    )


def test_in_bfloat16_the_recorded_model_predicts_nearly_the_same_masks() -> None:
    frames = list(recorded_frames(0))
    masks = {}
    for precision in ("fp32", "bf16"):
        segmenter, found = segmented(frames, clip_length=3, clip_stride=1, precision=precision)
        assert segmenter.class_probs().dtype == torch.float32
        masks[precision] = [f.tracks.mask_logits for f in found if f.tracks]
    assert all(m.dtype == torch.float32 for m in masks["bf16"])
    same = [
        ((a.amax(0) > 0) == (b.amax(0) > 0)).float().mean()
        for a, b in zip(masks["fp32"], masks["bf16"], strict=True)
    ]
    assert min(same) > 0.98
