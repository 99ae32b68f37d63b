"""Folders of frames: how fast they follow each other, and which file every result is of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vistool
from tests.made_squares import LENGTH, loaded, save_frames
from tests.test_predict_command import make_video, weights
from tests.test_predict_command import vistool as command
from vistool.errors import DataError, UsageError
from vistool.formats.results.files import read_meta, write_meta
from vistool.formats.video.reader import open_video

__all__ = ["weights"]  # a fixture


def test_the_rate_of_a_folder_can_be_said(weights: Path, tmp_path: Path) -> None:
    source = save_frames(tmp_path / "frames")
    common = ("predict", source, "-m", weights, "-o", tmp_path / "runs", "--conf", "0")
    done = command(*common, "--fps", "25", "--start", "0.1", "--end", "0.3")
    assert done.exit_code == 0, done.stderr
    run = tmp_path / "runs" / "frames"
    meta = read_meta(run / "meta.json")
    assert meta.fps == 25
    assert meta.times == pytest.approx([frame / 25 for frame in range(3, 8)])
    with open_video(run / "overlay.mp4") as overlay:
        times = [frame.time for frame in overlay.frames()]
    assert times == pytest.approx([frame / 25 for frame in range(5)], abs=1e-4)
    # as fast as it was predicted
    drawn = command("render", source, run, "-o", tmp_path / "again.mp4")
    assert drawn.exit_code == 0, drawn.stderr
    assert (tmp_path / "again.mp4").read_bytes() == (run / "overlay.mp4").read_bytes()


def test_meta_says_which_file_every_frame_is(weights: Path, tmp_path: Path) -> None:
    source = save_frames(tmp_path / "frames")
    for number in range(LENGTH):
        (source / f"{number:03}.png").rename(source / f"cam_{number * 5}.png")
    common = ("predict", source, "-m", weights, "-o", tmp_path / "runs", "--conf", "0")
    done = command(*common, "--start", "0.4", "--end", "1.2", "--no-overlay")
    assert done.exit_code == 0, done.stderr
    meta = read_meta(tmp_path / "runs" / "frames" / "meta.json")
    assert meta.first_frame == 4
    assert meta.files == [f"cam_{number * 5}.png" for number in range(4, 12)]


def test_a_video_file_has_no_files_and_its_own_rate(weights: Path, tmp_path: Path) -> None:
    source = make_video(tmp_path / "one.mp4", 3)
    common = ("predict", source, "-m", weights, "-o", tmp_path / "runs", "--no-overlay")
    assert command(*common).exit_code == 0
    assert read_meta(tmp_path / "runs" / "one" / "meta.json").files is None
    for option, value in (("--fps", "5"), ("--range", "0,9")):
        done = command(*common, option, value)
        assert done.exit_code == 2
        assert "a video file has its own" in done.stderr


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(fps: float, tmp_path: Path) -> None:
    source = save_frames(tmp_path / "frames", length=2)
    with pytest.raises(UsageError, match="frames per second"):
        open_video(source, fps=fps)
    with pytest.raises(UsageError, match="frames per second"):
        vistool.predict(source, model=loaded(), fps=fps)


def test_from_python_the_same_word_is_for_folders_and_arrays(tmp_path: Path) -> None:
    source = save_frames(tmp_path / "frames")
    with open_video(source) as reader:
        images = [frame.image for frame in reader.frames()]
    with (
        vistool.predict(source, model=loaded(), fps=4) as one,
        vistool.predict(images, model=loaded(), fps=4) as other,
    ):
        assert list(one.times) == list(other.times) == [frame / 4 for frame in range(LENGTH)]
        assert other.meta.files is None
        one.save(tmp_path / "run", overlay=False)
    with vistool.load(tmp_path / "run") as saved:
        assert saved.frames[3].time == 0.75
        np.testing.assert_array_equal(saved.frames[3].image, images[3])
    with pytest.raises(UsageError, match="not for pictures given as arrays"):
        vistool.predict(images, model=loaded(), fps=4, stream=1)


def test_files_that_are_not_as_many_as_frames_are_damage(tmp_path: Path) -> None:
    source = save_frames(tmp_path / "frames")
    with vistool.predict(source, model=loaded()) as video:
        assert video.meta.files is not None
        video.meta.files.pop()
        write_meta(tmp_path / "meta.json", video.meta, [])
    with pytest.raises(DataError, match="13 files for 14 frames"):
        read_meta(tmp_path / "meta.json")
