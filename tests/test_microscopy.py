"""Pages, 16 bits and floats, as microscopes write them: all frames, at their full contrast."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.made_squares import QUIET, SCENE, SquareFinder, loaded, outcome, pictures, predict_into
from tests.test_predict_command import vistool, weights
from vistool.errors import DataError, UsageError
from vistool.formats.results.files import read_meta
from vistool.formats.video.frame_files import read_frame
from vistool.formats.video.reader import open_frames, open_video
from vistool.formats.video.sources import expand_sources
from vistool.structures import Size

__all__ = ["weights"]  # a fixture

LENGTH = 6
RNG = np.random.default_rng(3)
# 12-bit values that do not begin at 0, of which the first frame has neither the lowest nor highest
GREY = RNG.integers(200, 3000, (LENGTH, 24, 32), dtype=np.uint16)
GREY[2, 0, 0], GREY[4, 5, 5] = 100, 4095


def in_8_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """[T, H, W] -> [T, H, W, 3], as the documentation says it."""
    share = (np.clip(values.astype(float), low, high) - low) / (high - low)
    return np.repeat(np.rint(share * 255).astype(np.uint8)[..., None], 3, axis=-1)


def save_stack(path: Path, pages: np.ndarray, compression: str | None = None) -> Path:
    images = [Image.fromarray(page) for page in pages]
    images[0].save(path, save_all=True, append_images=images[1:], compression=compression)
    return path


def save_folder(folder: Path, frames: np.ndarray, suffix: str) -> Path:
    folder.mkdir()
    for t, frame in enumerate(frames):
        assert cv2.imwrite(str(folder / f"{t:03}.{suffix}"), frame)
    return folder


def read(path: Path, **options: object) -> tuple[np.ndarray, list[str]]:
    with open_video(path, **options) as video:  # type: ignore[arg-type]
        images = np.stack([frame.image for frame in video.frames()])
        return images, video.warnings


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
def test_the_pages_of_a_tiff_are_frames(compression: str | None, tmp_path: Path) -> None:
    grey = (GREY >> 4).astype(np.uint8)
    path = save_stack(tmp_path / "stack.tif", grey, compression)
    with open_video(path) as video:
        assert (video.frame_count_hint, video.size) == (LENGTH, Size(24, 32))
        frames = list(video.frames())
        assert [frame.time for frame in frames] == pytest.approx([t / 10 for t in range(LENGTH)])
        np.testing.assert_array_equal(
            [frame.image for frame in frames], np.repeat(grey[..., None], 3, axis=-1)
        )
        assert video.warnings == []
        again = [frame.image for frame in video.frames(start=0.2, end=0.4)]
    np.testing.assert_array_equal(np.stack(again)[..., 0], grey[2:4])


def test_colour_pages_keep_their_colours(tmp_path: Path) -> None:
    colours = RNG.integers(0, 255, (3, 10, 12, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read(save_stack(tmp_path / "colour.tiff", colours))[0], colours)


def test_deep_values_are_stretched_over_the_sequence_and_it_is_said_once(tmp_path: Path) -> None:
    expected = in_8_bits(GREY, 100, 4095)
    for path in (
        save_stack(tmp_path / "stack.tif", GREY),
        save_folder(tmp_path / "png", GREY, "png"),
        save_folder(tmp_path / "tif", GREY, "tif"),
    ):
        images, warnings = read(path)
        np.testing.assert_array_equal(images, expected)
        (said,) = warnings
        assert "100 to 4095" in said
        assert "--range" in said


def test_a_part_of_a_sequence_is_stretched_as_the_whole(tmp_path: Path) -> None:
    path = save_stack(tmp_path / "stack.tif", GREY)
    with open_video(path) as video:
        part = np.stack([frame.image for frame in video.frames(start=0.0, end=0.2)])
    np.testing.assert_array_equal(part, in_8_bits(GREY, 100, 4095)[:2])


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32])
def test_floats_and_long_integers_are_read(kind: type, tmp_path: Path) -> None:
    values: np.ndarray = (GREY.astype(float) - 2000).astype(kind)
    folder = save_folder(tmp_path / "frames", values, "tif")
    np.testing.assert_array_equal(read(folder)[0], in_8_bits(values, -1900, 2095))


def test_what_is_no_number_is_black_and_does_not_count(tmp_path: Path) -> None:
    values = np.array([[[0, 1, 2, np.nan], [4, np.inf, -np.inf, 2]]], np.float32)
    images, _ = read(save_folder(tmp_path / "frames", values, "tif"))
    np.testing.assert_array_equal(images[0, ..., 0], [[0, 64, 128, 0], [255, 255, 0, 128]])


def test_colours_of_16_bits_are_stretched_together(tmp_path: Path) -> None:
    colours = RNG.integers(50, 1000, (2, 10, 12, 3), dtype=np.uint16)
    colours[0, 0, 0, 1], colours[1, 3, 3, 2] = 10, 1030
    images, _ = read(save_folder(tmp_path / "frames", colours[..., ::-1], "png"))
    np.testing.assert_array_equal(images, np.rint((colours - 10.0) / 1020 * 255))


def test_another_range_may_be_chosen(tmp_path: Path) -> None:
    path = save_stack(tmp_path / "stack.tif", GREY)
    images, warnings = read(path, value_range=(500.0, 2000.0))
    np.testing.assert_array_equal(images, in_8_bits(GREY, 500, 2000))
    assert warnings == []


@pytest.mark.parametrize("limits", [(5.0, 5.0), (9.0, 1.0), (0.0, float("nan"))])
def test_a_range_that_is_none_is_refused(limits: tuple[float, float], tmp_path: Path) -> None:
    path = save_stack(tmp_path / "stack.tif", GREY)
    with pytest.raises(UsageError, match="not a lower and a higher value"):
        open_video(path, value_range=limits)


def test_a_range_is_for_deep_pictures(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "frames", (GREY >> 4).astype(np.uint8), "png")
    with pytest.raises(UsageError, match="8 bits"):
        open_video(folder, value_range=(0.0, 100.0))


def test_a_constant_sequence_is_black(tmp_path: Path) -> None:
    images, _ = read(save_stack(tmp_path / "flat.tif", np.full((2, 4, 5), 700, np.uint16)))
    assert not images.any()


def test_frames_of_8_bits_among_deep_ones_are_refused(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "frames", GREY, "png")
    cv2.imwrite(str(folder / "003.png"), np.zeros((24, 32), np.uint8))
    with pytest.raises(DataError, match=r"frames.003\.png: has 8 bits"):
        read(folder)
    cv2.imwrite(str(folder / "000.png"), np.zeros((24, 32), np.uint8))
    with pytest.raises(DataError, match=r"frames.001\.png: uint16 values, but 000\.png"):
        read(folder)


def test_small_copies_among_the_pages_are_no_frames(tmp_path: Path) -> None:
    path = save_stack(tmp_path / "stack.tif", GREY[:4])
    data = bytearray(path.read_bytes())
    # make the second page a smaller copy of the first: its tag of the kind of page comes first
    place = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[place : place + 2], "little")
    second = int.from_bytes(data[place + 2 + 12 * entries :][:4], "little")
    data[second + 2 : second + 14] = (
        np.array([254, 4], "<u2").tobytes() + np.array([1, 1], "<u4").tobytes()
    )
    path.write_bytes(data)
    images, _ = read(path)
    assert len(images) == 3


def test_a_stack_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = save_stack(tmp_path / "stack.tif", GREY)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DataError, match=r"stack\.tif: damaged"):
        read(path)


def test_pages_where_one_frame_is_expected_are_refused(tmp_path: Path) -> None:
    path = save_stack(tmp_path / "stack.tif", GREY)
    with pytest.raises(DataError, match=r"stack\.tif: has several pages"):
        open_frames([path])
    with pytest.raises(DataError, match=r"stack\.tif: has several pages"):
        read_frame((path,), 0)


def test_a_stack_is_a_source_and_a_single_picture_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    stacks = [save_stack(folder / f"{n}.tif", GREY) for n in (2, 10)]
    single = tmp_path / "single.tif"
    Image.fromarray(GREY[0]).save(single)
    assert expand_sources([str(stacks[1])]) == [stacks[1]]
    assert expand_sources([str(folder)]) == stacks
    assert expand_sources([str(folder / "*.tif")]) == stacks
    with pytest.raises(DataError, match="a single picture is not a video"):
        expand_sources([str(single)])
    Image.fromarray(GREY[0]).save(folder / "3.tif")
    with pytest.raises(DataError, match="holds 1 images and 2 videos"):
        expand_sources([str(folder)])


def test_training_and_figures_see_the_frames_as_prediction_does(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "frames", GREY, "png")
    files = tuple(sorted(folder.iterdir()))
    expected = in_8_bits(GREY, 100, 4095)
    np.testing.assert_array_equal([read_frame(files, t) for t in range(LENGTH)], expected)


def test_12_bits_give_the_masks_of_their_stretch(tmp_path: Path) -> None:
    """The darkest channel of the scene is 0 and the brightest 220, stretched to 0 to 255."""
    deep: list[np.ndarray] = []
    plain: list[np.ndarray] = []
    for picture in pictures(SCENE, 8):
        deep.append(picture[..., ::-1].astype(np.uint16) * 18)
        plain.append(np.rint(picture[..., ::-1] / 220 * 255).astype(np.uint8))
    runs = []
    for name, frames in (("deep", deep), ("plain", plain)):
        folder = save_folder(tmp_path / name, np.stack(frames), "png")
        predict_into(loaded(SquareFinder()), folder, tmp_path / f"{name}-run", QUIET)
        runs.append(outcome(tmp_path / f"{name}-run")[0])
    assert len(runs[0]) == 3
    assert runs[0] == runs[1]


def test_predict_reads_a_stack_and_says_its_range_once(weights: Path, tmp_path: Path) -> None:
    source = save_stack(tmp_path / "stack.tif", GREY)
    common = ("predict", source, "-m", weights, "-o", tmp_path / "runs", "--conf", "0")
    done = vistool(*common)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("100 to 4095") == 1
    meta = read_meta(tmp_path / "runs" / "stack" / "meta.json")
    assert (meta.length, meta.value_range) == (LENGTH, (100, 4095))
    assert meta.files == [f"stack.tif#{page}" for page in range(1, LENGTH + 1)]
    chosen = vistool(*common, "--range", "500,2000", "--exist-ok")
    assert chosen.exit_code == 0, chosen.stderr
    assert "warning" not in chosen.stderr
    run = tmp_path / "runs" / "stack"
    assert read_meta(run / "meta.json").value_range == (500, 2000)
    drawn = vistool("render", source, run, "-o", tmp_path / "again.mp4")
    assert drawn.exit_code == 0, drawn.stderr
    assert (tmp_path / "again.mp4").read_bytes() == (run / "overlay.mp4").read_bytes()


@pytest.mark.parametrize("text", ["5", "1,2,3", "low,high", "7,7", "9,1"])
def test_a_range_on_the_command_line_is_two_numbers(
    text: str, weights: Path, tmp_path: Path
) -> None:
    source = save_stack(tmp_path / "stack.tif", GREY)
    done = vistool("predict", source, "-m", weights, "-o", tmp_path, "--range", text)
    assert done.exit_code == 2
    assert "range" in done.stderr
