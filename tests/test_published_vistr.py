"""VisTR's training clips: equal to recorded frames, boxes and masks; augmentation; targets."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.recorded import FIXTURES, recorded, recorded_json
from vistool.annotations.read import read_dataset
from vistool.config import VisTRPipeline
from vistool.data.labelled import LabelledVideo, read_annotations
from vistool.data.published.clips import Region, vistr_frames
from vistool.data.published.vistr import (
    FrameRows,
    VisTRClips,
    as_bytes,
    clip_target,
    cropped,
    distorted,
    mirrored,
    read_rows,
    recoloured,
    resized,
)
from vistool.models.checkpoints.presets import preset
from vistool.ops.boxes import boxes_of_masks, xyxy_of
from vistool.ops.pixels import normalise
from vistool.structures import Size

DATASET = FIXTURES / "vistr" / "dataset"
NUMBER = r"\D+(\d+)"


def recorded_videos() -> list[LabelledVideo]:
    """Videos with the published labels: the category ids of the file, and an unused class 0."""
    categories = recorded_json("vistr/dataset/instances")["categories"]
    classes = {"(unused)": (), **{c["name"]: (c["name"],) for c in categories}}
    return read_annotations(
        DATASET / "instances.json", classes, frames=DATASET / "images", stated=True
    )


def recorded_rows(index: int) -> FrameRows:
    video, last = anchor(index)
    return read_rows(video, frames_until(last, video))


def frames_until(last: int, video: LabelledVideo) -> tuple[int, ...]:
    clip_length = recorded_json("vistr/dataset/meta")["num_frames"]
    return vistr_frames(last, len(video.files), clip_length)


def stated_areas(index: int) -> Tensor:
    """[N, T] areas of a clip's instances as stated in the file, in pixels; 0 if absent."""
    video, last = anchor(index)
    of_track = {track.id: track.areas for track in read_dataset(DATASET / "instances.json").tracks}
    return torch.tensor(
        [[(of_track[t.id] or ())[f] or 0 for f in frames_until(last, video)] for t in video.tracks]
    )


def anchor(index: int) -> tuple[LabelledVideo, int]:
    """The video and the last frame of a clip."""
    frames = [(video, frame) for video in recorded_videos() for frame in range(len(video.files))]
    return frames[index]


def chained(rows: FrameRows, areas: Tensor, chain: str) -> tuple[FrameRows, Tensor]:
    """Apply one of the two recorded chains; the parameters of `geom` are in a text.

    The published code also updates areas: crops set them to those of the remaining boxes, and
    resizes scale them. They are never used, so our code has no areas.
    """
    if chain == "plain":
        return rows, areas
    text = recorded_json("vistr/dataset/meta")["chains"]["geom"]
    pattern = f"hflip; resize{NUMBER * 2}.; crop{NUMBER * 4}.; resize{NUMBER * 2}"
    found = re.match(pattern, text)
    assert found is not None, text
    short, long, top, left, height, width, last_short, last_long = map(int, found.groups())
    region = Region(top, left, Size(height, width))
    part = cropped(resized(mirrored(rows), short, long), region)
    rows = resized(part, last_short, last_long)
    scale = rows.size.height / part.size.height * (rows.size.width / part.size.width)
    return rows, (part.boxes[..., 2:] - part.boxes[..., :2]).prod(-1) * scale


def as_recorded(rows: FrameRows, areas: Tensor) -> dict[str, Tensor]:
    """Our rows in the recording's layout: instance-major, label 0 where an instance is absent."""
    present = rows.present
    return {
        "labels": (rows.labels[:, None] * present).flatten(),
        "valid": present.long().flatten(),
        "boxes": rows.boxes_cxcywh().flatten(0, 1),
        "area": areas.flatten(),
        "masks": rows.masks.flatten(0, 1).byte(),
        "size": torch.tensor(rows.size),
    }


@pytest.mark.parity
@pytest.mark.parametrize("chain", ["plain", "geom"])
def test_rows_are_the_recorded_ones(chain: str) -> None:
    expected = recorded("vistr/dataset/expected")
    for sample in recorded_json("vistr/dataset/meta")["samples"]:
        index = sample["index"]
        rows, areas = chained(recorded_rows(index), stated_areas(index), chain)
        found = as_recorded(rows, areas)
        found["orig_size"] = torch.tensor(anchor(index)[0].size)
        found["image_id"] = torch.tensor([index])
        found["iscrowd"] = torch.zeros(
            len(found["valid"]), dtype=torch.int64
        )  # groups are left out
        recorded_names = {key.split(".")[2] for key in expected}
        assert found.keys() | {"img"} == recorded_names
        for name, value in found.items():
            torch.testing.assert_close(value, expected[f"{chain}.{index}.{name}"], rtol=0, atol=0)
        pixels = normalise(torch.from_numpy(rows.frames.copy()), preset("vistr-r50").pixels)
        # (x / 255 - mean) / std and (x - 255 mean) / (255 std) differ only by rounding.
        torch.testing.assert_close(
            pixels.flatten(0, 1), expected[f"{chain}.{index}.img"], rtol=0, atol=1e-6
        )


def moved(height: int = 60, width: int = 80) -> FrameRows:
    """Two instances on three frames: a red one on all, a blue one only on the first."""
    frames = np.full((3, height, width, 3), 110, np.uint8)
    masks = torch.zeros(2, 3, height, width, dtype=torch.bool)
    for t in range(3):
        masks[0, t, 10:30, 5 + 10 * t : 25 + 10 * t] = True
    masks[1, 0, 40:56, 60:76] = True
    for mask, colour in zip(masks.numpy(), ((220, 30, 30), (30, 30, 220)), strict=True):
        frames[mask] = colour
    pixels = torch.tensor([width, height] * 2)
    return FrameRows(
        frames=frames,
        labels=torch.tensor([0, 1]),
        present=masks.flatten(2).any(2),
        boxes=xyxy_of(boxes_of_masks(masks)) * pixels,
        masks=masks,
    )


