"""A value of another type than it should have is said with its place, and never taken for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vistool.annotations.check import check_dataset
from vistool.annotations.read import read_dataset
from vistool.annotations.results_check import problems_in_results
from vistool.errors import DataError
from vistool.formats.masks.rle import encode_mask

MASK = encode_mask(np.eye(8, 10, dtype=bool))


def coco(folder: Path, **changed: Any) -> Path:
    """A set of one picture; `changed` goes into its annotation."""
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": MASK,
        "area": 8,
        "bbox": [0, 0, 8, 8],
        "iscrowd": 0,
        **changed,
    }
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 10, "height": 8}],
        "annotations": [{k: v for k, v in annotation.items() if v != "missing"}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path = folder / "coco.json"
    path.write_text(json.dumps(content))
    return path


def coco_video(folder: Path, *, video: dict[str, Any] | None = None, **changed: Any) -> Path:
    path = coco(folder, track_id=1, **changed)
    content = json.loads(path.read_text())
    content["videos"] = [{"id": 1, "name": "v", **(video or {})}]
    content["images"][0] |= {"video_id": 1, "frame_id": 0}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("kind", [coco, coco_video])
@pytest.mark.parametrize("value", ["0", "1", "false", "", 2, 0.5, [], {}])
def test_a_crowd_is_said_by_0_or_1(kind: Any, value: object, tmp_path: Path) -> None:
    path = kind(tmp_path, iscrowd=value)
    with pytest.raises(DataError, match=r"annotation 1.*iscrowd is .*, neither 0 nor 1"):
        read_dataset(path)


@pytest.mark.parametrize("kind", [coco, coco_video])
@pytest.mark.parametrize(
    ("value", "crowd"),
    [(0, False), (False, False), (1, True), (True, True), (None, False), ("missing", False)],
)
def test_what_says_whether_it_is_a_crowd_is_taken(
    kind: Any, value: object, crowd: bool, tmp_path: Path
) -> None:
    (track,) = read_dataset(kind(tmp_path, iscrowd=value)).tracks
    assert track.is_crowd is crowd


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("id", "1", "id is '1'"),
        ("id", True, "id is True"),
        ("image_id", "1", "image_id is '1'"),
        ("category_id", "1", "category_id is '1'"),
        ("category_id", [1], r"category_id is \[1\]"),
        ("area", "8", "area '8'"),
        ("bbox", [0, 0, 8, "8"], "bbox"),
        ("bbox", [0, 0, 8], "left, top, width and height"),
        ("bbox", "0 0 8 8", "bbox"),
        ("segmentation", "missing", "has no masks"),
        ("segmentation", [["1", 1, 2, 1, 2, 2]], "polygon point at '1'"),
        ("segmentation", {"size": ["8", "10"], "counts": "xx"}, "size"),
        ("segmentation", {"size": [8, 10], "counts": 7}, "counts are a int"),
        ("occlusion", [1], "occlusion level 1"),
    ],
)
def test_a_field_of_another_type_is_named_with_its_place(
    field: str, value: object, said: str, tmp_path: Path
) -> None:
    path = coco(tmp_path, **{field: value})
    with pytest.raises(DataError, match=rf"coco\.json.*annotation.*{said}"):
        read_dataset(path)
    assert [p.severity for p in check_dataset(path).problems if p.severity == "error"]


def test_a_frame_of_coco_video_without_a_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotation 1.*has no masks"):
        read_dataset(coco_video(tmp_path, segmentation="missing"))
    # null is not a mistake: the object is not visible
    assert read_dataset(coco_video(tmp_path, segmentation=None)).tracks[0].segmentations == (None,)


def test_whether_a_video_is_labelled_throughout_is_true_or_false(tmp_path: Path) -> None:
    path = coco_video(tmp_path, video={"exhaustive": "false"})
    with pytest.raises(DataError, match=r"video 1.*exhaustive is 'false'"):
        read_dataset(path)
    assert not read_dataset(coco_video(tmp_path, video={"exhaustive": False})).videos[0].exhaustive


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"segmentation": "missing"}, "no segmentations"),
        ({"segmentation": None}, "no segmentations"),
        ({"score": "0.5"}, "its score is '0.5'"),
        ({"score": True}, "its score is True"),
        ({"category_id": "1"}, "category_id is '1'"),
        ({"image_id": "1"}, "image_id is '1'"),
        ({"segmentation": [[0, 0, 8, 0, 8, 8]]}, "neither null nor size and counts"),
    ],
)
def test_coco_results_of_another_type_are_errors(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    entry = {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": MASK, **changed}
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{k: v for k, v in entry.items() if v != "missing"}]))
    for dataset in (None, read_dataset(coco(tmp_path))):
        found = [p for p in problems_in_results(path, dataset) if p.severity == "error"]
        assert found
        assert said in str(found[0])
        assert "result 0" in str(found[0])
