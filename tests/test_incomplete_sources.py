"""A source of which a part is missing: said with both numbers, and never taken for the whole."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

import vistool
from tests.conftest import MakeVideo, ShapesVideo, draw_shapes
from tests.made_squares import loaded
from tests.test_predict_command import vistool as command
from tests.test_predict_command import weights
from vistool.errors import UsageError
from vistool.formats.results.files import read_meta
from vistool.formats.video.reader import VideoReader, open_video

__all__ = ["weights"]  # a fixture

YUV = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "10")
LENGTH = 40


@pytest.fixture
def whole(make_video: MakeVideo) -> Callable[..., Path]:
    """whole(suffix, *options) -> 40 noisy frames at 10 per second."""
    images, _ = draw_shapes(LENGTH, 96, 128)
    noise = np.random.default_rng(0).integers(0, 40, images.shape, np.uint8)

    def make(suffix: str, *options: str) -> Path:
        codec = () if suffix == "gif" else YUV
        return make_video(f"whole.{suffix}", images + noise, options=(*codec, *options))

    return make


def samples_end(data: bytes, frames: int) -> int:
    """Where the bytes of the first frames end, in an mp4 of one chunk."""
    table = data.index(b"stsz") + 12
    sizes = struct.unpack_from(f">{frames}I", data, table + 4)
    chunks, begin = struct.unpack_from(">II", data, data.index(b"stco") + 8)
    assert chunks == 1
    return int(begin + sum(sizes))


def read(path: Path, end: float | None = None) -> tuple[int, VideoReader]:
    with open_video(path) as video:
        return len(list(video.frames(end=end))), video


def test_a_file_cut_between_two_frames_is_incomplete(whole: Callable[..., Path]) -> None:
    path = whole("mp4", "-movflags", "+faststart", "-bf", "0")
    data = path.read_bytes()
    cut = samples_end(data, 20)
    path.write_bytes(data[:cut])
    count, video = read(path)
    assert (count, video.incomplete) == (20, True)
    (warning,) = video.warnings
    assert "20 of 40 frames were decoded" in warning
    assert f"{cut} of {len(data)} bytes are there" in warning


@pytest.mark.parametrize("keep", [0.35, 0.6, 0.85])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("mp4", ("-movflags", "+faststart")),
        ("mp4", ("-movflags", "frag_keyframe+empty_moov")),
        ("mkv", ()),
        ("webm", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")),
        ("avi", ("-c:v", "mpeg4")),
        ("gif", ()),
        ("flv", ()),
    ],
)
def test_a_file_cut_anywhere_is_incomplete(
    suffix: str, options: tuple[str, ...], keep: float, whole: Callable[..., Path]
) -> None:
    path = whole(suffix, *options)
    data = path.read_bytes()
    count, video = read(path)
    assert (count, video.incomplete, video.warnings) == (LENGTH, False, [])
    path.write_bytes(data[: round(len(data) * keep)])
    count, video = read(path)
    assert count < LENGTH
    assert video.incomplete
    assert f"{count}" in video.warnings[0]


@pytest.mark.parametrize(
    ("suffix", "options", "expected"),
    [
        ("mp4", ("-movflags", "+faststart"), " of 40"),
        ("mp4", ("-movflags", "frag_keyframe+empty_moov"), ""),
        ("mkv", (), " of about 40"),
        ("ts", (), " of about 4"),
        ("avi", ("-c:v", "mpeg4"), " of about 40"),
    ],
)
def test_frames_that_lack_in_the_middle_make_it_incomplete(
    suffix: str, options: tuple[str, ...], expected: str, whole: Callable[..., Path]
) -> None:
    path = whole(suffix, *options)
    data = bytearray(path.read_bytes())
    middle, length = len(data) * 2 // 5, len(data) // 5
    data[middle : middle + length] = bytes(length)
    path.write_bytes(data)
    count, video = read(path)
    assert count < LENGTH
    assert video.incomplete
    assert f"damaged or cut off, {count}{expected}" in video.warnings[0]


def test_a_part_before_the_damage_is_complete(whole: Callable[..., Path]) -> None:
    path = whole("mp4", "-movflags", "+faststart", "-bf", "0")
    data = path.read_bytes()
    path.write_bytes(data[: samples_end(data, 25)])
    count, video = read(path, end=2.0)
    assert (count, video.incomplete) == (20, False)
    count, video = read(path, end=3.0)
    assert (count, video.incomplete) == (25, True)
    assert "25 of 30 frames" in video.warnings[0]


@pytest.mark.parametrize(("suffix", "muxing"), [("mp4", ("-movflags", "+faststart")), ("ts", ())])
def test_a_file_that_shrinks_while_it_is_read_is_incomplete(
    suffix: str, muxing: tuple[str, ...], whole: Callable[..., Path], ffmpeg: Callable[..., object]
) -> None:
    path = whole(suffix, *muxing)
    # larger than what ffmpeg reads ahead
    long = path.with_name(f"long.{suffix}")
    ffmpeg("-stream_loop", "60", "-i", path, "-c", "copy", *muxing, long)
    half = long.stat().st_size // 2
    with open_video(long) as video:
        frames = video.frames()
        first = [next(frames)]
        with long.open("r+b") as file:
            file.truncate(half)
        count = len(first + list(frames))
    assert count < 61 * LENGTH
    assert video.incomplete
    assert f"{half} of" in video.warnings[0]
    assert "bytes are there" in video.warnings[0]


def test_a_clip_cut_out_of_a_video_is_complete(
    whole: Callable[..., Path], ffmpeg: Callable[..., object], tmp_path: Path
) -> None:
    path = whole("mp4", "-bf", "2")
    for suffix, start in (("mp4", "1.25"), ("mkv", "1.25"), ("ts", "1.3")):
        clip = tmp_path / f"clip.{suffix}"
        ffmpeg("-ss", start, "-i", path, "-t", "1.5", "-c", "copy", clip)
        _, video = read(clip)
        assert (video.incomplete, video.warnings) == (False, []), suffix


def test_uneven_times_and_long_sound_are_no_sign_of_a_cut(make_video: MakeVideo) -> None:
    images, _ = draw_shapes(6, 48, 64)
    for suffix in ("mp4", "mkv"):
        for sound in (0.0, 9.0):
            path = make_video(
                f"uneven.{suffix}", images, times=(0, 0.1, 0.2, 3.0, 3.1, 5.0), sound=sound
            )
            count, video = read(path)
            assert (count, video.incomplete, video.warnings) == (6, False, [])


def test_a_whole_video_with_sound_is_complete(shapes_video: ShapesVideo) -> None:
    assert not read(shapes_video.path)[1].incomplete


# Predict ---------------------------------------------------------------------------------------


@pytest.fixture
def cut(whole: Callable[..., Path]) -> Path:
    """The first 20 of 40 frames, in a file that says 40."""
    path = whole("mp4", "-movflags", "+faststart", "-bf", "0")
    data = path.read_bytes()
    short = path.with_name("cut.mp4")
    short.write_bytes(data[: samples_end(data, 20)])
    return short


def predict(weights: Path, folder: Path, *arguments: str | Path) -> Result:
    return command("predict", "-m", weights, "-o", folder, "--conf", "0", *arguments)


def test_results_of_an_incomplete_source_are_a_part_and_exit_7_says_so(
    cut: Path, weights: Path, tmp_path: Path
) -> None:
    done = predict(weights, tmp_path / "runs", cut)
    assert done.exit_code == 7
    assert done.stdout.splitlines() == [str(tmp_path / "runs" / "cut")]
    lines = done.stderr.splitlines()
    assert "cut.mp4: damaged or cut off, 20 of 40 frames were decoded" in lines[0]
    assert "the source is incomplete" in lines[-1]
    meta = read_meta(tmp_path / "runs" / "cut" / "meta.json")
    assert (meta.length, meta.complete) == (20, False)
    with open_video(tmp_path / "runs" / "cut" / "overlay.mp4") as overlay:
        assert len(list(overlay.frames())) == 20


def test_a_part_never_replaces_the_results_of_a_whole_video(
    cut: Path, weights: Path, tmp_path: Path
) -> None:
    whole = cut.with_name("whole.mp4")
    runs = tmp_path / "runs"
    kept = cut.with_name("kept.mp4")
    cut.rename(kept)
    whole.rename(cut)
    assert predict(weights, runs, cut, "--no-overlay").exit_code == 0
    before = {file.name: file.read_bytes() for file in (runs / "cut").iterdir()}
    kept.replace(cut)
    done = predict(weights, runs, cut, "--exist-ok", "--no-overlay")
    assert done.exit_code == 7
    assert done.stdout.splitlines() == [str(runs / "cut-partial")]
    assert {file.name: file.read_bytes() for file in (runs / "cut").iterdir()} == before
    assert not read_meta(runs / "cut-partial" / "meta.json").complete
    # a part may replace a part
    assert predict(weights, runs, cut, "--no-overlay").stdout.splitlines() == [str(runs / "cut-2")]
    again = predict(weights, tmp_path / "other", cut, "--no-overlay")
    assert again.stdout == predict(weights, tmp_path / "other", cut, "--exist-ok").stdout


def test_among_several_sources_an_incomplete_one_is_exit_6(
    cut: Path, weights: Path, tmp_path: Path
) -> None:
    done = predict(weights, tmp_path / "runs", cut, cut.with_name("whole.mp4"), "--no-overlay")
    assert done.exit_code == 6
    assert len(done.stdout.splitlines()) == 2
    assert f"1 of 2 sources are incomplete: {cut}" in done.stderr


def test_a_range_before_the_cut_is_complete(cut: Path, weights: Path, tmp_path: Path) -> None:
    done = predict(weights, tmp_path / "runs", cut, "--end", "1.5", "--no-overlay")
    assert done.exit_code == 0, done.stderr
    assert read_meta(tmp_path / "runs" / "cut" / "meta.json").complete


def test_a_stream_of_an_incomplete_source_ends_with_exit_7(cut: Path, weights: Path) -> None:
    done = command("predict", cut, "-m", weights, "-o", "-", "--conf", "0", "--quiet")
    assert done.exit_code == 7
    assert len(done.stdout.splitlines()) == 20
    assert "20 of 40 frames" in done.stderr


def test_from_python_an_incomplete_source_is_a_part_with_a_warning(
    cut: Path, tmp_path: Path
) -> None:
    with vistool.predict(cut, model=loaded()) as video:
        assert not video.meta.complete
        assert "20 of 40 frames" in video.warnings[0]
        video.save(tmp_path / "run", overlay=False)
    with vistool.predict(cut.with_name("whole.mp4"), model=loaded()) as video:
        assert video.meta.complete
        video.save(tmp_path / "whole", overlay=False)
    with (
        vistool.predict(cut, model=loaded()) as video,
        pytest.raises(UsageError, match="the results of a whole video are in it"),
    ):
        video.save(tmp_path / "whole", overlay=False, exist_ok=True)
