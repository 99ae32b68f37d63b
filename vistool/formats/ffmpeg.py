"""What the bundled ffmpeg program says about a file that OpenCV does not say."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imageio_ffmpeg


@dataclass(frozen=True, slots=True)
class SoundTrack:
    """The first sound track of a file."""

    codec: str  # ffmpeg's name: "aac", "opus", "pcm_s16le"...
    delay: float  # seconds from the container's start to the first frame of the picture


@cache
def ffmpeg_program() -> str:
    """Path of the ffmpeg program that comes with imageio-ffmpeg."""
    return imageio_ffmpeg.get_ffmpeg_exe()


def sound_track(path: Path) -> SoundTrack | None:
    """The first sound track of the file at `path`; None if it has none or is no media file."""
    command = [ffmpeg_program(), "-hide_banner", "-nostdin", "-i", _as_file(path)]
    report = subprocess.run(command, capture_output=True, check=False).stderr.decode(
        errors="replace"
    )
    streams = [line for line in report.splitlines() if re.match(r"\s*Stream #0:\d+", line)]
    sound = [line for line in streams if " Audio: " in line]
    if not sound:
        return None
    codec = re.search(r" Audio: (\w+)", sound[0])
    if codec is None or codec.group(1) == "none":
        return None
    container = re.search(r"Duration: [^,]*, start: (-?[\d.]+)", report)
    picture = [line for line in streams if " Video: " in line]
    begins = re.search(r", start (-?[\d.]+)", picture[0]) if picture else None
    delay = 0.0
    if container and float(container.group(1)):
        delay -= float(container.group(1))
    if begins:
        delay += float(begins.group(1))
    return SoundTrack(codec=codec.group(1), delay=max(0.0, delay))


def _as_file(path: Path) -> str:
    """A name ffmpeg cannot take for an option or a protocol such as `concat:`."""
    return f"file:{path}"
