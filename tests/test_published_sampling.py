"""The frames of the papers' training clips."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.recorded import recorded_json
from vistool.data.published.clips import ifc_frames, vistr_frames


@pytest.mark.parity
def test_vistr_s_clips_are_the_recorded_ones() -> None:
    meta = recorded_json("vistr/dataset/meta")
    videos = recorded_json("vistr/dataset/instances")["videos"]
    frames = [(video, i) for video in videos for i in range(video["length"])]
    assert len(frames) == meta["len"]
    for sample in meta["samples"]:
        video, last = frames[sample["index"]]
        clip = vistr_frames(last, video["length"], meta["num_frames"])
        assert [video["file_names"][i] for i in clip] == sample["frames"]


@pytest.mark.parity
def test_the_recorded_clips_of_ifc_can_be_drawn() -> None:
    meta = recorded_json("ifc/dataset/meta")
    videos = {v["id"]: v for v in recorded_json("ifc/dataset/instances")["videos"]}
    for sample in meta["samples"]:
        names = videos[sample["video_id"]]["file_names"]
        recorded = tuple(names.index(name) for name in sample["frames"])
        rng = np.random.default_rng(0)
        drawn = (ifc_frames(len(names), meta["T"], rng, meta["range"]) for _ in range(20000))
        assert recorded in drawn


@given(st.integers(1, 60), st.integers(1, 40), st.data())
def test_vistr_s_clip_ends_at_its_frame_and_runs_forward(
    length: int, clip_length: int, data: st.DataObject
) -> None:
    last = data.draw(st.integers(0, length - 1))
    clip = vistr_frames(last, length, clip_length)
    assert len(clip) == clip_length
    assert clip[-1] == last
    assert all((b - a) % length == 1 % length for a, b in pairwise(clip))


@given(st.integers(2, 80), st.integers(2, 8), st.integers(1, 20), st.integers(0, 99))
def test_ifc_s_clip_is_sorted_and_one_frame_is_not_repeated(
    length: int, clip_length: int, distance: int, seed: int
) -> None:
    clip = ifc_frames(length, clip_length, np.random.default_rng(seed), distance)
    assert len(clip) == clip_length
    assert list(clip) == sorted(clip)
    assert 0 <= clip[0] <= clip[-1] < length
    # At least one frame occurs once, and all others are within the distance of it.
    assert any(
        clip.count(frame) == 1 and all(abs(frame - other) <= distance for other in clip)
        for frame in clip
    )


def test_a_video_of_one_frame_gives_only_clips_of_one_frame() -> None:
    rng = np.random.default_rng(0)
    assert ifc_frames(1, 1, rng) == (0,)
    with pytest.raises(ValueError, match="one frame cannot give a clip of 5"):
        ifc_frames(1, 5, rng)
