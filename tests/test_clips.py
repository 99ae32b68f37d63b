"""Training clips: the frames and masks agree; camera, motion, noise and compression."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_data import make_pictures, make_video
from vistool.config import AugmentConfig
from vistool.data.augment import compress, make_noise
from vistool.data.clips import ClipMaker, TrainingClip
from vistool.data.labelled import read_annotations
from vistool.data.motion import (
    Camera,
    Curve,
    draw_camera,
    draw_curve,
    draw_object_path,
    shifted,
)
from vistool.data.sampling import ClipSampler
from vistool.data.shots import Patch
from vistool.data.warping import (
    LONGEST_BLUR,
    CanvasBox,
    exposure,
    project,
    seen,
    seen_mask,
    shrunk,
)
from vistool.errors import UsageError
from vistool.formats.masks.rle import encode_mask
from vistool.structures import Size

CANVAS = Size(72, 96)
CLASSES = {"thing": ("thing",)}
# These colours differ clearly from each other and from the grey background.
PAINTS = [c for c in itertools.product((0, 85, 170, 255), repeat=3) if len(set(c)) > 1]
RED, BLUE = (255, 0, 0), (0, 0, 255)
# No effect changes the colours.
PLAIN: dict[str, Any] = {"colour": 0.0, "blur_chance": 0.0, "motion_blur_chance": 0.0}
PLAIN |= {"noise_chance": 0.0, "compression_chance": 0.0}
LIVELY = AugmentConfig(
    **PLAIN,
    motion=0.5,
    perspective=0.15,
    paste_chance=1.0,
    max_paste_shots=2,
    behind_chance=0.4,
    leave_chance=0.4,
)

seeds = st.integers(0, 2**32)
lengths = st.integers(1, 5)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> ClipSampler:
    """Pictures with three flat shapes, each in a different colour."""
    folder = tmp_path_factory.mktemp("painted")
    rng = np.random.default_rng(3)
    images: list[Any] = []
    annotations: list[Any] = []
    for i in range(len(PAINTS) // 3):
        picture = np.full((80, 120, 3), 127, np.uint8)
        free = np.ones((80, 120), np.uint8)
        for n in range(3):
            shape = np.zeros((80, 120), np.uint8)
            middle = (int(rng.integers(10, 110)), int(rng.integers(10, 70)))
            axes = (int(rng.integers(10, 26)), int(rng.integers(10, 26)))
            cv2.ellipse(shape, middle, axes, int(rng.integers(180)), 0, 300, 1, -1)
            shape &= free
            free &= 1 - shape
            picture[shape > 0] = PAINTS[3 * i + n]
            annotation = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": 1}
            annotations.append({**annotation, "segmentation": encode_mask(shape > 0)})
        cv2.imwrite(str(folder / f"{i}.png"), picture[..., ::-1])
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 120, "height": 80})
    categories = [{"id": 1, "name": "thing"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "painted.json").write_text(json.dumps(content))
    return ClipSampler([(read_annotations(folder / "painted.json", CLASSES), 1.0)], 1)


@pytest.fixture(scope="module")
def with_crowd(tmp_path_factory: pytest.TempPathFactory) -> ClipSampler:
    """One picture with a red crowd and a blue shape, which is also pasted over the crowd."""
    folder = tmp_path_factory.mktemp("crowd")
    picture = np.full((80, 120, 3), 127, np.uint8)
    crowd, shape = np.zeros((2, 80, 120), bool)
    crowd[10:60, 10:70], shape[30:70, 80:110] = True, True
    picture[crowd], picture[shape] = RED, BLUE
    cv2.imwrite(str(folder / "0.png"), picture[..., ::-1])
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": 1, "iscrowd": 1 - i, "segmentation": mask}
        for i, mask in enumerate(map(encode_mask, (crowd, shape)))
    ]
    images = [{"id": 1, "file_name": "0.png", "width": 120, "height": 80}]
    categories = [{"id": 1, "name": "thing"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "crowd.json").write_text(json.dumps(content))
    return ClipSampler([(read_annotations(folder / "crowd.json", CLASSES), 1.0)], 1)


def draw(
    sampler: ClipSampler, seed: int, num_frames: int, augment: AugmentConfig = LIVELY
) -> TrainingClip:
    return ClipMaker(sampler, num_frames, augment).draw(CANVAS, np.random.default_rng(seed))


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """[H, W] bool, grown by `pixels`; if negative, shrunk, also at the edges of the frame."""
    change = cv2.dilate if pixels > 0 else cv2.erode
    square, outside = np.ones((3, 3), np.uint8), cv2.BORDER_CONSTANT
    result = change(
        mask.astype(np.uint8), square, iterations=abs(pixels), borderType=outside, borderValue=0
    )
    return np.asarray(result, bool)


def painted_in(frame: np.ndarray, paint: tuple[int, ...]) -> np.ndarray:
    return np.asarray((np.abs(frame.astype(int) - paint) <= 12).all(-1))


@settings(max_examples=20)
@given(seeds, lengths)
def test_a_region_is_at_its_pixels_without_pasted_instances(
    with_crowd: ClipSampler, seed: int, num_frames: int
) -> None:
    clip = draw(with_crowd, seed, num_frames)
    assert clip.target.regions is not None
    assert clip.target.region_labels is not None
    assert clip.target.region_labels.tolist() == [0]
    for frame, region in zip(clip.frames, clip.target.regions[0].numpy(), strict=True):
        assert painted_in(frame, RED)[grown(region, -3)].all()
        assert (grown(painted_in(frame, RED), -1) & ~grown(region, 3)).sum() < 16


@settings(max_examples=30)
@given(seeds, lengths)
def test_the_pixels_of_every_instance_are_those_of_its_mask(
    painted: ClipSampler, seed: int, num_frames: int
) -> None:
    clip = draw(painted, seed, num_frames)
    by_paint: dict[tuple[int, ...], np.ndarray] = {}
    for masks in clip.target.masks.numpy():
        # Most pixels of an instance have the same colour on all frames.
        colours = np.stack(clip.frames)[masks]
        counts = [(painted_in(colours, paint).sum(), paint) for paint in PAINTS]
        paint = max(counts)[1]
        by_paint[paint] = by_paint.get(paint, np.zeros_like(masks)) | masks  # may be pasted twice
        for frame, mask in zip(clip.frames, masks, strict=True):
            # Edges are blended over two pixels.
            assert painted_in(frame, paint)[grown(mask, -3)].all()
    for paint in PAINTS:
        masks = by_paint.get(paint, np.zeros((num_frames, *CANVAS), bool))
        for frame, mask in zip(clip.frames, masks, strict=True):
            areas = grown(painted_in(frame, paint), -1) & ~grown(mask, 3)
            assert areas.sum() < 16  # instances with fewer pixels are left out


@settings(max_examples=40)
@given(seeds, lengths)
def test_instances_do_not_overlap(painted: ClipSampler, seed: int, num_frames: int) -> None:
    clip = draw(painted, seed, num_frames)
    assert clip.target.masks.numpy().shape == (len(clip.target.labels.numpy()), num_frames, *CANVAS)
    assert clip.target.masks.numpy().sum(0).max(initial=0) <= 1


@settings(max_examples=20)
@given(seeds, lengths)
def test_a_clip_depends_only_on_its_generator(
    painted: ClipSampler, seed: int, num_frames: int
) -> None:
    one, two = (draw(painted, seed, num_frames, AugmentConfig()) for _ in range(2))
    np.testing.assert_array_equal(one.frames, two.frames)
    np.testing.assert_array_equal(one.target.masks.numpy(), two.target.masks.numpy())
    assert not np.array_equal(
        one.frames, draw(painted, seed + 1, num_frames, AugmentConfig()).frames
    )


@settings(max_examples=20)
@given(seeds)
def test_motion_has_no_effect_on_a_single_picture(painted: ClipSampler, seed: int) -> None:
    moving = AugmentConfig(
        perspective=0.2, object_motion=0.9, leave_chance=1.0, motion_blur_chance=1.0, motion=0.9
    )
    still = AugmentConfig(
        perspective=0.0, object_motion=0.0, leave_chance=0.0, motion_blur_chance=0.0, motion=0.0
    )
    one, two = (draw(painted, seed, 1, augment) for augment in (moving, still))
    np.testing.assert_array_equal(one.frames, two.frames)
    np.testing.assert_array_equal(one.target.masks.numpy(), two.target.masks.numpy())


def test_instances_leave_and_enter(painted: ClipSampler) -> None:
    augment = AugmentConfig(
        **PLAIN, motion=0.0, perspective=0.0, paste_chance=1.0, max_pasted=1, leave_chance=1.0
    )
    left = entered = 0
    for seed in range(40):
        for masks in draw(painted, seed, 5, augment).target.masks.numpy():
            left += bool(masks[0].any() and not masks[-1].any())
            entered += bool(masks[-1].any() and not masks[0].any())
    assert left > 8
    assert entered > 8


def test_an_instance_behind_others_hides_nothing(painted: ClipSampler) -> None:
    hidden = 0
    for seed in range(30):
        alone = draw(painted, seed, 3, AugmentConfig(**PLAIN, paste_chance=0.0))
        augment = AugmentConfig(**PLAIN, paste_chance=1.0, behind_chance=1.0, leave_chance=0.0)
        both = draw(painted, seed, 3, augment)
        own = len(alone.target.masks.numpy())
        np.testing.assert_array_equal(both.target.masks.numpy()[:own], alone.target.masks.numpy())
        covers = np.asarray(alone.target.masks.numpy().any(0))
        inside = np.stack([grown(cover, -2) for cover in covers])
        np.testing.assert_array_equal(np.stack(both.frames)[inside], np.stack(alone.frames)[inside])
        around = np.stack([grown(cover, 2) for cover in covers])
        hidden += int((both.target.masks.numpy()[own:] & around).any())
    assert hidden > 5  # some instances were behind others


def test_more_pictures_paste_more_instances(painted: ClipSampler) -> None:
    found = [
        sum(
            len(
                draw(
                    painted, seed, 1, AugmentConfig(paste_chance=1.0, max_paste_shots=shots)
                ).target.masks.numpy()
            )
            for seed in range(30)
        )
        for shots in (1, 2, 4)
    ]
    assert found[0] < found[1] < found[2]


def test_a_video_plays_forwards_or_backwards(tmp_path: Path) -> None:
    classes = {"red": ("red square",), "blue": ("blue square",)}
    videos = read_annotations(make_video(tmp_path, 8), classes)
    sampler = ClipSampler([(videos, 1.0)], 2)
    augment = AugmentConfig(
        **PLAIN, motion=0.0, perspective=0.0, paste_chance=0.0, scale=(1.0, 1.0)
    )
    directions = set()
    for seed in range(40):
        clip = ClipMaker(sampler, 4, augment).draw(Size(64, 96), np.random.default_rng(seed))
        red = clip.target.masks.numpy()[clip.target.labels.numpy() == 0]
        if not len(red) or not red[0].any((1, 2)).all():
            continue
        columns = [np.nonzero(mask)[1].mean() for mask in red[0]]
        steps = np.diff(columns)
        assert (steps >= -1).all() or (steps <= 1).all()  # one direction, maybe mirrored
        directions.add(np.sign(steps.sum()))
        for frame, mask in zip(clip.frames, red[0], strict=True):
            assert painted_in(frame, (220, 30, 30))[grown(mask, -2)].all()
    assert directions >= {-1.0, 1.0}


@settings(max_examples=40)
@given(seeds, st.integers(2, 6))
def test_paths_are_smooth(seed: int, dims: int) -> None:
    curve = draw_curve(np.ones(dims), 2, np.random.default_rng(seed))

    def bend(moments: int) -> float:
        """The largest change of the step from one moment to the next."""
        places = np.array([curve.at(time) for time in np.linspace(-1, 1, moments)])
        return float(np.abs(np.diff(places, n=2, axis=0)).max())

    # With twice the moments, the largest change is about a quarter for a smooth path, a half at a
    # corner, and the same at a jump. Paths bend most at their ends, where more moments come closer
    # to the maximum: hence slightly more than a quarter.
    assert bend(101) <= 0.35 * bend(51) + 1e-12


@settings(max_examples=40)
@given(seeds, st.floats(0.0, 0.8), st.floats(0.0, 0.15))
def test_a_camera_looks_at_its_picture(seed: int, motion: float, tilt: float) -> None:
    picture = Size(120, 160)
    camera = draw_camera(
        picture,
        CANVAS,
        5,
        np.random.default_rng(seed),
        scale_range=(1.0, 2.0),
        motion=motion,
        tilt=tilt,
    )
    middle = np.array([[CANVAS.width / 2, CANVAS.height / 2]])
    for time in np.linspace(-1, 1, 9):
        x, y = project(middle, np.linalg.inv(camera.matrix(time)))[0]
        assert 0 <= x <= picture.width
        assert 0 <= y <= picture.height


def test_a_camera_that_stands_still_sees_the_picture_or_its_mirror_image() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (*CANVAS, 3), dtype=np.uint8)
    found = set()
    for seed in range(12):
        camera = draw_camera(
            CANVAS, CANVAS, 2, np.random.default_rng(seed), scale_range=(1.0, 1.0), motion=0.0
        )
        first, last = camera.matrix(-1.0), camera.matrix(1.0)
        np.testing.assert_allclose(first, last)
        upright = Camera(camera.centre, camera.zoom, 0.0, camera.mirror, camera.path, CANVAS)
        view = seen(shrunk(picture, 1.0), upright.matrix(0.0), CanvasBox.whole(CANVAS))
        mirrored = np.roll(picture[:, ::-1], 1, axis=1)  # column 0 is outside the picture
        for name, wanted in (("same", picture), ("mirrored", mirrored)):
            if np.array_equal(view[:, 1:], wanted[:, 1:]):
                found.add(name)
    assert found == {"same", "mirrored"}


@given(seeds, st.floats(0.0, 1.0))
def test_an_object_of_a_single_picture_does_not_move(seed: int, motion: float) -> None:
    corners = np.array([[10.0, 20.0], [40.0, 50.0]])
    path = draw_object_path(
        corners, CANVAS, 1, np.random.default_rng(seed), motion=motion, leave_chance=1.0
    )
    np.testing.assert_allclose(path.matrix(0.0), np.eye(3), atol=1e-12)


@pytest.mark.parametrize("scale", [0.2, 0.45, 0.69, 1.0, 1.7])
def test_a_picture_and_its_mask_are_aligned_at_any_scale(scale: float) -> None:
    mask = np.zeros((200, 300), np.uint8)
    cv2.ellipse(mask, (140, 90), (90, 60), 20, 0, 360, 1, -1)
    picture = np.repeat(255 * mask[..., None], 3, axis=2)
    canvas = Size(int(190 * scale), int(290 * scale))  # only the picture is visible
    matrix = np.diag([scale, scale, 1.0])
    drawn = seen(shrunk(picture, scale), matrix, CanvasBox.whole(canvas))[..., 0] / 255
    labelled = np.zeros(canvas, bool)
    patch = Patch.of(mask)
    assert patch is not None
    patch.on(labelled, matrix)

    def middle(weights: np.ndarray) -> np.ndarray:
        rows, columns = np.mgrid[: canvas.height, : canvas.width]
        return np.array([(rows * weights).sum(), (columns * weights).sum()]) / weights.sum()

    drawn[[0, -1]] = drawn[:, [0, -1]] = 0  # blended with the outside
    np.testing.assert_allclose(middle(drawn), middle(labelled), atol=0.2)
    assert abs(drawn.sum() / labelled.sum() - 1) < 0.03


def test_a_patch_far_outside_is_not_drawn() -> None:
    patch = Patch.of(np.ones((4, 4), np.uint8))
    assert patch is not None
    canvas = np.zeros((20, 20), bool)
    patch.on(canvas, shifted(100, 3))
    assert not canvas.any()
    patch.on(canvas, shifted(18, 3))
    assert canvas.sum() == 2 * 4


def panning(speed: float) -> Curve:
    return Curve(np.array([speed, 0, 0, 0, 0, 0]), np.zeros((2, 6)), 0.0)


def test_motion_blurs_along_the_motion_and_not_across() -> None:
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[20:40, 20:40] = 255
    canvas = Size(60, 60)
    camera = Camera(np.array([30.0, 30.0]), 1.0, 0.0, 1.0, panning(20.0), canvas)
    corners = np.array([[0.0, 0], [60, 0], [0, 60], [60, 60]])
    moments = exposure(camera.matrix, 0.0, corners, 0.15, canvas)
    views = [seen(shrunk(picture, 1.0), moment, CanvasBox.whole(canvas)) for moment in moments]
    blurred = np.mean(views, axis=0)[..., 0]
    along = np.abs(np.diff(blurred[30]))
    across = np.abs(np.diff(blurred[:, 30]))
    assert along.max() < 140  # the camera moves by three pixels
    assert across.max() == 255
    weights = blurred.sum(0)
    assert abs((np.arange(60) * weights).sum() / weights.sum() - 29.5) < 0.1


@given(st.floats(0.0, 300.0), st.floats(0.0, 1.0))
def test_an_exposure_is_centred_and_short(speed: float, shutter: float) -> None:
    camera = Camera(np.array([48.0, 36.0]), 1.0, 0.0, 1.0, panning(speed), CANVAS)
    corners = np.array([[0.0, 0], [96, 0], [0, 72], [96, 72]])
    moments = exposure(camera.matrix, 0.0, corners, shutter, CANVAS)
    places = [project(corners, moment)[0, 0] for moment in moments]
    assert abs(np.mean(places) - project(corners, camera.matrix(0.0))[0, 0]) < 1e-6
    assert max(places) - min(places) <= LONGEST_BLUR * min(CANVAS) + 1e-6
    assert np.abs(np.diff(places)).max(initial=0) < 1.6  # otherwise copies would be visible


def test_a_part_of_a_canvas_is_drawn_as_in_the_whole() -> None:
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 255, (50, 70, 3), dtype=np.uint8), (0, 0), 2)
    matrix = shifted(5, 3) @ np.diag([1.2, 1.1, 1.0])
    box = CanvasBox(10, 8, 40, 30)
    whole = seen(shrunk(picture, 1.0), matrix, CanvasBox.whole(Size(60, 80)))
    part = seen(shrunk(picture, 1.0), matrix, box)
    assert np.abs(part.astype(int) - whole[box.pixels]).max() <= 2
    mask = shrunk((picture[..., 0] > 127).astype(np.uint8), 1.0)
    both = seen_mask(mask, matrix, CanvasBox.whole(Size(60, 80)))[box.pixels]
    assert (seen_mask(mask, matrix, box) != both).mean() < 0.01


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """[4, 64, 96, 3] uint8: a smooth picture over which a square moves."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(60, 200, (8, 12, 3), dtype=np.uint8), (96, 64))
    frames = np.repeat(ground[None], 4, axis=0)
    for t in range(4):
        frames[t, 20:40, 10 + 8 * t : 30 + 8 * t] = (220, 40, 30)
    return frames


