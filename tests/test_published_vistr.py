"""VisTR's training clips: the recorded rows of frames, boxes and masks; the draws; the targets."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from tests.recorded import FIXTURES, recorded, recorded_json
from vistool.data.annotations import LabelledVideo
from vistool.data.published_annotations import read_with_stated
from vistool.data.published_clips import Region
from vistool.data.published_sampling import vistr_frames
from vistool.data.published_vistr import FrameRows, cropped, mirrored, read_rows, resized
from vistool.models.presets import preset
from vistool.ops.pixels import normalise
from vistool.structures import Size

DATASET = FIXTURES / "vistr" / "dataset"
NUMBER = r"\D+(\d+)"


def recorded_videos() -> list[LabelledVideo]:
    """Labels as published: the file's own category ids, and a class 0 that never occurs."""
    categories = recorded_json("vistr/dataset/instances")["categories"]
    classes = {"(unused)": (), **{c["name"]: (c["name"],) for c in categories}}
    return read_with_stated(DATASET / "instances.json", classes, frames=DATASET / "images")


def recorded_rows(index: int) -> FrameRows:
    videos, clip_length = recorded_videos(), recorded_json("vistr/dataset/meta")["num_frames"]
    frames = [(video, frame) for video in videos for frame in range(len(video.files))]
    video, last = frames[index]
    return read_rows(video, vistr_frames(last, len(video.files), clip_length))


def chained(rows: FrameRows, chain: str) -> FrameRows:
    """Through one of the recording's two chains; `geom` has its numbers in a text."""
    if chain == "plain":
        return rows
    text = recorded_json("vistr/dataset/meta")["chains"]["geom"]
    pattern = f"hflip; resize{NUMBER * 2}.; crop{NUMBER * 4}.; resize{NUMBER * 2}"
    found = re.match(pattern, text)
    assert found is not None, text
    short, long, top, left, height, width, last_short, last_long = map(int, found.groups())
    region = Region(top, left, Size(height, width))
    return resized(cropped(resized(mirrored(rows), short, long), region), last_short, last_long)


def as_recorded(rows: FrameRows) -> dict[str, Tensor]:
    """Our rows in the recording's layout: instance-major, label 0 where an instance is absent."""
    present = rows.present
    return {
        "labels": (rows.labels[:, None] * present).flatten(),
        "valid": present.long().flatten(),
        "boxes": rows.boxes_cxcywh().flatten(0, 1),
        "area": rows.areas.flatten(),
        "masks": rows.masks.flatten(0, 1).byte(),
        "size": torch.tensor(rows.size),
    }


@pytest.mark.parity
@pytest.mark.parametrize("chain", ["plain", "geom"])
def test_rows_are_the_recorded_ones(chain: str) -> None:
    expected = recorded("vistr/dataset/expected")
    for sample in recorded_json("vistr/dataset/meta")["samples"]:
        index = sample["index"]
        rows = chained(recorded_rows(index), chain)
        for name, value in as_recorded(rows).items():
            torch.testing.assert_close(value, expected[f"{chain}.{index}.{name}"], rtol=0, atol=0)
        pixels = normalise(torch.from_numpy(rows.frames.copy()), preset("vistr-r50").pixels)
        # (x / 255 - mean) / std or (x - 255 mean) / (255 std): the same but for rounding.
        torch.testing.assert_close(
            pixels.flatten(0, 1), expected[f"{chain}.{index}.img"], rtol=0, atol=1e-6
        )