def test_masks_and_boxes_move_with_the_pixels_under_them() -> None:
    rows = moved()
    for step in (
        mirrored,
        lambda rows: resized(rows, 90, 110),
        lambda rows: cropped(rows, Region(10, 5, Size(60, 70))),
        lambda rows: resized(rows, 64, None),
    ):
        rows = step(rows)
        red, mask = rows.frames[..., 0] > 165, rows.masks[0].numpy()  # between red and background
        # One pixel along every edge of a square of 20 to 30 pixels may differ.
        assert (mask & red).sum() / (mask | red).sum() > 0.85
        found = xyxy_of(boxes_of_masks(rows.masks)) * torch.tensor([*rows.size[::-1]] * 2)
        shown = rows.masks.flatten(2).any(2)
        # Nearest-neighbour resizing, which is done twice, may lose a pixel each time.
        torch.testing.assert_close(rows.boxes[shown], found[shown], rtol=0, atol=2.0)


def test_an_instance_outside_the_crop_is_absent_with_visible_and_present_with_annotated() -> None:
    rows = cropped(moved(), Region(0, 0, Size(35, 50)))  # without the blue instance
    visible = clip_target(rows, (True, True), "visible")
    assert visible.labels.tolist() == [0]
    assert visible.present is not None
    assert visible.present.all()
    annotated = clip_target(rows, (True, True), "annotated")
    assert annotated.labels.tolist() == [0, 1]
    assert annotated.present is not None
    assert annotated.boxes is not None
    assert annotated.present.tolist() == [[True] * 3, [True, False, False]]
    # Its box is reduced to a point in the corner.
    assert annotated.boxes[1, 0].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_an_absent_instance_has_a_box_of_zeros_even_when_mirrored() -> None:
    target = clip_target(mirrored(moved()), (True, True), "visible")
    assert target.boxes is not None
    assert target.boxes[1, 1:].count_nonzero() == 0
    published = clip_target(mirrored(moved()), (True, True), "annotated")
    assert published.boxes is not None
    assert published.boxes[1, 1].tolist() == [1.0, 0.0, 0.0, 0.0]


def test_a_clip_is_drawn_at_the_paper_s_sizes_and_mirrored_half_of_the_time() -> None:
    clips = VisTRClips([], 3, VisTRPipeline())
    wide = moved(90, 160)
    sizes, lefts = set(), []
    for seed in range(8):
        rows = clips.augmented(wide, np.random.default_rng(seed))
        sizes.add(rows.size)
        lefts.append(float(rows.boxes[0, 0, 0] > rows.boxes[0, 2, 0]))
    assert len(sizes) > 1
    assert all(min(size) <= 300 and max(size) <= 540 for size in sizes)
    assert 0 < np.mean(lefts) < 1


def test_values_outside_0_to_255_are_clipped_or_as_published_wrapped() -> None:
    values = np.array([-10.0, -0.5, 7.9, 255.9, 300.0], np.float32)
    assert as_bytes(values, "clip").tolist() == [0, 0, 7, 255, 255]
    assert as_bytes(values, "wrap").tolist() == [246, 0, 7, 255, 44]
    bright = np.full((4, 4, 3), 250, np.uint8)
    for seed in range(40):
        clipped, wrapped = (
            distorted(bright, np.random.default_rng(seed), how).astype(int)
            for how in ("clip", "wrap")
        )
        assert ((clipped == wrapped) | (clipped == 255)).all()


def test_grey_pictures_stay_grey_and_a_quarter_does_not_change() -> None:
    grey = np.full((2, 2, 3), 100, np.uint8)
    changed = [distorted(grey, np.random.default_rng(seed)) for seed in range(400)]
    assert all(len(np.unique(image)) == 1 for image in changed)
    levels = np.array([image[0, 0, 0] for image in changed])
    assert levels.min() >= (100 - 32) * 0.5 - 1
    assert levels.max() <= (100 + 32) * 1.5
    # With probability 1 / 2 each, brightness and contrast do not change.
    assert 0.18 < np.mean(levels == 100) < 0.32


def test_hue_and_saturation_stay_near_those_of_the_picture() -> None:
    orange = np.full((2, 2, 3), (180, 120, 60), np.uint8)
    hue = cv2.cvtColor(orange.astype(np.float32), cv2.COLOR_RGB2HSV)[0, 0, 0]
    turned = []
    for seed in range(300):
        image = distorted(orange, np.random.default_rng(seed)).astype(np.float32)
        if (np.diff(image[0, 0]) < 0).all() and image.max() < 255:  # same channel order
            turned.append(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[0, 0, 0] - hue)
    assert len(turned) > 100
    assert max(map(abs, turned)) < 20  # 18, plus the error of whole grey levels
    assert min(turned) < -10
    assert max(turned) > 10


def test_frames_of_a_clip_get_different_colours() -> None:
    rows = recoloured(moved(), np.random.default_rng(1), "clip")
    backgrounds = {tuple(frame[0, 0]) for frame in rows.frames}
    assert len(backgrounds) > 1


@pytest.mark.parity
def test_the_unused_class_is_exhaustively_labelled() -> None:
    assert all(recorded_videos()[1].exhaustive)
