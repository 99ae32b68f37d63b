"""Readers of files on anything: what they cannot use is refused in words, never by a traceback.

Each reader gets good files with something changed, by a seed, and files that broke one once. The
long form, `pytest -m slow tests/test_readers_fuzz.py`, takes minutes.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from tests.made_data import make_pictures, make_video
from tests.untrained import save_untrained
from vistool.annotations.check import check_dataset
from vistool.annotations.predicted_masks import read_predicted_masks
from vistool.annotations.read import read_dataset
from vistool.annotations.results_check import check_results
from vistool.annotations.split import split_dataset
from vistool.config import TrainConfig, apply_overrides, from_json, from_mapping, load_toml
from vistool.engine.evaluate.predictions import read_predictions
from vistool.engine.train.setup import started_with
from vistool.errors import VistoolError
from vistool.formats.masks.rle import encode_mask
from vistool.formats.pictures import displayed_size, read_picture
from vistool.formats.results.files import read_meta, read_results
from vistool.formats.tables import read_table, write_table
from vistool.models.checkpoints.files import load_model, read_header
from vistool.models.checkpoints.safe_pickle import read_checkpoint

SHORT, LONG = 60, 5_000  # changed files for each reader

# Values that programs trip over, in the place of any other.
ODD: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, -0.5, 1e308, "", "x", "0", "\0", "\udcff"),
    *("../x", "/", "a" * 5000, [], {}, [[]], [None], [0], {"a": 1}, [[1, 2, 3]], ["\0"]),
]
# Text for which a decoder of JSON has an exception of its own.
ODD_TEXTS: list[bytes] = [
    *(b"", b"[", b"[" * 100_000, b'{"a":' * 5_000, b"\xff", b"\xe9", b"\0", b"null", b"0"),
    *(b'"x"', b"[1e999]", b"NaN", b"[NaN]", b'["\\ud800"]', b"[" + b"9" * 5_000 + b"]"),
    *(b"\xef\xbb\xbf[]", b"[]", b"{}", b"[[]]", b"[null]", b"[{}]", "[]".encode("utf-16")),
]


def changed_value(value: Any, rng: np.random.Generator) -> Any:
    """A value with one of its parts replaced, left out or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = list(value)[rng.integers(len(value))]
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = int(rng.integers(len(value)))
        if rng.random() < 0.1:
            return [*value, value[at]] if rng.random() < 0.5 else value[:at] + value[at + 1 :]
        return [*value[:at], changed_value(value[at], rng), *value[at + 1 :]]
    return ODD[rng.integers(len(ODD))]


