"""Reading videos: every frame is upright and has its own time; errors are one clear line."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import MakeVideo, ShapesVideo, draw_shapes
from tests.processes import PATIENCE
from vistool.errors import DataError, UsageError, VistoolError
from vistool.formats.threads import prefetch
from vistool.formats.video.reader import open_frames, open_video
from vistool.formats.video.sources import expand_sources

Run = Callable[..., subprocess.CompletedProcess[bytes]]
ShownTimes = Callable[[Path], list[float]]
FramesFolder = Callable[[np.ndarray], Path]

YUV = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
UNEVEN = (0.0, 0.04, 0.05, 0.2, 0.2333, 0.9, 1.0, 1.0013, 1.5, 2.75)  # seconds


def test_decoded_frames_equal_the_drawn_ones(shapes_video: ShapesVideo) -> None:
    with open_video(shapes_video.path) as video:
        frames = list(video.frames())
    assert (video.size, video.fps) == ((96, 128), 12.0)
    assert (video.frame_count_hint, video.rotation, video.has_audio) == (24, 0, True)
    assert [frame.index for frame in frames] == list(range(24))
    assert [frame.time for frame in frames] == pytest.approx(shapes_video.times, abs=1e-6)
    np.testing.assert_array_equal([frame.image for frame in frames], shapes_video.images)
    assert video.warnings == []


def test_a_video_can_be_read_twice(shapes_video: ShapesVideo) -> None:
    with open_video(shapes_video.path) as video:
        first = [frame.image.sum() for frame in video.frames()]
        assert [frame.image.sum() for frame in video.frames()] == first


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_uneven_times_are_those_ffmpeg_shows(
    suffix: str, make_video: MakeVideo, shown_times: ShownTimes
) -> None:
    images, _ = draw_shapes(len(UNEVEN), 48, 64)
    path = make_video(f"uneven.{suffix}", images, times=UNEVEN)
    with open_video(path) as video:
        times = [frame.time for frame in video.frames()]
    assert times == pytest.approx(shown_times(path), abs=1e-6)
    # Matroska as ffmpeg writes it counts in milliseconds
    assert times == pytest.approx(UNEVEN, abs=1e-3 if suffix == "mkv" else 1e-5)


def test_time_counts_from_the_first_frame_even_if_sound_begins_earlier(
    make_video: MakeVideo, ffmpeg: Run, tmp_path: Path
) -> None:
    images, _ = draw_shapes(5, 48, 64)
    plain = make_video("plain.mp4", images, fps=10, sound=1.0)
    late = tmp_path / "late.mp4"
    both = ("-map", "0:v", "-map", "1:a", "-c", "copy")
    ffmpeg("-itsoffset", "0.7", "-i", plain, "-i", plain, *both, late)
    with open_video(late) as video:
        times = [frame.time for frame in video.frames()]
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-6)


def test_start_and_end_choose_frames_and_keep_their_numbers(shapes_video: ShapesVideo) -> None:
    with open_video(shapes_video.path) as video:
        frames = list(video.frames(start=0.5, end=1.0))
    assert [frame.index for frame in frames] == [6, 7, 8, 9, 10, 11]
    np.testing.assert_array_equal(frames[0].image, shapes_video.images[6])
    assert frames[0].time == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(("start", "end"), [(1.0, 1.0), (2.0, 1.0), (-1.0, None), (None, 0.0)])
def test_a_range_without_time_is_a_usage_error(
    start: float | None, end: float | None, shapes_video: ShapesVideo
) -> None:
    with open_video(shapes_video.path) as video, pytest.raises(UsageError, match="no time lies"):
        next(video.frames(start=start, end=end))


def test_the_error_for_a_range_after_the_end_names_the_end(shapes_video: ShapesVideo) -> None:
    with open_video(shapes_video.path) as video:
        with pytest.raises(DataError, match=r"no frame from 5 s on; the last one is at 1\.917 s"):
            list(video.frames(start=5))
        with pytest.raises(DataError, match=r"no frame from 0\.09 s to 0\.15 s"):
            list(video.frames(start=0.09, end=0.15))


@pytest.mark.parametrize(("display", "turn", "degrees"), [("90", 1, 270), ("-90", -1, 90)])
def test_a_rotated_video_is_read_upright(
    display: str, turn: int, degrees: int, make_video: MakeVideo, ffmpeg: Run, tmp_path: Path
) -> None:
    images, _ = draw_shapes(3, 48, 64)
    lying, path = make_video("lying.mp4", images), tmp_path / "upright.mp4"
    ffmpeg("-display_rotation", display, "-i", lying, "-c", "copy", path)
    with open_video(path) as video:
        frames = [frame.image for frame in video.frames()]
    assert (video.size, video.rotation) == ((64, 48), degrees)
    np.testing.assert_array_equal(frames, np.rot90(images, turn, axes=(1, 2)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("av1.mp4", ("-c:v", "libaom-av1", "-cpu-used", "8", "-pix_fmt", "yuv420p")),
        ("hevc.mp4", ("-c:v", "libx265", "-pix_fmt", "yuv420p10le")),
        ("vp9.webm", ("-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p")),
        ("mpeg.mpg", ("-c:v", "mpeg2video", "-r", "10", "-strict", "-1")),
        ("motion.avi", ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-q:v", "2")),
        ("raw.h264", YUV),
        ("moving.gif", ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse")),
    ],
)
def test_common_codecs_give_every_frame_at_its_time(
    name: str, options: tuple[str, ...], make_video: MakeVideo
) -> None:
    images, _ = draw_shapes(6, 96, 128)
    with open_video(make_video(name, images, options=options)) as video:
        frames = list(video.frames())
    assert [frame.time for frame in frames] == pytest.approx([t / 10 for t in range(6)], abs=1e-5)
    # coarse: lossy codecs, and 256 colours of a GIF; a wrong channel order would be far off
    assert abs(np.stack([f.image for f in frames]).astype(int) - images).mean() < 12


def test_a_time_code_in_the_file_is_not_a_frame(make_video: MakeVideo) -> None:
    images, _ = draw_shapes(4, 48, 64)
    camera = make_video("camera.mov", images, options=(*YUV, "-timecode", "01:00:00:00"))
    with open_video(camera) as video:
        assert [frame.image.shape for frame in video.frames()] == [(48, 64, 3)] * 4


def test_odd_sizes_keep_every_pixel(make_video: MakeVideo) -> None:
    images, _ = draw_shapes(3, 47, 61)
    path = make_video("odd.mkv", images, options=("-c:v", "ffv1", "-pix_fmt", "bgr0"))
    with open_video(path) as video:
        np.testing.assert_array_equal([f.image for f in video.frames()], images)


def test_a_video_of_one_frame_has_one_frame(make_video: MakeVideo) -> None:
    images, _ = draw_shapes(1, 48, 64)
    with open_video(make_video("one.mp4", images)) as video:
        assert [(f.index, f.time) for f in video.frames()] == [(0, 0.0)]


def test_any_file_name_is_accepted(make_video: MakeVideo, tmp_path: Path) -> None:
    images, _ = draw_shapes(2, 48, 64)
    plain = make_video("plain.mp4", images)
    for name in ("concat:a|b.mp4", "-dash %03d.mp4", "Größe 'quoted'.mp4"):
        path = tmp_path / name
        path.write_bytes(plain.read_bytes())
        with open_video(path) as video, contextlib.chdir(tmp_path), open_video(Path(name)) as same:
            assert len(list(video.frames())) == len(list(same.frames())) == 2


def test_a_picture_that_changes_its_size_is_scaled_with_a_warning(
    make_video: MakeVideo, tmp_path: Path
) -> None:
    big, _ = draw_shapes(4, 96, 128)
    small, _ = draw_shapes(4, 48, 64)
    joined = tmp_path / "joined.ts"
    parts = [make_video(f"{i}.ts", x, options=YUV) for i, x in enumerate((big, small))]
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_video(joined) as video:
        assert {frame.image.shape for frame in video.frames()} == {(96, 128, 3)}
    assert len(video.warnings) == 1
    assert "change their size to 64x48" in video.warnings[0]


# ---- damaged files, and files that are not videos -------------------------------------------


def test_a_file_that_is_not_a_video_is_refused_in_one_line(
    tmp_path: Path, ffmpeg: Run, make_video: MakeVideo, capfd: pytest.CaptureFixture[str]
) -> None:
    text, empty, sound = (tmp_path / f"{name}.mp4" for name in ("text", "empty", "sound"))
    text.write_text("a letter, not a video\n" * 50)
    empty.touch()
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", sound)
    no_frames = tmp_path / "nothing.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=s=64x48:d=1", "-frames:v", "0", no_frames)
    headless = tmp_path / "headless.mp4"
    headless.write_bytes(make_video("v.mp4", draw_shapes(9, 96, 128)[0]).read_bytes()[:3000])
    for path, reason in [
        (text, "not a readable video: moov atom not found"),
        (empty, "the file is empty"),
        (sound, "no video in this file, only sound"),
        (no_frames, "no video in this file"),
        (headless, "not a readable video: moov atom not found"),
        (tmp_path / "missing.mp4", "no such file or folder"),
    ]:
        with pytest.raises(DataError) as caught:
            open_video(path)
        assert str(caught.value) == f"{path}: {reason}"
    assert capfd.readouterr().err == ""


def streamable(make_video: MakeVideo) -> Path:
    """30 frames with the index at the start, so that a part of the file can be decoded."""
    images, _ = draw_shapes(30, 96, 128)
    noise = np.random.default_rng(0).integers(0, 40, images.shape, np.uint8)
    options = (*YUV, "-g", "10", "-movflags", "+faststart")
    return make_video("whole.mp4", images + noise, options=options)


def test_a_truncated_file_gives_its_frames_and_a_warning(
    make_video: MakeVideo, capfd: pytest.CaptureFixture[str]
) -> None:
    path = streamable(make_video)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with open_video(path) as video:
        count = len(list(video.frames()))
    assert 10 <= count < 30
    assert len(video.warnings) == 1
    assert f"damaged or cut off, {count} of 30 frames" in video.warnings[0]
    assert video.incomplete
    assert capfd.readouterr().err == ""


def test_damage_in_the_middle_does_not_lose_the_rest(make_video: MakeVideo) -> None:
    path = streamable(make_video)
    data = bytearray(path.read_bytes())
    middle = len(data) * 2 // 5
    data[middle : middle + 6000] = np.random.default_rng(1).bytes(6000)  # two or three frames
    path.write_bytes(data)
    with open_video(path) as video:
        times = [frame.time for frame in video.frames()]
    assert len(times) > 20
    assert times[-1] == pytest.approx(2.9)
    assert "damaged" in video.warnings[0]


def test_a_file_whose_frames_are_all_gone_is_refused(
    make_video: MakeVideo, capfd: pytest.CaptureFixture[str]
) -> None:
    path = streamable(make_video)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 800])
    with pytest.raises(DataError, match="none of its frames can be decoded: "):
        open_video(path)
    assert capfd.readouterr().err == ""


def test_closing_a_reader_ends_its_iterators(shapes_video: ShapesVideo) -> None:
    video = open_video(shapes_video.path)
    frames = video.frames()
    next(frames)
    video.close()
    with pytest.raises((VistoolError, ValueError)):
        list(frames)


# ---- folders of frames ----------------------------------------------------------------------


def test_a_folder_of_frames_is_a_video_in_natural_order(frames_folder: FramesFolder) -> None:
    images, _ = draw_shapes(12, 48, 64)  # frame10 comes after frame9
    with open_video(frames_folder(images), fps=4) as video:
        frames = list(video.frames(start=0.5))
    assert (video.size, video.fps) == ((48, 64), 4)
    assert (video.frame_count_hint, video.rotation, video.has_audio) == (12, 0, False)
    assert [frame.index for frame in frames] == list(range(2, 12))
    assert [frame.time for frame in frames] == [t / 4 for t in range(2, 12)]
    np.testing.assert_array_equal([frame.image for frame in frames], images[2:])


def test_a_folder_has_ten_frames_per_second(frames_folder: FramesFolder) -> None:
    with open_video(frames_folder(draw_shapes(3, 48, 64)[0])) as video:
        assert [frame.time for frame in video.frames()] == [0, 0.1, 0.2]


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    grey = np.full((48, 64), 100, np.uint8)
    cv2.imwrite(str(tmp_path / "1.png"), grey)
    cv2.imwrite(str(tmp_path / "2.png"), np.dstack([grey] * 3 + [grey]))
    with open_video(tmp_path) as video:
        frames = [frame.image for frame in video.frames()]
    np.testing.assert_array_equal(frames, np.full((2, 48, 64, 3), 100))


def test_a_frame_of_another_size_is_named(frames_folder: FramesFolder) -> None:
    folder = frames_folder(draw_shapes(3, 48, 64)[0])
    cv2.imwrite(str(folder / "frame1.png"), np.zeros((50, 64, 3), np.uint8))
    with (
        open_video(folder) as video,
        pytest.raises(DataError, match=r"frame1\.png: 64x50 pixels, but frame0\.png has 64x48"),
    ):
        list(video.frames())


@pytest.mark.parametrize(
    ("suffix", "damage"),  # a JPEG has no checksum, so noise in it is not an error
    [*product(["png", "jpg"], ["half", "nothing", "text"]), ("png", "noise")],
)
def test_a_damaged_image_is_named(
    suffix: str, damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for t, image in enumerate(draw_shapes(3, 96, 128)[0]):
        cv2.imwrite(str(tmp_path / f"{t}.{suffix}"), image)
    path = tmp_path / f"1.{suffix}"
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "half": data[:middle],
            "noise": data[:middle] + bytes(8) + data[middle + 8 :],
            "nothing": b"",
            "text": b"not an image",
        }[damage]
    )
    with open_video(tmp_path) as video, pytest.raises(DataError, match=rf"1\.{suffix}: damaged"):
        list(video.frames())
    assert capfd.readouterr().err == ""


# ---- sources on the command line ------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """Two folders of frames, one of videos, one without either; the working directory."""
    for name in (
        *("walk/1.jpg", "walk/2.jpg", "walk/notes.txt", "run/1.PNG", "clips/clip10.mp4"),
        *("clips/clip9.MP4", "clips/.hidden.mp4", "clips/sub/deep.mkv", "papers/notes.txt"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with contextlib.chdir(tmp_path):
        yield tmp_path


@pytest.mark.parametrize(
    ("patterns", "sources"),
    [
        (["walk"], ["walk"]),
        (["clips"], ["clips/clip9.MP4", "clips/clip10.mp4"]),
        (["clips/*"], ["clips/clip9.MP4", "clips/clip10.mp4", "clips/sub/deep.mkv"]),
        (["*"], ["clips/clip9.MP4", "clips/clip10.mp4", "run", "walk"]),
        (["**/*.mkv"], ["clips/sub/deep.mkv"]),
        (["walk", "./walk", "w*"], ["walk"]),
        (["walk", "run"], ["walk", "run"]),
        (["papers/notes.txt"], ["papers/notes.txt"]),  # given by name: refused when opened
    ],
)
@pytest.mark.usefixtures("tree")
def test_sources_are_found(patterns: list[str], sources: list[str]) -> None:
    assert [path.as_posix() for path in expand_sources(patterns)] == sources


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("missing.mp4", "missing.mp4: no such file or folder"),
        ("", "empty name: no such file or folder"),
        ("papers", "papers: no frames and no videos in this folder"),
        ("*.mp4", "no such file or folder, and nothing matches it"),
        ("papers/*", "none of the 1 matches"),
        ("walk/1.jpg", "walk/1.jpg: a single picture is not a video"),
        ("x" * 300, "File name too long"),
    ],
)
@pytest.mark.usefixtures("tree")
def test_a_source_that_is_not_a_video_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("*", r"\*")):
        expand_sources(["walk", pattern])


def test_a_folder_of_images_and_videos_is_ambiguous(tree: Path) -> None:
    (tree / "walk" / "preview.mp4").touch()
    with pytest.raises(DataError, match="holds 2 images and 1 videos"):
        expand_sources(["walk"])


def test_a_source_given_by_a_link_is_the_same_source(tree: Path) -> None:
    (tree / "link").symlink_to(tree / "walk")
    assert expand_sources(["walk", "link"]) == [Path("walk")]


# ---- the thread that decodes ahead ----------------------------------------------------------


@given(items=st.lists(st.none() | st.integers()), depth=st.integers(1, 5))
def test_prefetch_changes_nothing(items: list[int | None], depth: int) -> None:
    assert list(prefetch(items, depth)) == items


def test_prefetch_raises_an_error_after_the_items_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise DataError("frame 2 is damaged")

    items = prefetch(failing(), 3)
    assert next(items) == 1
    with pytest.raises(DataError, match="frame 2 is damaged"):
        next(items)


def test_prefetch_raises_the_error_of_an_object_that_is_not_iterable() -> None:
    with pytest.raises(TypeError, match="not iterable"):
        list(prefetch(None, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [1, 3])
def test_closing_prefetch_stops_its_thread_and_closes_the_source(depth: int) -> None:
    made: list[int] = []
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                made.append(len(made))
                yield made[-1]
        finally:
            closed.set()

    before = threading.active_count()
    items = prefetch(endless(), depth)
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert closed.is_set()
    assert threading.active_count() == before
    assert len(made) <= 2 + 2 * (depth + 1)  # never far ahead of the consumer


def test_a_consumer_that_fails_does_not_hang_the_program(shapes_video: ShapesVideo) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from vistool.formats.video.reader import open_video\n"
        "from vistool.formats.threads import prefetch\n"
        "kept = prefetch(open_video(Path(sys.argv[1])).frames(), 1)\n"
        "next(kept); raise SystemExit(7)"
    )
    command = [sys.executable, "-c", program, str(shapes_video.path)]
    done = subprocess.run(command, timeout=PATIENCE, check=False, env=os.environ)
    assert done.returncode == 7


def test_a_list_of_images_is_a_video_in_that_order(tmp_path: Path) -> None:
    images, _ = draw_shapes(3, 24, 32)
    files = [tmp_path / name for name in ("c/0.png", "a/7.png", "c/1.png")]
    for file, image in zip(files, images, strict=True):
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    with open_frames(files) as video:
        assert (video.size, video.frame_count_hint) == ((24, 32), 3)
        np.testing.assert_array_equal([frame.image for frame in video.frames()], images)
