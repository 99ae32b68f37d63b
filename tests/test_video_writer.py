"""Writing videos: exact times, correct colours, synchronous sound, and no incomplete files."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import MakeVideo, draw_shapes
from tests.processes import PATIENCE, Start
from vistool.errors import VistoolError
from vistool.formats.video.reader import open_video
from vistool.formats.video.writer import VideoWriter
from vistool.structures import Size

Run = Callable[..., subprocess.CompletedProcess[bytes]]
ShownTimes = Callable[[Path], list[float]]

RATE = 48_000  # of the sound in these tests


def write(
    path: Path, images: np.ndarray, times: Sequence[float] | None = None, fps: float = 10.0
) -> None:
    with VideoWriter(path, Size(*images.shape[1:3]), fps=fps) as writer:
        for t, image in enumerate(images):
            writer.write(image, times[t] if times else t / fps)


def read(path: Path) -> np.ndarray:
    with open_video(path) as video:
        return np.stack([frame.image for frame in video.frames()])


@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.floats(0.002, 40.0), min_size=1, max_size=30),
    start=st.floats(0.0, 7200.0),
)
def test_times_are_kept_counted_from_the_first_frame(
    steps: list[float], start: float, tmp_path: Path, shown_times: ShownTimes
) -> None:
    times = [start, *(start + np.cumsum(steps))]
    images, _ = draw_shapes(len(times), 32, 32)
    write(tmp_path / "out.mp4", images, times)
    # a time unit of the file is 11 microseconds
    assert shown_times(tmp_path / "out.mp4") == pytest.approx(
        [time - start for time in times], abs=2e-5
    )


def test_a_video_of_uneven_times_with_sound_is_rewritten_frame_by_frame(
    make_video: MakeVideo, shown_times: ShownTimes, tmp_path: Path
) -> None:
    images, _ = draw_shapes(8, 48, 64)
    source = make_video("in.mp4", images, times=(0, 0.1, 0.15, 0.5, 0.51, 1.2, 2.0, 2.2), sound=3)
    out = tmp_path / "out.mp4"
    with (
        open_video(source) as video,
        VideoWriter(out, video.size, fps=video.fps, audio_from=source) as writer,
    ):
        for frame in video.frames():
            writer.write(frame.image, frame.time)
    assert shown_times(out) == pytest.approx(shown_times(source), abs=2e-5)
    assert abs(read(out).astype(int) - images).mean() < 6  # lossy, chroma at half size


def test_the_file_has_the_properties_that_players_need(tmp_path: Path, ffmpeg: Run) -> None:
    write(tmp_path / "out.mp4", draw_shapes(5, 48, 64)[0])
    data = (tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # can be played while it loads
    report = ffmpeg("-i", tmp_path / "out.mp4", "-f", "null", "-").stderr.decode()
    assert "Video: h264" in report
    assert "yuv420p(tv, smpte170m, progressive), 64x48" in report
    assert "10 fps" in report


def test_the_last_frame_is_shown_as_long_as_one_frame(tmp_path: Path, ffmpeg: Run) -> None:
    write(tmp_path / "out.mp4", draw_shapes(3, 48, 64)[0], times=[0.0, 1.0, 3.0], fps=4)
    assert b"Duration: 00:00:03.25" in ffmpeg("-i", tmp_path / "out.mp4", "-f", "null", "-").stderr


def test_a_video_may_have_one_frame_of_one_pixel(tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", np.full((1, 1, 1, 3), 200, np.uint8), times=[5.0])
    np.testing.assert_allclose(read(tmp_path / "out.mp4"), np.full((1, 2, 2, 3), 200), atol=2)


def test_odd_sides_grow_by_one_repeated_line(tmp_path: Path) -> None:
    images = np.zeros((2, 47, 61, 3), np.uint8)
    images[:, :, 40:] = 180
    images[:, 30:] = 90
    write(tmp_path / "out.mp4", images)
    expected = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    # not rescaled: the edges inside stay where they are
    np.testing.assert_allclose(read(tmp_path / "out.mp4"), expected, atol=12)


@pytest.mark.parametrize("height", [480, 720])  # BT.601 and BT.709
@pytest.mark.parametrize("colour", [(200, 40, 30), (20, 180, 60), (255, 255, 255)])
def test_a_flat_colour_is_preserved(height: int, colour: tuple[int, ...], tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", np.full((2, height, 64, 3), colour, np.uint8))
    # a level of chroma is two of blue, and compression may cost one more; the wrong matrix costs 12
    np.testing.assert_allclose(
        read(tmp_path / "out.mp4").astype(int), np.full((2, height, 64, 3), colour), atol=5
    )


@pytest.mark.parametrize("sound", [0, 1])
@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(16, 15), Fraction(151, 144)])
def test_players_show_a_copy_in_the_shape_of_its_source(
    aspect: Fraction, sound: int, tmp_path: Path, make_video: MakeVideo, ffmpeg: Run
) -> None:
    plain = make_video("plain.mp4", draw_shapes(3, 48, 64)[0], sound=sound)
    source, turned = tmp_path / "source.mkv", tmp_path / "turned.mp4"
    shape = Fraction(64, 48) * aspect
    # The container states it, while the stream in it states square pixels.
    ffmpeg("-i", plain, "-c", "copy", "-aspect", f"{shape.numerator}:{shape.denominator}", source)
    ffmpeg("-display_rotation", 90, "-i", source, "-c", "copy", turned)
    for path, size, expected in (
        (source, Size(48, 64), aspect),
        (turned, Size(64, 48), 1 / aspect),
    ):
        out = tmp_path / "out.mp4"
        with open_video(path) as video:
            assert (video.size, video.pixel_aspect) == (size, expected)
            audio = path if video.has_audio else None
            with VideoWriter(
                *(out, video.size), fps=10, pixel_aspect=video.pixel_aspect, audio_from=audio
            ) as writer:
                for frame in video.frames():
                    writer.write(frame.image, frame.time)
        report = ffmpeg("-i", out, "-f", "null", "-").stderr.decode()
        assert f"[SAR {expected.numerator}:{expected.denominator} DAR" in report


# ---- sound ----------------------------------------------------------------------------------


def clicking(
    path: Path,
    ffmpeg: Run,
    *,
    video: float = 4.0,
    sound: float = 4.0,
    codec: str = "aac",
    delay: float = 0.0,
) -> Path:
    """A white frame and a click at every full second, the sound shifted by `delay` seconds."""
    flash = "geq=lum='if(lt(mod(T,1),0.049),235,16)':cb=128:cr=128"
    click = "aevalsrc='if(lt(mod(t,1),0.01),sin(2*PI*1000*t),0)'"
    ffmpeg(
        *("-f", "lavfi", "-i", f"color=black:s=32x32:r=20:d={video},{flash}"),
        *("-itsoffset", delay, "-f", "lavfi", "-i", f"{click}:d={sound}:s={RATE}"),
        *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", codec, path),
    )
    return path


def copy_with_sound(source: Path, out: Path, start: float = 0.0) -> None:
    with open_video(source) as video:
        frames = list(video.frames(start=start))
        with VideoWriter(
            out, video.size, fps=video.fps, audio_from=source, audio_start=frames[0].time
        ) as writer:
            for frame in frames:
                writer.write(frame.image, frame.time)


def flashes(path: Path) -> list[float]:
    with open_video(path) as video:
        return [frame.time for frame in video.frames() if frame.image.mean() > 128]


def clicks(path: Path, ffmpeg: Run) -> tuple[list[float], float]:
    """The times of the clicks on the container's clock, and the length of the sound."""
    samples = np.frombuffer(
        ffmpeg(
            *("-i", path, "-map", "0:a:0", "-af", "aresample=async=1:first_pts=0"),
            *("-ac", 1, "-ar", RATE, "-f", "f32le", "-"),
        ).stdout,
        np.float32,
    )
    loud = np.flatnonzero(abs(samples) > 0.3)
    begins = loud[np.diff(loud, prepend=-RATE) > RATE // 10]
    return [float(at) / RATE for at in begins], len(samples) / RATE


@pytest.mark.parametrize(
    ("name", "codec", "delay", "start"),
    [
        ("a.mp4", "aac", 0.0, 1.7),
        ("a.mkv", "pcm_s16le", 0.0, 0.0),  # not accepted by mp4 players: becomes AAC
        ("a.mkv", "libopus", 0.35, 0.0),
        ("a.mkv", "aac", 0.35, 1.7),
        ("a.mkv", "aac", -0.35, 1.7),
    ],
)
def test_clicks_stay_with_their_flashes(
    name: str, codec: str, delay: float, start: float, tmp_path: Path, ffmpeg: Run
) -> None:
    source = clicking(tmp_path / name, ffmpeg, codec=codec, delay=delay)
    out = tmp_path / "out.mp4"
    copy_with_sound(source, out, start)
    heard, length = clicks(out, ffmpeg)
    seen = flashes(out)
    assert seen == pytest.approx([t - start for t in range(4) if t >= start], abs=1e-4)
    expected = [t + delay - start for t in range(4) if 0 <= t + delay - start < 4 - start]
    # a packet of sound is 21 ms, and copying cuts between packets
    assert [at for at in heard if at < 4 - start - 0.025] == pytest.approx(expected, abs=0.025)
    assert length <= 4 - start + 0.025


@pytest.mark.parametrize(("sound", "start"), [(1.5, 0.0), (1.5, 2.5)])
def test_sound_that_ends_early_does_not_shorten_the_video(
    sound: float, start: float, tmp_path: Path, ffmpeg: Run, shown_times: ShownTimes
) -> None:
    source = clicking(tmp_path / "in.mp4", ffmpeg, sound=sound)
    copy_with_sound(source, tmp_path / "out.mp4", start)
    assert len(shown_times(tmp_path / "out.mp4")) == round((4 - start) * 20)


def test_copied_sound_is_the_same_sound(tmp_path: Path, ffmpeg: Run) -> None:
    source = clicking(tmp_path / "in.mp4", ffmpeg)
    copy_with_sound(source, tmp_path / "out.mp4")
    packets = ("-map", "0:a:0", "-c", "copy", "-f", "adts", "-")
    before, after = (ffmpeg("-i", path, *packets).stdout for path in (source, tmp_path / "out.mp4"))
    assert before.startswith(after[: len(after) * 9 // 10])


def test_a_source_without_sound_gives_a_video_without_sound(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    copy_with_sound(make_video("in.mp4", draw_shapes(3, 48, 64)[0]), tmp_path / "out.mp4")
    with open_video(tmp_path / "out.mp4") as video:
        assert not video.has_audio


# ---- no incomplete files --------------------------------------------------------------------


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("frames", [0, 3])
def test_a_failure_leaves_nothing_behind(
    failure: type[BaseException], frames: int, tmp_path: Path
) -> None:
    def write_and_fail() -> None:
        with VideoWriter(tmp_path / "out.mp4", Size(48, 64), fps=10) as writer:
            for t, image in enumerate(draw_shapes(3, 48, 64)[0][:frames]):
                writer.write(image, t / 10)
            raise failure

    with pytest.raises(failure):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(RuntimeError), VideoWriter(path, Size(48, 64), fps=10):
        raise RuntimeError
    assert path.read_bytes() == b"precious"
    write(path, draw_shapes(2, 48, 64)[0])
    assert len(read(path)) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_video_without_frames_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(VistoolError, match="a video needs at least one frame"),
        VideoWriter(tmp_path / "out.mp4", Size(48, 64), fps=10),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_frame_of_wrong_size_or_time_is_refused(tmp_path: Path) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    with VideoWriter(tmp_path / "out.mp4", Size(48, 64), fps=10) as writer:
        writer.write(image, 1.0)
        for wrong in (image[1:], image[..., :2], image.astype(float)):
            with pytest.raises(ValueError, match="for a video of"):
                writer.write(wrong, 2.0)
        with pytest.raises(ValueError, match=r"a frame at 1\.0 s after one at 1\.0 s"):
            writer.write(image, 1.0)
    assert len(read(tmp_path / "out.mp4")) == 1


@pytest.mark.parametrize("frames", [1, 200])  # noticed at the end, or while frames are written
def test_the_message_of_ffmpeg_is_part_of_the_error(
    frames: int, tmp_path: Path, start: Start
) -> None:
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text(
        "#!/bin/sh\nhead -c 100000 > /dev/null\n"
        "echo '[out#0/mp4 @ 0x55d] Error writing: No space left on device' >&2\n"
        "echo 'Conversion failed!' >&2\nexit 1\n"
    )
    ffmpeg.chmod(ffmpeg.stat().st_mode | stat.S_IXUSR)
    program = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from tests.test_video_writer import write\n"
        "from vistool.errors import VistoolError\n"
        "try: write(Path(sys.argv[1]), np.zeros((int(sys.argv[2]), 48, 64, 3), np.uint8))\n"
        "except VistoolError as error: print(error)\n"
    )
    out = tmp_path / "folder" / "out.mp4"
    process = start("-c", program, out, str(frames), env={"IMAGEIO_FFMPEG_EXE": str(ffmpeg)})
    assert process.communicate(timeout=PATIENCE) == (
        f"{out}: the video could not be written: Error writing: No space left on device\n",
        "",
    )
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_program_leaves_no_incomplete_video(
    how: signal.Signals, tmp_path: Path, start: Start
) -> None:
    program = (
        "import sys, itertools, numpy as np; from pathlib import Path\n"
        "from vistool.formats.video.writer import VideoWriter\n"
        "from vistool.structures import Size\n"
        "with VideoWriter(Path(sys.argv[1]), Size(240, 320), fps=10) as writer:\n"
        "    for t in itertools.count():\n"
        "        writer.write(np.zeros((240, 320, 3), np.uint8), t / 10)\n"
        "        if t == 50: print('going', flush=True)\n"
    )
    path = tmp_path / "out.mp4"
    process = start("-c", program, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    os.killpg(process.pid, how)  # to the whole group, as a terminal does for Ctrl-C
    process.communicate(timeout=PATIENCE)
    time.sleep(0.2)  # an ffmpeg left alone ends when its input ends
    assert not path.exists()
    if how == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []
