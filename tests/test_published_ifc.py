"""IFC's training clips: the recorded instances of every frame; the draws; the targets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.recorded import FIXTURES, recorded, recorded_json
from vistool.data.annotations import LabelledVideo
from vistool.data.published_annotations import read_with_stated
from vistool.data.published_ifc import FrameTruth, annotated_tracks, frame_truth, whole_view
from vistool.data.shots import read_image

DATASET = FIXTURES / "ifc" / "dataset"


def recorded_videos() -> dict[int, LabelledVideo]:
    content = recorded_json("ifc/dataset/instances")
    classes = {c["name"]: (c["name"],) for c in content["categories"]}
    videos = read_with_stated(DATASET / "instances.json", classes, frames=DATASET / "images")
    return {entry["id"]: video for entry, video in zip(content["videos"], videos, strict=True)}


def recorded_clip(sample: int) -> tuple[list[FrameTruth], Tensor]:
    """What we make of the recorded choice of frames, and the pictures [T, 3, H, W]."""
    meta = recorded_json("ifc/dataset/meta")
    about = meta["samples"][sample]
    video = recorded_videos()[about["video_id"]]
    names = [str(file.relative_to(DATASET / "images")) for file in video.files]
    frames = tuple(names.index(name) for name in about["frames"])
    view = whole_view(video.size, meta["short_edge"], meta["max_size"])
    tracks = annotated_tracks(video, frames)
    truths = [frame_truth(tracks, f, video.size, view, len(video.exhaustive)) for f in frames]
    pictures = [torch.from_numpy(view.picture(read_image(video, f))) for f in frames]
    return truths, torch.stack(pictures).permute(0, 3, 1, 2)


@pytest.mark.parity
def test_frames_are_the_recorded_ones() -> None:
    expected = recorded("ifc/dataset/expected")
    for sample in range(len(recorded_json("ifc/dataset/meta")["samples"])):
        assert_recorded(sample, expected)


def assert_recorded(sample: int, expected: dict[str, Tensor]) -> None:
    truths, pictures = recorded_clip(sample)
    assert torch.equal(pictures, expected[f"s{sample}.images"])
    for t, truth in enumerate(truths):
        record = {
            key: expected[f"s{sample}.frame{t}.{key}"]
            for key in ("ids", "classes", "boxes", "masks")
        }
        # Rows have no order of their own, but they have ids; the absent ones are all alike.
        ours, theirs = truth.ids.sort(stable=True), record["ids"].sort(stable=True)
        assert torch.equal(ours.values, theirs.values)
        for value, key in ((truth.labels, "classes"), (truth.boxes, "boxes")):
            assert torch.equal(value[ours.indices], record[key][theirs.indices]), key
        assert torch.equal(truth.masks[ours.indices].byte(), record["masks"][theirs.indices])
