"""Files with several video streams: which one is read, and that it is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_predict_command import vistool, weights
from vistool.errors import UsageError
from vistool.formats.results.files import read_meta
from vistool.formats.video.reader import open_video
from vistool.structures import Size

__all__ = ["weights"]  # a fixture

Several = Callable[..., Path]


@pytest.fixture
def several(ffmpeg: Callable[..., object], tmp_path: Path) -> Several:
    """several(suffix, 0, 2) -> sound, 96x64, 160x120, 128x96; the first and last are default."""

    def make(suffix: str, *flagged: int) -> Path:
        path = tmp_path / f"several.{suffix}"
        inputs = [("-f", "lavfi", "-i", "sine=duration=0.5")]
        for size in ("96x64", "160x120", "128x96"):
            inputs.append(("-f", "lavfi", "-i", f"testsrc=s={size}:r=10:d=0.5"))
        maps = [part for n in range(4) for part in ("-map", str(n))]
        flags = [
            part
            for n in range(3)
            for part in (f"-disposition:v:{n}", "default" if n in flagged else "0")
        ]
        encoder = ("-c:v", "mpeg4", "-g", "1")
        ffmpeg(*[part for each in inputs for part in each], *maps, *encoder, *flags, path)
        return path

    return make


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_the_largest_is_read_where_none_is_the_default(suffix: str, several: Several) -> None:
    with open_video(several(suffix)) as video:
        frames = list(video.frames())
        assert video.size == Size(120, 160)
        assert frames[0].image.shape == (120, 160, 3)
        assert len(frames) == 5
        (said,) = video.warnings
    assert "3 video streams; 2 (160x120) is read" in said
    assert "--stream" in said
    assert "1 (96x64), 3 (128x96)" in said


@pytest.mark.parametrize(("flagged", "size"), [((0,), Size(64, 96)), ((0, 2), Size(96, 128))])
def test_the_default_is_read_and_of_several_the_largest(
    flagged: tuple[int, ...], size: Size, several: Several
) -> None:
    with open_video(several("mkv", *flagged)) as video:
        assert video.size == size
        assert len(video.warnings) == 1  # before a frame is decoded, too


def test_another_stream_is_read_when_asked_for(several: Several) -> None:
    with open_video(several("mkv"), stream=3) as video:
        assert {frame.image.shape for frame in video.frames()} == {(96, 128, 3)}
        assert video.warnings == []


@pytest.mark.parametrize("number", [0, 4])
def test_a_stream_that_is_no_picture_is_refused(number: int, several: Several) -> None:
    with pytest.raises(UsageError, match=f"stream {number} is not a video") as failure:
        open_video(several("mkv"), stream=number)
    assert failure.value.hint == "its video streams: 1 (96x64), 2 (160x120), 3 (128x96)"


def test_one_stream_needs_no_word(ffmpeg: Callable[..., object], tmp_path: Path) -> None:
    cover, path = tmp_path / "cover.png", tmp_path / "with_cover.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=320x240:d=1", "-frames:v", "1", cover)
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc=s=96x64:r=10:d=0.5", "-i", cover, "-map", "0", "-map", "1"),
        *("-c:v:1", "copy", "-disposition:v:1", "attached_pic", path),
    )
    with open_video(path) as video:
        assert video.size == Size(64, 96)
        assert video.warnings == []


def test_predict_takes_the_stream_that_is_asked_for_and_render_the_same(
    several: Several, weights: Path, tmp_path: Path
) -> None:
    source = several("mkv")
    common = ("predict", source, "-m", weights, "-o", tmp_path / "runs", "--conf", "0")
    done = vistool(*common, "--stream", "3")
    assert done.exit_code == 0, done.stderr
    assert "warning" not in done.stderr
    run = tmp_path / "runs" / "several"
    meta = read_meta(run / "meta.json")
    assert (meta.stream, meta.width, meta.height) == (3, 128, 96)
    drawn = vistool("render", source, run)
    assert drawn.exit_code == 0, drawn.stderr
    with open_video(Path(drawn.stdout.strip())) as video:
        assert video.size == Size(96, 128)
    usual = vistool(*common, "--exist-ok", "--no-overlay")
    assert "2 (160x120) is read" in usual.stderr
    assert read_meta(run / "meta.json").stream == 2
    wrong = vistool(*common, "--stream", "0")
    assert wrong.exit_code == 2
    assert "stream 0 is not a video" in wrong.stderr
