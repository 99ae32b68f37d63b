"""From annotation files to training batches."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.made_data import COLOURS, HEIGHT, WIDTH, make_pictures, make_video
from vistool.config import AugmentConfig, PixelConfig
from vistool.data.batches import CanvasClips, Share, TrainingBatches, loader, padded_batch
from vistool.data.clips import ClipMaker
from vistool.data.labelled import read_annotations
from vistool.data.sampling import ClipSampler, draw_frames
from vistool.errors import DataError
from vistool.structures import Size

CLASSES = {"red": ("red square",), "blue": ("blue square",)}
STILL = AugmentConfig(scale=(1.0, 1.0), motion=0.0, colour=0.0, blur_chance=0.0, paste_chance=0.0)


def edited(path: Path, **changes: object) -> Path:
    """The file with fields of its first entry, or its first annotation, changed."""
    content = json.loads(path.read_text())
    entry = content.get("images", content.get("videos"))[0]
    for key, value in changes.items():
        (entry if key in entry or "exhaustive" in key else content["annotations"][0])[key] = value
    path.write_text(json.dumps(content))
    return path


def test_a_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    videos = read_annotations(make_pictures(tmp_path, 3), CLASSES)
    assert [len(video.files) for video in videos] == [1, 1, 1]
    assert [track.label for track in videos[0].tracks] == [0, 1]
    assert videos[0].exhaustive == (True, True)
    assert videos[0].tracks[0].mask(0, videos[0].size).sum() == 24 * 24


def test_a_frame_without_the_instance_has_an_empty_mask(tmp_path: Path) -> None:
    (video,) = read_annotations(make_video(tmp_path, 4), CLASSES)
    sizes = [int(video.tracks[1].mask(frame, video.size).sum()) for frame in range(4)]
    assert sizes == [256, 0, 256, 0]


def test_only_the_listed_categories_of_a_partly_labelled_picture_are_exhaustive(
    tmp_path: Path,
) -> None:
    path = make_pictures(tmp_path, 1, exhaustive=False, exhaustive_category_ids=[4])
    assert read_annotations(path, CLASSES)[0].exhaustive == (False, True)
    merged = {"any": ("red square", "blue square")}
    assert read_annotations(path, merged)[0].exhaustive == (False,)


def test_a_crowd_is_a_region_to_ignore_instead_of_an_instance(tmp_path: Path) -> None:
    path = edited(make_pictures(tmp_path, 1), iscrowd=1)
    (video,) = read_annotations(path, CLASSES)
    assert [track.label for track in video.tracks] == [1]
    assert [region.label for region in video.regions] == [0]
    assert video.regions[0].mask(0, video.size).sum() == 24 * 24
    assert video.exhaustive == (True, True)


def test_a_batch_has_the_regions_of_its_clips(tmp_path: Path) -> None:
    source = edited(make_pictures(tmp_path, 2), iscrowd=1)  # only in the first picture
    sizes = {}
    for video in read_annotations(source, CLASSES):
        sampler = ClipSampler([([video], 1.0)], 2)
        clip = ClipMaker(sampler, 1, STILL).draw(Size(64, 96), np.random.default_rng(0))
        (target,) = padded_batch([clip], PixelConfig()).targets
        sizes[video.files[0].name] = target.regions, target.region_labels
    regions, labels = sizes["0.png"]
    assert regions is not None
    assert labels is not None
    assert regions.shape == (1, 1, 64, 96)
    assert regions.any()
    assert labels.tolist() == [0]
    assert sizes["1.png"] == (None, None)


def test_files_outside_the_data_folder_are_refused(tmp_path: Path) -> None:
    path = edited(make_pictures(tmp_path / "set", 1), file_name="../../secret.png")
    with pytest.raises(DataError, match="leads out of"):
        read_annotations(path, CLASSES)


def test_a_wrong_number_of_masks_is_reported_with_the_numbers(tmp_path: Path) -> None:
    path = edited(make_video(tmp_path, 4), segmentations=[None])
    with pytest.raises(DataError, match=r"annotation 1, .* has 1 masks but its video has 4 frames"):
        read_annotations(path, CLASSES)


def test_a_set_without_categories_of_any_class_is_refused(tmp_path: Path) -> None:
    path = make_pictures(tmp_path, 1)
    with pytest.raises(DataError, match="none of its 2 categories") as error:
        read_annotations(path, {"cat": ("cat",)})
    assert "red square" in error.value.hint


def clip_maker(path: Path, clip_length: int, augment: AugmentConfig) -> ClipMaker:
    return ClipMaker(ClipSampler([(read_annotations(path, CLASSES), 1.0)], 2), clip_length, augment)


def test_masks_move_with_the_pixels_under_them(tmp_path: Path) -> None:
    sharp = AugmentConfig(
        colour=0.0,
        blur_chance=0.0,
        motion_blur_chance=0.0,
        noise_chance=0.0,
        compression_chance=0.0,
    )
    augment = msgspec.structs.replace(sharp, paste_chance=1.0, motion=0.5)
    maker = clip_maker(make_pictures(tmp_path, 4), 3, augment)
    colours = [np.array(colour) for colour in COLOURS.values()]
    rng = np.random.default_rng(3)
    seen = 0
    for _ in range(10):
        clip = maker.draw(Size(96, 128), rng)
        for label, mask in zip(clip.target.labels.numpy(), clip.target.masks.numpy(), strict=True):
            if mask.sum() < 600:
                continue
            inside = np.stack(clip.frames)[mask].astype(int)
            right = (np.abs(inside - colours[label]).max(-1) < 40).mean()
            # Edges are blended, and small squares consist mostly of edges.
            assert right > 0.75
            seen += 1
    assert seen > 10


def test_pasted_instances_cover_those_below(tmp_path: Path) -> None:
    augment = AugmentConfig(paste_chance=1.0)
    maker = clip_maker(make_pictures(tmp_path, 4), 2, augment)
    rng = np.random.default_rng(0)
    clips = [maker.draw(Size(64, 96), rng) for _ in range(20)]
    assert max(len(clip.target.labels.numpy()) for clip in clips) > 2
    assert all(clip.target.masks.numpy().sum(0).max(initial=0) <= 1 for clip in clips)


@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 20), st.integers(0, 2**31))
def test_frames_of_a_clip_are_sorted_near_each_other_and_exist(
    length: int, clip_length: int, distance: int, seed: int
) -> None:
    frames = draw_frames(length, clip_length, distance, np.random.default_rng(seed))
    assert len(frames) == clip_length
    assert list(frames) == sorted(frames)
    assert frames[0] >= 0
    assert frames[-1] < length
    assert frames[-1] - frames[0] <= 2 * distance


def test_a_batch_depends_only_on_seed_and_number(tmp_path: Path) -> None:
    maker = clip_maker(make_pictures(tmp_path, 4), 2, AugmentConfig())

    def batches(seed: int) -> TrainingBatches:
        canvases = (Size(32, 48), Size(48, 32))
        source = CanvasClips(maker, canvases, seed)
        return TrainingBatches(source, PixelConfig(), batch=2, steps=4, seed=seed)

    one, two = batches(1).make(3, range(2)), list(loader(batches(1), 2, workers=0))[1]
    torch.testing.assert_close(one[0], two[0])
    for a, b in zip(one[1], two[1], strict=True):
        torch.testing.assert_close(a.masks, b.masks)
    assert one[0].shape[:3] == (2, 2, 3)
    other = batches(2).make(3, range(2))[0]
    assert other.shape != one[0].shape or not torch.allclose(other, one[0])


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_processes_and_parts_share_the_clips_of_a_step(
    processes: int, parts: int, each: int
) -> None:
    shares = [Share(rank, processes, parts) for rank in range(processes)]
    batch = processes * each
    numbers = [n for part in range(parts) for share in shares for n in share.clips(part, batch)]
    assert numbers == list(range(parts * batch))


def test_a_clip_does_not_depend_on_the_process_that_makes_it(tmp_path: Path) -> None:
    maker = clip_maker(make_pictures(tmp_path, 4), 2, AugmentConfig())

    def batches(batch: int, share: Share) -> TrainingBatches:
        canvases = (Size(32, 48), Size(48, 32))
        source = CanvasClips(maker, canvases, 5)
        return TrainingBatches(source, PixelConfig(), batch=batch, steps=3, seed=5, share=share)

    (whole,) = loader(batches(4, Share()), 2, workers=0)
    # Two processes with two parts each, so every batch has one clip.
    shared = [list(loader(batches(2, Share(rank, 2, 2)), 2, workers=0)) for rank in (0, 1)]
    parts = [shared[rank][part] for part in (0, 1) for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([part.pixels for part in parts]), whole.pixels)
    assert [o for part in parts for o in part.origins] == list(whole.origins)


def test_an_error_in_a_worker_is_raised_unchanged(tmp_path: Path) -> None:
    maker = clip_maker(make_pictures(tmp_path, 1), 1, STILL)
    (tmp_path / "0.png").unlink()
    source = CanvasClips(maker, (Size(32, 48),), 5)
    batches = TrainingBatches(source, PixelConfig(), batch=1, steps=1, seed=5)
    with pytest.raises(DataError, match=r"0\.png: no such file$"):
        next(loader(batches, 0, workers=1))


def test_rare_classes_are_drawn_more_often(tmp_path: Path) -> None:
    path = make_pictures(tmp_path, 30)
    content = json.loads(path.read_text())
    # Only the first picture keeps its blue square.
    content["annotations"] = [
        a for a in content["annotations"] if a["category_id"] == 3 or a["image_id"] == 1
    ]
    path.write_text(json.dumps(content))
    sampler = ClipSampler([(read_annotations(path, CLASSES), 1.0)], 2)
    rng = np.random.default_rng(0)
    drawn = [len(sampler.draw(rng).tracks) for _ in range(2000)]
    # 1 / (1 + 29 / sqrt(30)) = 0.16 instead of 1 / 30.
    assert 0.12 < np.mean(np.array(drawn) == 2) < 0.20


def test_a_picture_of_another_size_than_its_annotations_is_reported(tmp_path: Path) -> None:
    path = make_pictures(tmp_path, 1)
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8))
    maker = clip_maker(path, 1, STILL)
    with pytest.raises(DataError, match="is 97x64, but its annotations say 96x64"):
        maker.draw(Size(32, 32), np.random.default_rng(0))
