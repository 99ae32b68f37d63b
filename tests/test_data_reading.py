"""Annotation files of every format are read alike, and their problems are reported clearly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from tests.made_data import CATEGORIES, HEIGHT, WIDTH, make_pictures, make_video, square
from vistool.annotations.check import check_dataset
from vistool.annotations.problems import Problem, errors_of
from vistool.annotations.read import read_dataset
from vistool.config import PixelConfig, SourceConfig, TrainConfig
from vistool.data.labelled import own_classes, read_annotations
from vistool.engine.train.setup import training_batches, with_classes
from vistool.errors import DataError
from vistool.formats.masks.annotated import MaskError, to_rle
from vistool.formats.masks.rle import decode_mask, encode_mask
from vistool.structures import Size

SIZE = Size(HEIGHT, WIDTH)
CLASSES = {"red": ("red square",), "blue": ("blue square",)}
Content = dict[str, Any]


def changed(path: Path, change: Callable[[Content], object]) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def coco_video(path: Path) -> Path:
    """Rewrite a file of `make_video` in COCO video form, with entries per frame."""
    content = json.loads(path.read_text())
    (video,) = content["videos"]
    names = video.pop("file_names")
    size = {"width": WIDTH, "height": HEIGHT}
    # Not in frame order: frame_id decides.
    images = [
        {"id": 10 + t, "video_id": 1, "frame_id": t, "file_name": names[t], **size}
        for t in reversed(range(len(names)))
    ]
    annotations = [
        {
            "id": 100 * n + t,
            "image_id": 10 + t,
            "track_id": n,
            "category_id": track["category_id"],
            "segmentation": mask,
        }
        for n, track in enumerate(content["annotations"])
        for t, mask in enumerate(track["segmentations"])
        if mask
    ]
    content |= {"images": images, "annotations": annotations}
    path.write_text(json.dumps(content))
    return path


def problems_of(path: Path) -> list[Problem]:
    problems: list[Problem] = []
    read_dataset(path, on_problem=problems.append)
    return problems


masks = st.integers(0, 2**12 - 1).map(
    lambda bits: np.array([bits >> n & 1 for n in range(12)], bool).reshape(3, 4)
)


@given(masks)
def test_a_list_of_runs_is_the_same_mask_as_its_compressed_form(mask: np.ndarray) -> None:
    pixels = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], pixels, [0]]))).tolist()
    bounds = [0, *edges] if not pixels[-1] else [0, *edges[:-1]]
    runs = np.diff([*bounds, 12]).tolist()
    assert sum(runs) == 12
    assert to_rle({"size": [3, 4], "counts": runs}, Size(3, 4)) == encode_mask(mask)
    assert to_rle(dict(encode_mask(mask)), Size(3, 4)) == encode_mask(mask)


def test_polygons_are_the_masks_that_pycocotools_makes_of_them() -> None:
    polygons = [[10, 10, 40, 10, 40, 30.5], [60, 20, 70, 20, 70, 30, 60, 30]]
    rle = to_rle(polygons, SIZE)
    assert rle is not None
    expected = sum(coco.decode(coco.frPyObjects([p], HEIGHT, WIDTH))[..., 0] for p in polygons)
    np.testing.assert_array_equal(decode_mask(rle), expected.astype(bool))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4]], "a polygon of 4 numbers"),
        ([[1, 2, 3, 4, 5, 1e9]], "a polygon point at 1000000000.0"),
        ([[1, 2, 3, 4, 5, float("nan")]], "a polygon point at nan"),
        ([1, 2, 3], "a polygon of 0 numbers"),
        ("abc", "a str that is not a mask"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, -5, 6144]}, "not a count of pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": [5]}, "runs of 5 pixels in all, not 6144"),
        ({"size": [WIDTH, HEIGHT], "counts": [6144]}, "counts are a list"),
        ({"size": [HEIGHT, WIDTH], "counts": "0"}, "malformed"),
    ],
)
def test_an_invalid_mask_is_refused(segmentation: Any, message: str) -> None:
    with pytest.raises(MaskError, match=message):
        to_rle(segmentation, SIZE)


def test_null_and_an_empty_list_of_polygons_mean_not_visible() -> None:
    assert to_rle(None, SIZE) is None
    assert to_rle([], SIZE) is None


def test_annotations_of_coco_video_are_joined_to_tracks(tmp_path: Path) -> None:
    original = read_dataset(make_video(tmp_path, 4))
    joined = read_dataset(coco_video(make_video(tmp_path, 4)))
    assert joined.videos == original.videos
    assert [t.segmentations for t in joined.tracks] == [t.segmentations for t in original.tracks]
    assert [t.category_id for t in joined.tracks] == [t.category_id for t in original.tracks]


def test_two_annotations_of_a_track_on_one_frame_are_an_error(tmp_path: Path) -> None:
    path = coco_video(make_video(tmp_path, 4))
    changed(path, lambda c: c["annotations"].append({**c["annotations"][0], "id": 99}))
    (problem,) = problems_of(path)
    assert "annotation 99, index 6, image 10: track_id 0 already has an annotation there" in str(
        problem
    )


def test_ovis_occlusion_is_kept(tmp_path: Path) -> None:
    levels = ["no_occlusion", None, "severe_occlusion", "slight_occlusion"]
    path = changed(make_video(tmp_path, 4), lambda c: c["annotations"][0].update(occlusion=levels))
    assert read_dataset(path).tracks[0].occlusion == tuple(levels)


def test_a_test_set_without_labels_is_read(tmp_path: Path) -> None:
    path = changed(make_video(tmp_path, 4), lambda c: c.update(annotations=None))
    dataset = read_dataset(path)
    assert (len(dataset.videos), dataset.tracks) == (1, ())


Change = Callable[[Content], object]
WRONG: dict[str, tuple[Change, str]] = {
    "two videos": (lambda c: c["videos"].append(c["videos"][0]), "video 1, index 1: a second"),
    "two tracks": (lambda c: c["annotations"][1].update(id=1), "annotation 1, index 1.*a second"),
    "unknown video": (lambda c: c["annotations"][0].update(video_id=7), "video 7 is not among"),
    "unknown category": (lambda c: c["annotations"][0].update(category_id=9), "category 9 is not"),
    "length": (lambda c: c["videos"][0].update(length=5), "length 5, but 4 file names"),
    "no size": (lambda c: c["videos"][0].pop("width"), "has no width"),
    "impossible size": (lambda c: c["videos"][0].update(width=0), "0x64 pixels"),
    "text id": (lambda c: c["videos"][0].update(id="1"), "id is '1', not a whole number"),
    "masks": (lambda c: c["annotations"][0]["segmentations"].pop(), "has 3 masks but.*4 frames"),
    "mask size": (
        lambda c: c["annotations"][0]["segmentations"][2].update(size=[WIDTH, HEIGHT]),
        r"annotation 1, index 0, video 1, frame 2: a mask of size \[96, 64\], expected \[64, 96\]",
    ),
    "malformed": (
        lambda c: c["annotations"][1]["segmentations"][2].update(counts="0"),
        "annotation 2, index 1, video 1, frame 2: malformed mask",
    ),
    "no masks": (lambda c: c["annotations"][0].pop("segmentations"), "has no masks"),
    "area": (lambda c: c["annotations"][0].update(areas=[1, 2, 3, float("inf")]), "area inf"),
    "no name": (lambda c: c["categories"][0].pop("name"), "category 3, index 0: name is None"),
    "a number": (lambda c: c["annotations"].append(3), "a int where an object should be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_problem_is_reported_with_its_place_and_refused_for_training(
    tmp_path: Path, case: str
) -> None:
    change, message = WRONG[case]
    path = changed(make_video(tmp_path, 4), change)
    assert len(errors_of(problems_of(path))) >= 1
    with pytest.raises(DataError, match=message) as error:
        read_annotations(path, CLASSES)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a readable JSON file"),
        ("[]", "array"),
        ('{"videos": 3, "annotations": [], "categories": []}', "videos"),
        ('{"videos": [], "annotations": NaN}', "annotations"),
        ('{"videos": []}', "no 'images' or 'videos', 'annotations' and 'categories'"),
    ],
)
def test_a_file_that_is_not_an_annotation_file_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_dataset(path)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "v/../../secret.png"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / "set", 2)
    changed(path, lambda c: c["videos"][0]["file_names"].__setitem__(1, name))
    with pytest.raises(DataError, match="leads out of the data set's folder"):
        read_annotations(path, CLASSES)


@pytest.mark.parametrize("name", [300 * "x", 3000 * "x/" + "x.png"])
def test_names_that_no_disk_can_have_are_refused(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path, 2)
    changed(path, lambda c: c["videos"][0]["file_names"].__setitem__(1, name))
    with pytest.raises(DataError, match=f"file name of {len(name)} characters: File name too long"):
        read_annotations(path, CLASSES)
    assert [p.place for p in check_dataset(path).problems] == [(("video", 1), ("frame", 1))]


def test_links_may_not_lead_out_unless_the_folder_itself_is_one(tmp_path: Path) -> None:
    path = make_video(tmp_path / "set", 2)
    elsewhere = (tmp_path / "set" / "v").rename(tmp_path / "elsewhere")
    (tmp_path / "set" / "v").symlink_to(elsewhere)
    with pytest.raises(DataError, match="leads out") as error:
        read_annotations(path, CLASSES)
    assert "links that lead out" in error.value.hint
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "v").symlink_to(elsewhere)
    changed(path, lambda c: c["videos"][0].update(file_names=["0.png", "1.png"]))
    (video,) = read_annotations(path, CLASSES, frames=linked / "v")
    assert all(file.exists() for file in video.files)
    (linked / "v" / "1.png").unlink()
    (linked / "v" / "1.png").symlink_to(path)
    with pytest.raises(DataError, match="leads out"):
        read_annotations(path, CLASSES, frames=linked / "v")


@pytest.mark.parametrize(
    ("json_name", "place"),
    [
        ("train.json", "train"),
        ("train.json", "train/JPEGImages"),
        ("annotations_train.json", "train"),
        ("instances.json", "JPEGImages"),
        ("annotations/instances_train.json", "train"),
        ("annotations/instances_train.json", "images"),
        ("annotations/instances_train.json", "images/train"),
        ("annotations/instances_default.json", "images/default"),
        ("train.json", "images/train"),
    ],
)
def test_frames_are_found_where_the_public_sets_have_them(
    tmp_path: Path, json_name: str, place: str
) -> None:
    path = make_pictures(tmp_path / place, 1)
    target = tmp_path / json_name
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    (picture,) = read_annotations(target, CLASSES)
    assert picture.files == (tmp_path / place / "0.png",)


def test_frames_are_found_though_some_are_missing_or_have_a_namesake(tmp_path: Path) -> None:
    make_pictures(tmp_path / "images", 5).rename(tmp_path / "train.json")
    for name in ("0.png", "3.png"):
        (tmp_path / "images" / name).unlink()
    make_pictures(tmp_path / "train", 1)  # has a 0.png as well
    dataset = read_dataset(tmp_path / "train.json")
    assert dataset.frames == tmp_path / "images"
    problems = check_dataset(tmp_path / "train.json").problems
    assert [(p.kind, p.place) for p in problems] == [
        ("missing-file", (("image", 1),)),
        ("missing-file", (("image", 4),)),
    ]


def test_masks_of_pictures_belong_to_their_picture_even_if_they_name_a_video(
    tmp_path: Path,
) -> None:
    plain = read_dataset(make_pictures(tmp_path, 3)).tracks

    def cut_from_videos(content: Content) -> None:
        for image in content["images"]:
            image["video_id"] = 1
        for annotation in content["annotations"]:
            annotation["video_id"] = 1

    path = changed(tmp_path / "pictures.json", cut_from_videos)
    assert read_dataset(path).tracks == plain
    assert read_dataset(changed(path, lambda c: c.update(videos=[]))).tracks == plain


def test_a_folder_means_the_annotation_file_in_it(tmp_path: Path) -> None:
    make_pictures(tmp_path, 1)
    assert read_dataset(tmp_path).path.name == "pictures.json"
    make_video(tmp_path, 2)
    with pytest.raises(DataError, match="2 annotation files") as error:
        read_dataset(tmp_path)
    assert "pictures.json, videos.json" in error.value.hint


def test_categories_of_the_same_name_in_several_sets_are_one_class(tmp_path: Path) -> None:
    pictures, videos = make_pictures(tmp_path, 1), make_video(tmp_path, 2)
    changed(videos, lambda c: c["categories"][0].update(name="cat"))
    classes = own_classes([pictures, videos])
    assert list(classes) == ["red square", "blue square", "cat"]
    (picture,) = read_annotations(pictures, classes)
    (video,) = read_annotations(videos, classes)
    assert [track.label for track in picture.tracks] == [0, 1]
    assert [track.label for track in video.tracks] == [2, 1]
    assert picture.exhaustive == (True, True, False)
    assert video.exhaustive == (False, True, True)


def test_a_training_without_classes_takes_those_of_its_sources(tmp_path: Path) -> None:
    make_pictures(tmp_path / "a", 2).rename(tmp_path / "pictures.json")
    sources = (SourceConfig(annotations="pictures.json", frames="a"),)
    config = with_classes(TrainConfig(data=str(tmp_path), sources=sources))
    assert list(config.classes) == ["red square", "blue square"]
    assert config.model_config().class_names == ("red square", "blue square")
    batch = training_batches(config, PixelConfig()).make(0, range(1))
    assert batch.targets[0].exhaustive.tolist() == [True, True]
    named = TrainConfig(data=str(tmp_path), sources=sources, classes={"red": ("red square",)})
    assert with_classes(named) == named


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.sampled_from([10**12, 10**30, 1e308, 0.5, float("nan"), float("inf")])
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """All containers and their keys, at every depth."""
    keys = list(value) if isinstance(value, dict) else []
    keys = list(range(len(value))) if isinstance(value, list) else keys
    return [(value, key) for key in keys] + [p for key in keys for p in places_in(value[key])]


@pytest.mark.parametrize("form", ["youtube-vis", "coco", "coco-video"])
@settings(max_examples=60)
@given(data=st.data())
def test_any_value_anywhere_in_a_file_is_read_or_refused_with_a_message(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = make_pictures(folder, 1) if form == "coco" else make_video(folder, 2)
    path = coco_video(path) if form == "coco-video" else path
    content = json.loads(path.read_text())
    container, key = data.draw(st.sampled_from(places_in(content)))
    container[key] = data.draw(JSON)
    path.write_text(json.dumps(content))
    try:
        problems = errors_of(check_dataset(path).problems)
    except DataError as error:
        problems = [Problem("error", "refused", str(path), (), str(error))]
    if not problems:
        read_dataset(path)
    else:
        assert str(path) in str(problems[0])


def test_masks_of_all_forms_mixed_in_one_file_train(tmp_path: Path) -> None:
    def mix(content: Content) -> None:
        runs = [HEIGHT * 4, HEIGHT * 10, HEIGHT * (WIDTH - 14)]
        frames = content["annotations"][0]["segmentations"]
        frames[0] = {"size": [HEIGHT, WIDTH], "counts": runs}
        frames[1] = [[8, 8, 20, 8, 20, 20, 8, 20]]
        frames[2] = []

    (video,) = read_annotations(changed(make_video(tmp_path, 4), mix), CLASSES)
    areas = [int(video.tracks[0].mask(t, SIZE).sum()) for t in range(4)]
    assert areas == [HEIGHT * 10, 144, 0, int(square(10, 14, 20).sum())]
    assert CATEGORIES[0]["name"] == "red square"
