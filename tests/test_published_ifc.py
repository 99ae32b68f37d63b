"""IFC's training clips: equal to the recorded frames; random views; targets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.made_data import make_video
from tests.recorded import FIXTURES, recorded, recorded_json
from vistool.config import IFCPipeline
from vistool.data.labelled import LabelledTrack, LabelledVideo, read_annotations
from vistool.data.published.clips import Region
from vistool.data.published.ifc import (
    ABSENT,
    FrameTruth,
    IFCClips,
    View,
    annotated_tracks,
    clip_target,
    clipped_outline,
    frame_truth,
)
from vistool.data.shots import read_image
from vistool.formats.masks.rle import encode_mask
from vistool.ops.boxes import boxes_of_masks
from vistool.ops.pixels import input_size
from vistool.structures import Size

DATASET = FIXTURES / "ifc" / "dataset"


def recorded_videos() -> dict[int, LabelledVideo]:
    content = recorded_json("ifc/dataset/instances")
    classes = {c["name"]: (c["name"],) for c in content["categories"]}
    videos = read_annotations(
        DATASET / "instances.json", classes, frames=DATASET / "images", stated=True
    )
    return {entry["id"]: video for entry, video in zip(content["videos"], videos, strict=True)}


def whole_view(picture: Size, short: int, long: int | None) -> View:
    return View(Region(0, 0, picture), input_size(picture, short, long), mirrored=False)


def recorded_clip(sample: int) -> tuple[list[FrameTruth], Tensor]:
    """Our instances on the frames of a recorded clip, and its pictures [T, 3, H, W]."""
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
        # The order of rows may differ, so they are sorted by id; absent rows are all equal.
        ours, theirs = truth.ids.sort(stable=True), record["ids"].sort(stable=True)
        assert torch.equal(ours.values, theirs.values)
        for value, key in ((truth.labels, "classes"), (truth.boxes, "boxes")):
            assert torch.equal(value[ours.indices], record[key][theirs.indices]), key
        assert torch.equal(truth.masks[ours.indices].byte(), record["masks"][theirs.indices])


def outline_area(points: np.ndarray) -> float:
    """The signed area of a polygon, by the shoelace formula."""
    x, y = points.T if len(points) else np.zeros((2, 1))
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@given(
    st.lists(st.tuples(st.floats(0, 40), st.floats(0, 30)), min_size=3, max_size=9),
    st.integers(1, 39),
    st.integers(1, 29),
)
def test_an_outline_that_is_cut_in_four_keeps_its_area(
    points: list[tuple[float, float]], x: int, y: int
) -> None:
    outline = np.array(points)
    parts = []
    for left, width in ((0, x), (x, 40 - x)):
        for top, height in ((0, y), (y, 30 - y)):
            part = clipped_outline(outline - (left, top), Size(height, width))
            assert part.min(initial=0) >= -1e-9
            assert (part <= np.array([width, height]) + 1e-9).all()
            parts.append(outline_area(part))
    assert sum(parts) == pytest.approx(outline_area(outline), abs=1e-6)


def test_an_outline_and_its_pixels_are_cropped_and_mirrored_equally() -> None:
    size = Size(60, 80)
    rows, columns = np.mgrid[: size.height, : size.width]
    disc = (rows + 0.5 - 30) ** 2 + (columns + 0.5 - 40) ** 2 < 20**2
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    outline = np.stack([40 + 20 * np.cos(angles), 30 + 20 * np.sin(angles)], axis=1)
    as_pixels = LabelledTrack(0, (encode_mask(disc),), 1)
    as_outline = replace(as_pixels, outlines=((outline,),))
    view = View(Region(5, 30, Size(40, 45)), Size(80, 90), mirrored=True)
    one, two = (view.mask(track, 0, size) for track in (as_pixels, as_outline))
    assert one.shape == two.shape == (80, 90)
    assert (one & two).sum() / (one | two).sum() > 0.95


def made_clips(folder: Path, length: int, clip_length: int, config: IFCPipeline) -> IFCClips:
    classes = {"red": ("red square",), "blue": ("blue square",)}
    videos = read_annotations(make_video(folder, length), classes, stated=True)
    return IFCClips(videos, clip_length, config)


def test_a_clip_has_one_view_and_masks_that_lie_on_their_objects(tmp_path: Path) -> None:
    clips = made_clips(tmp_path, 6, 4, IFCPipeline(short_sides=(96, 128), max_frame_distance=3))
    sizes, lefts = set(), []
    for seed in range(12):
        clip = clips.draw(0, np.random.default_rng(seed))
        (size,) = {frame.shape[:2] for frame in clip.frames}
        sizes.add(size)
        red = np.stack([frame[..., 0] > 165 for frame in clip.frames])
        mask = clip.target.masks[0].numpy()
        assert (red & mask).sum() / (red | mask).sum() > 0.9
        lefts.append(bool(clip.target.boxes is not None and clip.target.boxes[0, 0, 0] < 0.5))
        assert clip.target.boxes is not None
        torch.testing.assert_close(clip.target.boxes, boxes_of_masks(clip.target.masks))
    assert sizes == {(96, 144), (128, 192)}
    assert 0 < np.mean(lefts) < 1


def test_a_clip_has_the_instances_that_are_on_at_least_one_frame(
    tmp_path: Path,
) -> None:
    clips = made_clips(tmp_path, 6, 3, IFCPipeline(short_sides=(64,)))
    for seed in range(12):
        clip = clips.draw(0, np.random.default_rng(seed))
        blue = [bool((frame[..., 2] > 150).any()) for frame in clip.frames]
        assert clip.target.labels.tolist() == ([0, 1] if any(blue) else [0])
        if any(blue):
            assert clip.target.present is not None
            assert clip.target.present[1].tolist() == blue


def test_an_instance_that_is_empty_after_resizing_is_left_out() -> None:
    size = Size(40, 40)
    speck, blob = np.zeros((2, *size), bool)
    speck[0, 0] = True
    blob[10:30, 10:30] = True
    tracks = [LabelledTrack(1, (encode_mask(mask),), id) for id, mask in ((7, speck), (8, blob))]
    truth = frame_truth(tracks, 0, size, whole_view(size, 10, None), num_classes=3)
    assert truth.ids.tolist() == [ABSENT, 8]
    assert truth.labels.tolist() == [1, 1]
    assert clip_target([truth], (True,) * 3).labels.tolist() == [1]


def test_a_video_of_one_frame_gives_a_clip_with_a_view_per_frame(tmp_path: Path) -> None:
    clips = made_clips(tmp_path, 1, 3, IFCPipeline(short_sides=(32, 64)))
    drawn = [clips.draw(0, np.random.default_rng(seed)) for seed in range(8)]
    assert all(len(clip.frames) == 3 for clip in drawn)
    assert any(len({frame.shape for frame in clip.frames}) > 1 for clip in drawn)


def test_a_clip_may_have_no_instances() -> None:
    truth = frame_truth([], 0, Size(8, 8), whole_view(Size(8, 8), 4, None), num_classes=2)
    target = clip_target([truth, truth], (True, True))
    assert target.masks.shape == (0, 2, 4, 4)


def test_boxes_and_outlines_may_be_missing_in_a_set(tmp_path: Path) -> None:
    """In COCO video sets, every frame is an image with its own annotations, boxes and ids."""
    file = make_video(tmp_path, 2)
    content = json.loads(file.read_text())
    (video,) = content["videos"]
    content["images"] = [
        {"id": 10 + t, "video_id": 1, "frame_id": t, "file_name": name, "width": 96, "height": 64}
        for t, name in enumerate(video["file_names"])
    ]
    content["annotations"] = [
        {
            **{"id": 5 * n + t, "image_id": 10 + t, "category_id": track["category_id"]},
            **{"track_id": n, "segmentation": mask, "bbox": [0, 0, 1, 1], "iscrowd": 0},
        }
        for n, track in enumerate(content["annotations"])
        for t, mask in enumerate(track["segmentations"])
        if mask is not None
    ]
    file.write_text(json.dumps(content))
    classes = {"red": ("red square",), "blue": ("blue square",)}
    (read,) = read_annotations(file, classes, stated=True)
    assert all(track.boxes_xywh is track.outlines is None for track in read.tracks)
    assert [mask is not None for mask in read.tracks[1].segmentations] == [True, False]
