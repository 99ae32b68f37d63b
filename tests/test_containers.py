"""Videos that name other files: no manifest or playlist is followed, whatever its suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vistool.errors import DataError
from vistool.formats.video.reader import open_video

DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"
  profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">
  <Representation id="1" bandwidth="1000" width="64" height="48"><BaseURL>file://{secret}</BaseURL>
  </Representation></AdaptationSet></Period></MPD>
"""
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{secret}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile {name}\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9999 RTP/AVP 96\n"
HOSTILE = {
    "dash.mp4": DASH,
    "dash.mpd": DASH,
    "list.m3u8": PLAYLIST,
    "list.mp4": PLAYLIST,
    "concat.mp4": CONCAT,
    "concat.ffconcat": CONCAT,
    "stream.sdp": SDP,
    "stream.mp4": SDP,
}

RunFFmpeg = Callable[..., Any]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_names_another_is_not_followed(
    tmp_path: Path, ffmpeg: RunFFmpeg, name: str
) -> None:
    secret = tmp_path / "secret.mp4"
    made = ("-f", "lavfi", "-i", "testsrc=s=64x48:r=5:d=1")
    ffmpeg(*made, "-c:v", "mpeg2video", tmp_path / "secret.ts")
    ffmpeg(*made, "-c:v", "libx264", secret)
    target = tmp_path / "secret.ts" if HOSTILE[name] is PLAYLIST else secret
    path = tmp_path / name
    path.write_text(HOSTILE[name].format(secret=target, name=secret.name))
    with pytest.raises(DataError, match="not a readable video"):
        open_video(path)
    with open_video(target) as reader:  # it could have been
        assert len(list(reader.frames())) == 5


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mov", "mpeg4"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx"),
        ("a.avi", "mpeg4"),
        ("a.flv", "flv"),
        ("a.ts", "mpeg2video"),
        ("a.m2ts", "libx264"),
        ("a.mpg", "mpeg2video"),
        ("a.vob", "mpeg2video"),
        ("a.mxf", "mpeg2video"),
        ("a.wmv", "wmv2"),
        ("a.asf", "msmpeg4"),
        ("a.ogv", "libvpx"),
        ("a.3gp", "h263"),
        ("a.gif", "gif"),
        ("a.mjpeg", "mjpeg"),
        ("a.y4m", "rawvideo"),
        ("a.h264", "libx264"),
        ("a.nut", "ffv1"),
        ("a.dv", "dvvideo"),
    ],
)
def test_every_usual_container_is_read(
    tmp_path: Path, ffmpeg: RunFFmpeg, name: str, codec: str
) -> None:
    size, rate = ("720x576", 25) if codec == "dvvideo" else ("176x144", 25)
    picture = f"testsrc=s={size}:r={rate}:d=0.2"
    pixels = ("-pix_fmt", "rgb8" if codec == "gif" else "yuv420p")
    path = tmp_path / name
    shape = ("-f", "ogg") if name.endswith("ogv") else ()
    ffmpeg("-f", "lavfi", "-i", picture, *pixels, "-c:v", codec, *shape, path)
    with open_video(path) as reader:
        assert len(list(reader.frames())) >= 4
