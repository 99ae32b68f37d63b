"""Files that claim more than they hold: each is refused in a second and 500 MB, and in words."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from tests.made_data import make_pictures, make_video
from vistool.annotations.label_maps import masks_of
from vistool.errors import DataError, UsageError
from vistool.formats.limits import PIXELS
from vistool.formats.masks.rle import encode_mask
from vistool.formats.pictures import read_picture

MEGABYTES, SECONDS = 500, 1.0
# A process that has loaded everything, and a child of it for every action, so that the memory that
# an action takes is its own. Each line in is an action, each line out what it ended with.
SCRIPT = """
import json, os, resource, sys, time
from pathlib import Path
import torch
from vistool.annotations.check import check_dataset
from vistool.engine.draw.sheets import dataset_sheet
from vistool.errors import VistoolError
from vistool.annotations.read import read_dataset
from vistool.annotations.label_maps import masks_of_file
from vistool.formats.pictures import displayed_size, read_picture
from vistool.annotations.predicted_masks import read_predicted_masks, with_predicted_lengths
from vistool.annotations.results_check import check_results
from vistool.formats.results.files import read_results
from vistool.formats.video.reader import open_video
from vistool.models.checkpoints.safe_pickle import read_checkpoint

def fails(result):
    raise VistoolError(str(result))

def act(action, path):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEGABYTES * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    begun = time.process_time()
    try:
        return f"not refused: {eval(action)!r:.300}"
    except VistoolError as error:
        seconds = time.process_time() - begun
        if seconds > SECONDS:
            return f"refused after {seconds:.1f} s"
        return f"refused: {type(error).__name__}: {error}\\n{error.hint}"
    except BaseException as error:
        return f"broken: {type(error).__name__}: {error}"

