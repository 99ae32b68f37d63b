"""Data of the released weights: repeated pictures, halves, class layers."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.made_data import CATEGORIES
from vistool.formats.masks.rle import decode_mask, encode_mask
from vistool.models.checkpoints.files import load_model

RESEARCH = Path(__file__).resolve().parent.parent / "research"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of `research/` by its name."""
    monkeypatch.syspath_prepend(RESEARCH)
    return importlib.import_module


def scene(seed: int) -> np.ndarray:
    """[120, 160, 3] uint8, blurred noise: no two alike."""
    noise = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), np.uint8)
    return cv2.resize(noise, (160, 120), interpolation=cv2.INTER_CUBIC)


def write_set(folder: Path, file_name: str, pictures: dict[str, np.ndarray], **fields: Any) -> None:
    mask = np.zeros((120, 160), bool)
    mask[30:90, 40:120] = True
    images, annotations = [], []
    for i, (file, picture) in enumerate(pictures.items()):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 60])
        height, width = picture.shape[:2]
        images.append({"id": i + 1, "file_name": file, "width": width, "height": height})
        annotation = {"id": i + 1, "image_id": i + 1, "category_id": 3, "iscrowd": 0, **fields}
        annotations.append({**annotation, "segmentation": encode_mask(mask)})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / file_name).write_text(json.dumps(content))


def test_copies_are_found_mirrored_smaller_and_compressed_anew_and_others_are_not(
    tmp_path: Path, script: Any
) -> None:
    dev = {f"dev/{i}.jpg": scene(i) for i in range(6)}
    smaller = cv2.resize(scene(0), (96, 72), interpolation=cv2.INTER_AREA)
    train = {"train/small.jpg": smaller, "train/mirror.jpg": scene(1)[:, ::-1]}
    train |= {f"train/{i}.jpg": scene(100 + i) for i in range(20)}
    write_set(tmp_path / "cats", "dev.json", dev)
    write_set(tmp_path / "cats", "train.json", train)
    duplicates = script("duplicates")
    pictures = [
        list(duplicates.pictures(tmp_path, names))
        for names in ((duplicates.TRAIN,), duplicates.DEVELOPMENT)
    ]
    same = [pair for pair in duplicates.alike(*pictures, 256) if pair.same]
    assert {(pair.train, pair.development) for pair in same} == {
        ("cats/train/small.jpg", "cats/dev/0.jpg"),
        ("cats/train/mirror.jpg", "cats/dev/1.jpg"),
    }


def test_what_repeats_the_development_data_is_not_trained_on(
    tmp_path: Path, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_data = script("training_data")
    left_out = tmp_path / "left_out.json"
    left_out.write_text(json.dumps({"cats/train/1.jpg": "cats/dev/7.jpg"}))
    monkeypatch.setattr(training_data, "LEFT_OUT", left_out)
    pictures = {f"train/{i}.jpg": scene(i) for i in range(3)}
    write_set(tmp_path / "data" / "cats", "train.json", pictures, name="tiger")
    training_data.prepare(tmp_path / "data", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "cats" / "train.json").read_text())
    assert [i["file_name"] for i in content["images"]] == ["train/0.jpg", "train/2.jpg"]
    assert [a["image_id"] for a in content["annotations"]] == [1, 3]
    assert sorted(p.name for p in (tmp_path / "out" / "cats" / "train").iterdir()) == [
        "0.jpg",
        "2.jpg",
    ]
    # What a set names is a category of that name.
    names = {c["id"]: c["name"] for c in content["categories"]}
    assert {names[a["category_id"]] for a in content["annotations"]} == {"tiger"}


def test_the_halves_hold_everything_once() -> None:
    split = json.loads((RESEARCH / "split.json").read_text())
    sets = [*split["pictures"].values(), *split["videos"].values()]
    assert len(sets) == 10
    for halves in sets:
        first, second = halves.values()
        assert first
        assert second
        assert abs(len(first) - len(second)) <= 1
        assert not set(first) & set(second)


def test_a_new_class_begins_as_the_old_one_that_it_is_a_part_of(
    tmp_path: Path, script: Any
) -> None:
    """Where several do, they share its probability."""
    classes = {"ridden": ("horse",), "milked": ("cow",), "man": ("person",), "cup": ("cup",)}
    script("start_classes").write_start(tmp_path / "start.safetensors", "ifc-lite", classes)
    old, new = (
        dict(load_model(name).model.named_parameters())
        for name in ("ifc-lite", str(tmp_path / "start.safetensors"))
    )
    names = load_model("ifc-lite").header.config.class_names
    hoofed, person = names.index("hoofed animal"), names.index("person")
    weight, bias = (f"class_head.layers.1.{part}" for part in ("weight", "bias"))
    for place, source in ((0, hoofed), (1, hoofed), (2, person), (4, len(names))):
        assert (new[weight][place] == old[weight][source]).all()
    share = (new[bias][:2] - old[bias][hoofed]).exp().tolist()
    assert share == pytest.approx([0.5, 0.5])
    assert new[bias][2] == old[bias][person]


def test_a_class_of_several_old_ones_is_as_likely_as_these_together(
    tmp_path: Path, script: Any
) -> None:
    write_start = script("start_classes").write_start
    apart = {"ridden": ("horse",), "milked": ("cow",), "man": ("person",)}
    write_start(tmp_path / "apart.safetensors", "ifc-lite", apart)
    one = {"hoofed": ("horse", "cow"), "man": ("person",)}
    write_start(tmp_path / "one.safetensors", str(tmp_path / "apart.safetensors"), one)
    pixels = torch.randn(1, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (
            load_model(str(tmp_path / f"{name}.safetensors")).model(pixels).class_logits.softmax(-1)
            for name in ("apart", "one")
        )
    torch.testing.assert_close(after[..., 0], before[..., :2].sum(-1))
    torch.testing.assert_close(after[..., 1:], before[..., 2:])


def test_a_data_pack_keeps_masks_on_their_pictures(tmp_path: Path, script: Any) -> None:
    write_set(tmp_path / "cats", "train.json", {"train/0.jpg": scene(0)})
    script("data_pack").shrink(tmp_path / "cats" / "train.json", tmp_path / "out", 60, 50)
    content = json.loads((tmp_path / "out" / "train.json").read_text())
    picture = cv2.imread(str(tmp_path / "out" / content["images"][0]["file_name"]))
    assert picture is not None
    assert picture.shape[:2] == (60, 80)
    mask = decode_mask(content["annotations"][0]["segmentation"])
    expected = np.zeros((60, 80), bool)
    expected[15:45, 20:60] = True
    assert (mask == expected).all()