def changed_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes with some flipped, cut out, doubled, or a number written large."""
    if not data:
        return data
    at = int(rng.integers(len(data)))
    match rng.integers(6):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + data[at + int(rng.integers(1, 40)) :]
        case 2:
            return data[:at] + data[at : at + int(rng.integers(1, 40))] * 2 + data[at:]
        case 3:
            large = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"99999999"]
            return data[:at] + large[rng.integers(4)] + data[at + 4 :]
        case _:
            places = rng.integers(len(data), size=int(rng.integers(1, 6)))
            changed = bytearray(data)
            for place in places:
                changed[place] = rng.integers(256)
            return bytes(changed)


def json_files(content: Any, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """Files that are nearly the one of some content."""
    yield from ODD_TEXTS
    text = json.dumps(content).encode()
    for _ in range(count):
        value = content
        for _ in range(int(rng.integers(1, 3))):
            value = changed_value(value, rng)
        yield json.dumps(value).encode()
        yield changed_bytes(text, rng)


def refuses_or_reads(read: Callable[[], object], data: bytes) -> None:
    """Fails if something else than a failure in words comes out."""
    try:
        read()
    except VistoolError:
        return
    except Exception as error:  # noqa: BLE001 - what the test is about
        pytest.fail(f"{type(error).__name__}: {error}\nfor {data[:2000]!r}")


def swarm(read: Callable[[Path], object], path: Path, files: Iterator[bytes]) -> None:
    """Let a reader read each file at a path."""
    for data in files:
        path.write_bytes(data)
        refuses_or_reads(lambda: read(path), data)


lengths = pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])


@lengths
@pytest.mark.parametrize("kind", ["pictures", "videos", "frames"])
def test_annotation_files(tmp_path: Path, kind: str, count: int) -> None:
    rng = np.random.default_rng(1)
    path = make_video(tmp_path, 3) if kind == "videos" else make_pictures(tmp_path, 3)
    content = json.loads(path.read_text())
    if kind == "frames":  # an entry for every frame of a video
        content["videos"] = [{"id": 1, "name": "v"}]
        for n, image in enumerate(content["images"]):
            image |= {"video_id": 1, "frame_id": n}
        for n, annotation in enumerate(content["annotations"]):
            annotation["track_id"] = n % 2
    told: list[object] = []

    def read(file: Path) -> None:
        read_dataset(file, on_problem=told.append)
        read_dataset(file)
        check_dataset(file)

    swarm(read, path, json_files(content, rng, count))


def test_a_damaged_set_is_split_in_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    path = make_pictures(tmp_path, 3)
    content = json.loads(path.read_text())
    swarm(
        lambda file: split_dataset(file, 0.5, 0, tmp_path / "parts"),
        path,
        json_files(content, rng, SHORT),
    )


def results(length: int) -> list[Any]:
    mask = dict(encode_mask(np.eye(64, 96, dtype=bool)))
    entry = {"video_id": 1, "category_id": 3, "score": 0.5, "segmentations": [mask] * length}
    return [entry, {**entry, "score": 0.25, "segmentations": [None, *[mask] * (length - 1)]}]


@lengths
def test_results_files(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(3)
    dataset = read_dataset(make_video(tmp_path, 3))

    def read(file: Path) -> None:
        check_results(file)
        check_results(file, dataset)
        read_results(file)

    swarm(read, tmp_path / "results.json", json_files(results(3), rng, count))


@lengths
def test_zips_of_results(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(4)
    packed = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("results.json", json.dumps(results(3)))
        packed.append(buffer.getvalue())
    files = (changed_bytes(packed[n % 4], rng) for n in range(4 * count))
    swarm(check_results, tmp_path / "results.zip", files)


META = {
    **{"source": "/v.mp4", "video_id": 1, "width": 96, "height": 64, "length": 3, "complete": True},
    **{"first_frame": 0, "times": [0.0, 0.1, 0.2], "frame_stride": 1, "rotation": 0, "fps": 10.0},
    "categories": [{"id": 3, "name": "x"}, {"id": 4, "name": "y"}],
    **{"model": {"name": "m", "sha256": "0"}, "settings": {"save": ["csv"]}, "versions": {}},
    "tracks": [
        {"track_id": 1, "category_id": 3, "score": 0.5, "first_frame": 0, "last_frame": 2},
        {"track_id": 2, "category_id": 3, "score": 0.25, "first_frame": 1, "last_frame": 2},
    ],
}


@lengths
def test_the_facts_of_a_run(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(5)
    (tmp_path / "good.json").write_text(json.dumps(META))
    read_meta(tmp_path / "good.json")
    swarm(read_meta, tmp_path / "meta.json", json_files(META, rng, count))


@lengths
def test_the_record_of_predictions(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(6)
    dataset = read_dataset(make_video(tmp_path, 3))
    (tmp_path / "results.json").write_text(json.dumps(results(3)))
    record = {
        **{"data": "key", "model": "m", "sha256": "0", "settings": {}, "multi_class": False},
        "classes": [{"name": "x", "id": 1, "category_ids": [3]}],
        "version": "1",
    }

    def read(file: Path) -> None:
        read_predictions(file.parent, dataset, "key")

    swarm(read, tmp_path / "run.json", json_files(record, rng, count))


@lengths
def test_the_settings_of_a_training(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(7)
    content = {
        "sources": [{"annotations": "a.json", "weight": 1.0}],
        "classes": {"x": ["x"]},
        "canvases": [[64, 64]],
        "model": {"architecture": "ifc", "hidden_dim": 32},
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    started_with(tmp_path)
    swarm(
        lambda file: started_with(file.parent),
        tmp_path / "config.json",
        json_files(content, rng, count),
    )


@lengths
def test_configuration_files(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(8)
    good = b'steps = 3\ncanvases = [[64, 64]]\n[[sources]]\nannotations = "a"\n[model]\nx = 1\n'

    def read(file: Path) -> None:
        config = from_mapping(load_toml(file), TrainConfig, where=str(file))
        from_json(json.dumps({"sources": []}), TrainConfig, where="here")
        config.check(1)

    def files() -> Iterator[bytes]:
        yield from ODD_TEXTS
        yield b"x = " + b"[" * 3000
        yield b"x = " + b"9" * 5000
        yield b"canvases = [[1000000, 1000000]]\n[[sources]]\nannotations = 'a'"
        yield b"x." * 3000 + b"y = 1"
        for _ in range(count):
            yield changed_bytes(good, rng)

    swarm(read, tmp_path / "train.toml", files())


@pytest.mark.parametrize("text", ["x=" + "[" * 3000, "x=" + "9" * 5000, "x=\0", ".=1", "x.=1"])
def test_settings_on_the_command_line(text: str) -> None:
    refuses_or_reads(lambda: apply_overrides({"x": 1}, [text]), text.encode())


@lengths
def test_text_files_of_mots(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(9)
    code = encode_mask(np.eye(8, dtype=bool))["counts"]
    lines = [f"{t} {1000 + i} 1 8 8 {code}" for t in range(3) for i in (1, 2)]
    good = "\n".join(lines).encode()
    odd = ["9" * 5000, "-1", "x", "\u0661", "1e9", str(2**62), "", "0"]
    truth = tmp_path / "truth"
    (truth / "instances_txt").mkdir(parents=True)
    (truth / "instances_txt" / "a.txt").write_bytes(good)
    dataset = read_dataset(truth)
    (tmp_path / "set" / "instances_txt").mkdir(parents=True)
    told: list[object] = []

    def read(file: Path) -> None:
        read_dataset(tmp_path / "set", on_problem=told.append)
        shutil.copy(file, tmp_path / "a.txt")
        read_predicted_masks(tmp_path, dataset)

    def files() -> Iterator[bytes]:
        for _ in range(count):
            fields = lines[rng.integers(len(lines))].split()
            fields[rng.integers(6)] = odd[rng.integers(len(odd))]
            yield "\n".join([*lines, " ".join(fields)]).encode()
            yield changed_bytes(good, rng)

    swarm(read, tmp_path / "set" / "instances_txt" / "a.txt", files())


def test_the_classes_of_mots(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    (tmp_path / "instances_txt").mkdir()
    (tmp_path / "instances_txt" / "a.txt").write_text("")
    told: list[object] = []
    swarm(
        lambda _: read_dataset(tmp_path, on_problem=told.append),
        tmp_path / "categories.json",
        json_files([{"id": 1, "name": "x"}], rng, SHORT),
    )


FORMS = ("png", "jpg", "tif", "webp", "bmp", "ppm", "gif", "jp2")


@lengths
@pytest.mark.parametrize("form", FORMS)
def test_pictures(tmp_path: Path, form: str, count: int) -> None:
    rng = np.random.default_rng(11)
    buffer = io.BytesIO()
    names = {"jpg": "jpeg", "tif": "tiff", "jp2": "jpeg2000"}
    picture = Image.fromarray(rng.integers(0, 255, (12, 10, 3), np.uint8))
    picture.save(buffer, names.get(form, form))

    def read(file: Path) -> None:
        for action in (displayed_size, read_picture):
            with contextlib.suppress(VistoolError):
                action(file)

    files = (changed_bytes(buffer.getvalue(), rng) for _ in range(count))
    swarm(read, tmp_path / f"picture.{form}", files)


@lengths
def test_label_pictures(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(12)
    goods = []
    for mode, dtype in (("P", np.uint8), ("L", np.uint8), ("I;16", np.uint16)):
        buffer = io.BytesIO()
        labels = rng.integers(0, 3, (9, 7)).astype(dtype)
        image = Image.fromarray(labels)
        if mode == "P":
            image.putpalette(list(range(48)))
        image.save(buffer, "png")
        goods.append(buffer.getvalue())
    for name in ("JPEGImages/a/0.png", "Annotations/a/0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(goods[0])
    told: list[object] = []
    files = (changed_bytes(goods[n % 3], rng) for n in range(count))
    swarm(
        lambda _: read_dataset(tmp_path, on_problem=told.append),
        tmp_path / "Annotations" / "a" / "0.png",
        files,
    )


def safetensors_files(path: Path, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """Weight files with another header, or bytes that are others."""
    good = path.read_bytes()
    (size,) = struct.unpack("<Q", good[:8])
    header = json.loads(good[8 : 8 + size])
    config = json.loads(header["__metadata__"]["config"])
    for _ in range(count):
        metadata = {"config": json.dumps(changed_value(config, rng))}
        text = json.dumps({**header, "__metadata__": metadata}).encode()
        yield struct.pack("<Q", len(text)) + text + good[8 + size :]
        start = changed_bytes(good[: 8 + size], rng)
        yield start + good[8 + size :]
    for text in ODD_TEXTS:
        with_config = {"config": text.decode("latin-1")}
        yield save({"x": torch.zeros(1)}, with_config)


@lengths
def test_weight_files(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(13)
    good = save_untrained(tmp_path / "good.safetensors", ("cat", "dog"), 5)

    def read(file: Path) -> None:
        read_header(file)
        load_model(str(file))

    swarm(read, tmp_path / "w.safetensors", safetensors_files(good, rng, count // 3))


@lengths
def test_checkpoints(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(14)
    goods = []
    for legacy in (False, True):
        buffer = io.BytesIO()
        content = {"model": {"a": torch.zeros(3, 2), "b": torch.ones(1)}, "epoch": 3}
        torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
        goods.append(buffer.getvalue())
    arrays = {"a": np.zeros((3, 2), np.float32), "b": np.ones(1), "__author__": "x"}
    goods += [pickle.dumps(arrays, protocol) for protocol in range(2, 6)]
    files = (changed_bytes(goods[n % len(goods)], rng) for n in range(3 * count))
    swarm(read_checkpoint, tmp_path / "m.pth", files)


@lengths
def test_tables(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(15)
    path = write_table(tmp_path / "t.csv", [{"a": "=1", "b": 'x"y', "c": 3}] * 3)
    good = path.read_bytes()
    swarm(read_table, path, (changed_bytes(good, rng) for _ in range(count)))