for line in sys.stdin:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = act(*json.loads(line)).encode("utf-8", "backslashreplace")
        os.write(write, said[:4000])
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    print(json.dumps(said or f"ended by {status}"), flush=True)
"""

Refused = Callable[[str, Path], str]


@pytest.fixture(scope="module")
def refused() -> Iterator[Refused]:
    """refused(action, path): what it is refused with; fails if it is not, or not soon enough."""
    script = SCRIPT.replace("MEGABYTES", str(MEGABYTES)).replace("SECONDS", str(SECONDS))
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    ) as process:

        def ask(action: str, path: Path) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([f"(lambda path: {action})(Path({str(path)!r}))", ""]))
            process.stdin.write("\n")
            process.stdin.flush()
            said = str(json.loads(process.stdout.readline()))
            assert said.startswith("refused: "), said
            return said

        yield ask
        assert process.stdin is not None
        process.stdin.close()


def png(path: Path, width: int, height: int, *, depth: int = 1, colour: int = 0) -> Path:
    """A black picture, packed row by row so that the test needs no memory for it either."""
    packer = zlib.compressobj(9)
    row = bytes(1 + width * depth // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
            for kind, content in chunks
        )
    )
    return path


def gif(path: Path, side: int) -> Path:
    screen = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + bytes(3) + b"\xff\xff\xff"
    picture = b"\x2c" + struct.pack("<HHHH", 0, 0, side, side) + b"\0\x02\x02\x44\x01\0;"
    path.write_bytes(screen + picture)
    return path


def test_a_video_of_a_few_bytes_and_many_pixels(refused: Refused, tmp_path: Path) -> None:
    path = gif(tmp_path / "big.gif", 16000)
    assert path.stat().st_size < 70
    assert "16000x16000 are too many pixels" in refused("open_video(path)", path)


HEADERS: dict[str, bytes] = {
    "jpg": b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc2\x00\x11\x08"
    + struct.pack(">HH", 60000, 60001)
    + bytes(99),
    "webp": b"RIFF\xff\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x7f\0\xff\x7f\0" + bytes(99),
    "lossless.webp": b"RIFF\xff\0\0\0WEBPVP8L\xff\0\0\0\x2f\xff\xff\xff\x0f" + bytes(99),
    "tif": b"II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIIHHII", 256, 4, 1, 40000, 257, 4, 1, 40000),
    "tiles.tif": b"II*\0\x08\0\0\0\x04\0"
    + struct.pack("<HHIIHHII", 256, 3, 1, 9, 257, 3, 1, 9)
    + struct.pack("<HHIIHHII", 322, 4, 1, 40000, 323, 4, 1, 40000),
    "bmp": b"BM"
    + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0),
    "pgm": b"P5 30000 30000 255\n" + bytes(9),
    "png": b"",  # made in full
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_picture_whose_header_claims_too_much(
    refused: Refused, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(HEADERS[name])
    if name == "png":
        png(path, 30000, 30000)
        assert path.stat().st_size < 120_000
    assert "are too many pixels" in refused("read_picture(path)", path)
    assert "VISTOOL_MAX_PIXELS" in refused("displayed_size(path)", path)


def test_the_second_header_of_a_jpeg_does_not_count_for_less(
    refused: Refused, tmp_path: Path
) -> None:
    small = b"\xff\xd8\xff\xc0\x00\x0b\x08\0\x10\0\x10\x01\x01\x11\0"
    large = b"\xff\xc0\x00\x0b\x08\xff\xf0\xff\xf0\x01\x01\x11\0\xff\xda" + bytes(99)
    path = tmp_path / "two.jpg"
    path.write_bytes(small + large)
    refused("displayed_size(path)", path)
    refused("read_picture(path)", path)


def test_headers_of_every_form_are_read_right(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (37, 53, 3), np.uint8)
    for form in ("jpg", "png", "tif", "webp", "bmp", "ppm", "jp2"):
        path = tmp_path / f"picture.{form}"
        Image.fromarray(picture).save(path)
        assert read_picture(path).shape == (37, 53, 3)
    Image.fromarray(picture).save(tmp_path / "l.webp", lossless=True)
    Image.fromarray(picture).save(tmp_path / "p.jpg", progressive=True)
    Image.fromarray(picture).save(tmp_path / "b.tif", big_tiff=True)
    np.testing.assert_array_equal(read_picture(tmp_path / "l.webp"), picture)
    np.testing.assert_array_equal(read_picture(tmp_path / "b.tif"), picture)
    assert read_picture(tmp_path / "p.jpg").shape == (37, 53, 3)


def test_the_limit_of_pixels_is_set_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = png(tmp_path / "picture.png", 40, 40)
    for limit in ("1599", "100"):
        monkeypatch.setenv(PIXELS.variable, limit)
        with pytest.raises(DataError, match="40x40 are too many pixels") as refused:
            read_picture(path)
        assert f"the limit is {limit}: set {PIXELS.variable}" in refused.value.hint
    monkeypatch.setenv(PIXELS.variable, "1600")
    assert read_picture(path).shape == (40, 40, 3)
    for wrong in ("-1", "many", "0", "9" * 30):
        monkeypatch.setenv(PIXELS.variable, wrong)
        with pytest.raises(UsageError, match=PIXELS.variable):
            read_picture(path)


@pytest.mark.parametrize(
    "action",
    ["read_dataset(path)", "check_dataset(path)", "dataset_sheet(path)"],
)
def test_label_pictures(refused: Refused, tmp_path: Path, action: str) -> None:
    for name in ("JPEGImages/a/0.png", "Annotations/a/0.png"):
        png(tmp_path / name, 30000, 30000)
    assert "too many pixels" in refused(
        f"fails({action})",
        tmp_path,
    )


def test_a_label_picture_with_every_id(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "ids.png"
    ids = np.arange(1 << 15, dtype=np.uint16).reshape(128, 256)
    Image.fromarray(ids).save(path)
    # A mask for each took a gigabyte; now it is read.
    refused("fails(len(masks_of_file(path)))", path)


def test_a_label_picture_of_noise(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    stripes = np.zeros((4000, 4000), np.uint8)
    stripes[::2] = 1
    Image.fromarray(stripes).save(path)
    assert "noise" in refused("fails(masks_of_file(path))", path)


@pytest.mark.parametrize("key", ["images", "videos"])
def test_pictures_of_an_annotation_file_that_are_nowhere(
    refused: Refused, tmp_path: Path, key: str
) -> None:
    path = make_pictures(tmp_path, 1) if key == "images" else make_video(tmp_path, 2)
    content = json.loads(path.read_text())
    content[key][0] |= {"width": 100_000, "height": 100_000}
    path.write_text(json.dumps(content))
    assert "VISTOOL_MAX_PIXELS" in refused("read_dataset(path)", path)


def test_a_mask_of_a_few_bytes(refused: Refused, tmp_path: Path) -> None:
    mask = {"size": [16_000, 16_000], "counts": "P_Q^72"}
    entry = {"video_id": 1, "category_id": 1, "score": 0.5, "segmentations": [mask]}
    path = tmp_path / "results.json"
    path.write_text(json.dumps([entry]))
    assert "a mask of 16000x16000 pixels" in refused("read_results(path)", path)
    said = refused("fails([str(p) for p in check_results(path).problems])", path)
    assert "a mask of 16000x16000 pixels" in said


def test_a_zip_that_swells(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "results.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("results.json", "w", force_zip64=True) as file,
    ):
        file.write(b"[]")
    # What the directory says is believed first, so the test needs no gigabytes.
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 4_200_000_000)
    path.write_bytes(data)
    said = refused("check_results(path)", path)
    assert "4200000000 bytes when unpacked" in said
    assert "VISTOOL_MAX_UNPACKED_BYTES" in said


def mots_lines(path: Path, ids: range, frame: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = encode_mask(np.ones((4, 4), bool))["counts"]
    lines = [f"{frame} {1000 + i} 1 4 4 {code}\n" for i in ids]
    path.write_text("".join(lines))
    return path


def test_mots_tracks_of_millions_of_frames(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "mots"
    mots_lines(folder / "instances_txt" / "a.txt", range(1, 61), 9_999_998)
    said = refused("read_dataset(path)", folder)
    assert "VISTOOL_MAX_TRACK_FRAMES" in said


def test_mots_tracks_of_many_sequences(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "mots"
    for n in range(60):
        mots_lines(folder / "instances_txt" / f"{n}.txt", range(1, 7), 999_998)
    assert "VISTOOL_MAX_TRACK_FRAMES" in refused("read_dataset(path)", folder)


def test_mots_predictions_of_millions_of_frames(refused: Refused, tmp_path: Path) -> None:
    mots_lines(tmp_path / "set" / "instances_txt" / "a.txt", range(1, 61), 3)
    mots_lines(tmp_path / "mine" / "a.txt", range(1, 61), 9_999_998)
    said = refused(
        "with_predicted_lengths(read_dataset(path / 'set'), path / 'mine')",
        tmp_path,
    )
    assert "VISTOOL_MAX_TRACK_FRAMES" in said


def test_annotations_of_single_frames_that_make_many_tracks(
    refused: Refused, tmp_path: Path
) -> None:
    many = 7000
    images = [
        {"id": i, "video_id": 1, "file_name": f"{i}.png", "width": 4, "height": 4}
        for i in range(many)
    ]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "track_id": i, "segmentation": None}
        for i in range(many)
    ]
    content = {
        "videos": [{"id": 1, "name": "v"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "x"}],
    }
    path = tmp_path / "video.json"
    path.write_text(json.dumps(content))
    assert "VISTOOL_MAX_TRACK_FRAMES" in refused("read_dataset(path)", path)


PICKLES: dict[str, Callable[[], bytes]] = {
    "a place in memory": lambda: b"Nr\xff\xff\xff\x11.",
    "an array of bytes": lambda: b"\x80\x05\x96\xff\xff\xff\xff\x03\0\0\0.",
    "a long text": lambda: b"\x80\x04\x8d\xff\xff\xff\xff\x03\0\0\0.",
    "a frame": lambda: b"\x80\x04\x95\xff\xff\xff\xff\x03\0\0\0N.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_of_a_few_bytes(refused: Refused, tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(PICKLES[name]())
    assert "WeightsError" in refused("read_checkpoint(path)", path)


def test_a_checkpoint_that_is_packed(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(40_000_000))
    assert "compressed" in refused("read_checkpoint(path)", path)


def test_a_checkpoint_whose_tensors_repeat_one_number(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, path)
    assert "more than the file can hold" in refused("read_checkpoint(path)", path)


def test_a_pipe_in_the_place_of_a_picture_holds_nothing_up(
    refused: Refused, tmp_path: Path
) -> None:
    path = make_pictures(tmp_path, 1)
    (tmp_path / "0.png").unlink()
    os.mkfifo(tmp_path / "0.png")
    assert "not a regular file" in refused("dataset_sheet(path)", path)
    assert "not a regular file" in refused("fails(check_dataset(path))", path)
    assert "not a regular file" in refused("read_picture(path)", tmp_path / "0.png")
    assert "not a regular file" in refused("read_picture(path)", Path("/dev/zero"))


def test_a_name_that_no_text_can_be(refused: Refused, tmp_path: Path) -> None:
    path = make_pictures(tmp_path, 1)
    content: dict[str, Any] = json.loads(path.read_text())
    content["images"][0]["file_name"] = "\udcff.jpg"
    path.write_text(json.dumps(content))
    refused("dataset_sheet(path)", path)
    refused("fails(check_dataset(path))", path)


@given(labels=arrays(np.uint16, array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 3)))
def test_the_masks_of_a_label_picture_are_those_of_its_ids(labels: np.ndarray) -> None:
    ids = [int(id_) for id_ in np.unique(labels) if id_]
    expected = {id_: encode_mask(labels == id_) for id_ in ids}
    assert list(masks_of(labels).items()) == list(expected.items())
