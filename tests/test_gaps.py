"""Frames that lie hours or days apart, as those of a camera that waits for something to move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vistool.formats.video.reader import open_video
from vistool.formats.video.writer import VideoWriter
from vistool.structures import Size

DAY = 86_400


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("step", [2148, 3600, 7 * DAY])
def test_frames_far_apart_all_come_at_their_times(
    suffix: str, step: int, ffmpeg: Callable[..., object], tmp_path: Path
) -> None:
    path = tmp_path / f"gaps.{suffix}"
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc=s=160x120:r=1:d=4"),
        *("-vf", f"settb=1/100,setpts='N*{step}.25/TB'", "-fps_mode", "passthrough"),
        *("-enc_time_base", "1:100", "-c:v", "libx264", "-bf", "0"),
        *("-video_track_timescale", "100") if suffix == "mp4" else (),
        path,
    )
    with open_video(path) as video:
        times = [frame.time for frame in video.frames()]
        assert video.warnings == []
    assert times == pytest.approx([n * (step + 0.25) for n in range(4)], abs=1e-6)


def test_frames_far_apart_are_written_at_their_times(tmp_path: Path) -> None:
    path = tmp_path / "written.mp4"
    times = [0.0, 3600.25, 30_000.5, 30_000.75, 30_001 + 2 * DAY]
    with VideoWriter(path, Size(48, 64), fps=1) as writer:
        for n, time in enumerate(times):
            writer.write(np.full((48, 64, 3), 50 * n, np.uint8), time)
    with open_video(path) as video:
        frames = {frame.time: frame.image.mean() for frame in video.frames()}
    for n, time in enumerate(times):
        assert frames[time] == pytest.approx(50 * n, abs=3)
    between = [grey for time, grey in frames.items() if time not in times]
    assert between[0] == pytest.approx(0, abs=3)
    assert between[1:14] == pytest.approx([50] * 13, abs=3)  # every 2,000 s
    assert between[14:] == pytest.approx([150] * 86, abs=3)


def test_times_are_whole_microseconds_wherever_the_video_starts(
    ffmpeg: Callable[..., object], tmp_path: Path
) -> None:
    path = tmp_path / "late.ts"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=160x120:r=30:d=5", "-c:v", "libx264", path)
    with open_video(path) as video:
        times = [frame.time for frame in video.frames()]
    assert len(times) == 150
    assert times == [round(time, 6) for time in times]
