"""Fixtures: programs, ffmpeg, and synthetic videos of two moving shapes with their masks."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import hypothesis
import imageio_ffmpeg
import numpy as np
import pytest

from tests.processes import Start, ignore, programs
from vistool.signals import STOP_SIGNALS

# A slow machine is not a failure.
hypothesis.settings.register_profile("vistool", deadline=None)
hypothesis.settings.load_profile("vistool")
# Failing asserts of this helper show their values, like those of tests.
pytest.register_assert_rewrite("tests.made_squares")


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal() -> Iterator[None]:
    """Let programs that a test starts obey signals, even if pytest was started to ignore them.

    Programs inherit ignored signals (under `nohup`, or in the background of a script), but not a
    handler that does nothing. The signals are restored after the test.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if handler == signal.SIG_IGN:
            signal.signal(number, ignore)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def start() -> Iterator[Start]:
    """start(*arguments, env=...) runs Python in the background; it does not outlive the test."""
    with programs() as start_program:
        yield start_program


@dataclass(frozen=True)
class ShapesVideo:
    """A square that moves right, and a disc that moves down and leaves; they may overlap."""

    path: Path
    images: np.ndarray  # [T, H, W, 3] uint8 RGB, exactly as a decoder must return them
    masks: np.ndarray  # [T, 2, H, W] bool: square, disc
    times: tuple[float, ...]  # seconds
    fps: float


def draw_shapes(length: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """[T, H, W, 3] uint8 RGB images and [T, 2, H, W] bool masks of a square and a disc."""
    rows, columns = np.mgrid[:height, :width]
    background = np.stack([rows * 3 % 200, columns * 2 % 200, (rows + columns) % 200], -1)
    images = np.repeat(background[None].astype(np.uint8), length, axis=0)
    masks = np.zeros((length, 2, height, width), bool)
    side, radius = height // 3, height // 6
    for t in range(length):
        left = 2 + t * max(1, (width - side - 4) // max(1, length))
        down = radius + t * (height + 2 * radius) // max(1, length)
        masks[t, 0] = (abs(rows - height // 2) * 2 < side) & (columns >= left)
        masks[t, 0] &= columns < left + side
        masks[t, 1] = (rows - down) ** 2 + (columns - width // 2) ** 2 < radius**2
        images[t][masks[t, 0]] = (220, 40, 30)
        images[t][masks[t, 1]] = (30, 60, 230)
    return images, masks


def run_ffmpeg(
    *arguments: str | Path, data: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the bundled ffmpeg; raises if it fails."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-y", *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=True)


MakeVideo = Callable[..., Path]


@pytest.fixture(scope="session")
def ffmpeg() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """ffmpeg(*arguments, data=b"") runs the bundled ffmpeg, for files that vistool cannot write."""
    return run_ffmpeg


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """make_video(name, images, times=..., fps=..., sound=..., options=...) -> path.

    By default lossless RGB H.264, so that a decoder returns `images` exactly. With `times`, in
    seconds, the rate is variable; `sound` is the length of a tone in seconds.
    """

    def make(
        name: str,
        images: np.ndarray,
        *,
        times: Sequence[float] | None = None,
        fps: float = 10.0,
        sound: float = 0.0,
        options: Sequence[str] = ("-c:v", "libx264rgb", "-qp", "0"),
    ) -> Path:
        path = tmp_path / name
        encode_video(path, images, times=times, fps=fps, sound=sound, options=options)
        return path

    return make


def encode_video(
    path: Path,
    images: np.ndarray,
    *,
    times: Sequence[float] | None = None,
    fps: float = 10.0,
    sound: float = 0.0,
    options: Sequence[str] = ("-c:v", "libx264rgb", "-qp", "0"),
) -> None:
    """Write a video with ffmpeg only, so that tests of the reader do not depend on the writer."""
    height, width = images.shape[1:3]
    command = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps}"]
    command += ["-i", "pipe:0"]
    if sound:
        command += ["-f", "lavfi", "-i", f"sine=frequency=440:duration={sound}"]
    if times is not None:
        ticks = "+".join(f"eq(N,{n})*{round(time * 90_000)}" for n, time in enumerate(times))
        command += ["-vf", f"settb=1/90000,setpts='{ticks}'"]
        command += ["-fps_mode", "passthrough", "-enc_time_base", "1:90000"]
        if path.suffix in {".mp4", ".mov"}:
            command += ["-video_track_timescale", "90000"]
    run_ffmpeg(*command, *options, path, data=images.tobytes())


@pytest.fixture(scope="session")
def shapes_video(tmp_path_factory: pytest.TempPathFactory) -> ShapesVideo:
    """24 frames of 96x128 at 12 fps with two seconds of sound, in a lossless mp4."""
    images, masks = draw_shapes(24, 96, 128)
    path = tmp_path_factory.mktemp("videos") / "shapes.mp4"
    encode_video(path, images, fps=12, sound=2.0)
    return ShapesVideo(path, images, masks, tuple(t / 12 for t in range(24)), 12.0)


@pytest.fixture
def frames_folder(tmp_path: Path) -> Callable[[np.ndarray], Path]:
    """frames_folder(images) writes frame0.png, frame1.png and so on, and returns their folder."""

    def write(images: np.ndarray) -> Path:
        folder = tmp_path / "frames"
        folder.mkdir()
        for t, image in enumerate(images):
            cv2.imwrite(str(folder / f"frame{t}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return folder

    return write


@pytest.fixture(scope="session")
def shown_times() -> Callable[[Path], list[float]]:
    """shown_times(path): time stamps by ffmpeg's showinfo, from the container's start."""

    def times(path: Path) -> list[float]:
        report = run_ffmpeg(
            *("-i", path, "-map", "0:v:0", "-vf", "showinfo=checksum=0"),
            *("-fps_mode", "passthrough", "-f", "null", "-"),
        ).stderr.decode()
        base = re.search(r"config in time_base: (\d+)/(\d+)", report)
        assert base is not None
        ticks = re.findall(r"\] n: *\d+ pts: *(-?\d+)", report)
        return [int(tick) * int(base[1]) / int(base[2]) for tick in ticks]

    return times