def test_compression_changes_the_picture_visibly_but_not_much(film: np.ndarray) -> None:
    stored = compress(film, np.random.default_rng(0), 1.0)
    error = np.abs(stored.astype(int) - film).mean((1, 2, 3))
    assert (error > 0.5).all()
    assert (error < 12).all()


def test_static_areas_keep_the_compressed_first_frame(film: np.ndarray) -> None:
    still = np.repeat(film[:1], 3, axis=0)
    stored = compress(still, np.random.default_rng(1), 1.0).astype(int)
    change = np.abs(np.diff(stored, axis=0)).mean()
    assert change < 0.3 * np.abs(stored[0] - still[0]).mean()


def test_noise_is_equally_strong_and_different_on_all_frames(film: np.ndarray) -> None:
    middle = np.full_like(film, 128)
    noise = make_noise(middle, np.random.default_rng(2), 1.0).astype(int) - 128
    deviations = noise.std((1, 2, 3))
    assert deviations.min() > 0.95 * deviations.max() > 1
    assert abs(noise.mean()) < 0.1
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05


def test_with_chance_0_clip_and_generator_do_not_change(film: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert make_noise(film, rng, 0.0) is film
    assert compress(film, rng, 0.0) is film
    assert rng.bit_generator.state == before


def test_objects_at_the_edge_of_their_picture_are_not_pasted_into_videos(tmp_path: Path) -> None:
    path = make_pictures(tmp_path, 1)
    content = json.loads(path.read_text())
    cut = np.zeros((64, 96), bool)
    cut[30:, :20] = True  # touches two edges
    content["annotations"][1]["segmentation"] = encode_mask(cut)
    path.write_text(json.dumps(content))
    classes = {"red": ("red square",), "blue": ("blue square",)}
    sampler = ClipSampler([(read_annotations(path, classes), 1.0)], 2)
    # The zoom is 1, so that both are on the canvas; the whole one is red, label 0.
    augment = AugmentConfig(
        **PLAIN, paste_chance=1.0, leave_chance=0.0, object_motion=0.0, paste_scale=(1.0, 1.0)
    )
    pasted = [
        int(label)
        for seed in range(30)
        for label in draw(sampler, seed, 3, augment).target.labels.numpy()[
            len(
                draw(
                    sampler, seed, 3, AugmentConfig(**PLAIN, paste_chance=0.0)
                ).target.labels.numpy()
            ) :
        ]
    ]
    assert len(pasted) > 10
    assert np.mean(np.array(pasted) == 0) > 0.8


def test_pasted_instances_are_of_the_requested_classes(tmp_path: Path) -> None:
    """Every picture has one red and one blue square; all others are pasted."""
    classes = {"red": ("red square",), "blue": ("blue square",)}
    videos = read_annotations(make_pictures(tmp_path, 3), classes)
    sampler = ClipSampler([(videos, 1.0)], 2)
    augment = AugmentConfig(
        **PLAIN, scale=(1.0, 1.0), paste_chance=1.0, paste_classes={"red": 0.0}, behind_chance=0.0
    )
    maker = ClipMaker(sampler, 1, augment, tuple(classes))
    shown = [
        maker.draw(CANVAS, np.random.default_rng(seed)).target.labels.numpy() for seed in range(20)
    ]
    assert max(np.sum(labels == 0) for labels in shown) == 1
    assert max(np.sum(labels == 1) for labels in shown) > 1
    with pytest.raises(UsageError, match="'green' is not a class"):
        ClipMaker(sampler, 1, AugmentConfig(paste_classes={"green": 2.0}), tuple(classes))
