"""Conversion between kinds of data sets and back: masks stay exact, losses are counted."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from tests.made_data import HEIGHT, WIDTH, make_video, square
from tests.test_data_reading import coco_video
from vistool.annotations.check import check_dataset
from vistool.annotations.convert import convert
from vistool.annotations.dataset import DataSet
from vistool.annotations.label_maps import palette
from vistool.annotations.problems import Problem
from vistool.annotations.read import read_dataset
from vistool.annotations.results_check import problems_in_results
from vistool.cli.app import app
from vistool.errors import DataError, UsageError
from vistool.formats.masks.rle import decode_mask, encode_mask
from vistool.structures import RLE

runner = CliRunner()
SIDES = (6, 9)


def tracks_of(dataset: DataSet) -> list[tuple[int, int, Sequence[RLE | None]]]:
    """Video, category and masks of every track, sorted."""
    found = [
        (t.video_id, 0 if dataset.class_agnostic else t.category_id, t.segmentations)
        for t in dataset.tracks
    ]
    return sorted(found, key=str)


@st.composite
def label_videos(draw: st.DrawFn) -> list[np.ndarray]:
    """Videos [T, H, W] of random object ids up to 3; 0 is background."""
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    top = draw(st.integers(1, 4))
    return [rng.integers(0, top, (length, *SIDES)) for length in lengths]


def written(folder: Path, videos: list[np.ndarray]) -> Path:
    """Write the videos as a YouTube-VIS set with pictures.

    Objects 1 and 3 have category 2, object 2 has category 7.
    """
    entries: list[Any] = []
    annotations: list[Any] = []
    for number, labels in enumerate(videos, start=1):
        names = [f"video {number}/{t}.png" for t in range(len(labels))]
        for t, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name), np.full((*SIDES, 3), 10 * t, np.uint8))
        size = {"height": SIDES[0], "width": SIDES[1]}
        entries.append({"id": number, "file_names": names, "length": len(names), **size})
        for id_ in np.unique(labels[labels > 0]):
            masks = [
                encode_mask(frame == id_) if (frame == id_).any() else None for frame in labels
            ]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": number,
                    "category_id": 7 if id_ == 2 else 2,
                    "segmentations": masks,
                }
            )
    categories = [{"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}]
    content = {"videos": entries, "annotations": annotations, "categories": categories}
    path = folder / "set.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("middle", ["davis", "mots", "youtube-vis"])
@settings(max_examples=15)
@given(videos=label_videos())
def test_a_round_trip_gives_the_same_masks(
    middle: Literal["davis", "mots", "youtube-vis"], videos: list[np.ndarray]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = written(folder / "a", videos)
        out = convert(path, folder / "b", middle)
        assert (out.missing_files, out.overlapping) == (0, 0)
        back = convert(folder / "b", folder / "c" / "back.json", "youtube-vis")
        assert back.kind == middle
        original, returned = read_dataset(path), read_dataset(back.path)
        if middle == "davis":
            original = DataSet(**{**_fields(original), "kind": "davis"})
            returned = DataSet(**{**_fields(returned), "kind": "davis"})
        assert tracks_of(returned) == tracks_of(original)
        assert [v.length for v in returned.videos] == [v.length for v in original.videos]
        for before, after in zip(original.videos, returned.videos, strict=True):
            for old, new in zip(before.file_names, after.file_names, strict=True):
                assert (original.frames / old).read_bytes() == (returned.frames / new).read_bytes()
        assert [p for p in check_dataset(back.path).problems if p.severity == "error"] == []


def _fields(dataset: DataSet) -> dict[str, Any]:
    return {name: getattr(dataset, name) for name in DataSet.__dataclass_fields__}


def test_the_text_and_the_pictures_of_mots_have_the_same_tracks(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (3, *SIDES))
    convert(written(tmp_path / "a", [labels]), tmp_path / "b", "mots")
    text = read_dataset(tmp_path / "b")
    (tmp_path / "b" / "instances_txt").rename(tmp_path / "moved")
    pictures = read_dataset(tmp_path / "b")
    assert tracks_of(text) == tracks_of(pictures)
    assert {(c.id, c.name) for c in pictures.categories} == {(2, "cat"), (7, "dog")}
    line = (tmp_path / "moved" / "video_1.txt").read_text().splitlines()[0].split(" ")
    assert line[:5] == ["0", "2001", "2", "6", "9"]


def test_coco_video_becomes_youtube_vis_beside_its_frames(tmp_path: Path) -> None:
    original = read_dataset(make_video(tmp_path, 4))
    made = convert(
        coco_video(tmp_path / "videos.json"),
        tmp_path / "new.json",
        "youtube-vis",
        kind="coco-video",
    )
    assert not (tmp_path / "JPEGImages").exists()
    returned = read_dataset(made.path)
    assert tracks_of(returned) == tracks_of(original)
    assert check_dataset(made.path).problems == ()


def davis_folder(
    folder: Path, labels: np.ndarray, save: Callable[[np.ndarray, Path], object], level: str = ""
) -> Path:
    for t, frame in enumerate(labels):
        for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
            file = folder / kind / level / "bear" / f"{t:05}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            if suffix == "jpg":
                cv2.imwrite(str(file), np.zeros((*frame.shape, 3), np.uint8))
            else:
                save(frame, file)
    return folder


def save_palette(frame: np.ndarray, file: Path) -> None:
    image = Image.fromarray(frame.astype(np.uint8))
    image.putpalette(palette())
    image.save(file)


def save_grey(frame: np.ndarray, file: Path) -> None:
    Image.fromarray(frame.astype(np.uint8)).save(file)


def save_colour(frame: np.ndarray, file: Path) -> None:
    Image.fromarray(np.repeat(frame[..., None], 3, axis=2).astype(np.uint8)).save(file)


@pytest.mark.parametrize("save", [save_grey, save_palette, save_colour])
@pytest.mark.parametrize("level", ["", "480p", "Full-Resolution"])
def test_in_davis_2016_the_object_is_255(
    tmp_path: Path, save: Callable[[np.ndarray, Path], object], level: str
) -> None:
    labels = np.stack([square(5, 5 + t, 10) * 255 for t in range(3)])
    dataset = read_dataset(davis_folder(tmp_path, labels, save, level))
    assert dataset.kind == "davis"
    assert dataset.class_agnostic
    (track,) = dataset.tracks
    assert track.segmentations == tuple(encode_mask(frame == 255) for frame in labels)


def test_in_davis_2017_ids_are_objects_and_255_is_void(tmp_path: Path) -> None:
    labels = np.stack([square(5, 5, 10) * 1 + square(5, 40, 9) * 4 + square(40, 40, 8) * 255] * 2)
    labels[1][labels[1] == 4] = 0
    dataset = read_dataset(davis_folder(tmp_path, labels, save_palette, "480p"))
    first, second, void = dataset.tracks
    assert first.segmentations == (encode_mask(square(5, 5, 10)),) * 2
    assert second.segmentations == (encode_mask(square(5, 40, 9)), None)
    assert void.segmentations == (encode_mask(square(40, 40, 8)),) * 2
    assert [track.is_crowd for track in dataset.tracks] == [False, False, True]


def test_damage_in_a_davis_folder_is_found(tmp_path: Path) -> None:
    labels = np.stack([square(5, 5 + t, 10) * 1 for t in range(5)])
    folder = davis_folder(tmp_path, labels, save_palette)
    places = folder / "Annotations" / "bear"
    (places / "00000.png").unlink()
    (places / "00001.png").write_text("nothing")
    save_palette(np.zeros((3, 3)), places / "00002.png")
    save_palette(labels[0], places / "00009.png")
    (folder / "JPEGImages" / "bear" / "00004.jpg").write_bytes(b"")
    found = [(p.kind, str(p)) for p in check_dataset(folder).problems]
    assert sorted(kind for kind, _ in found) == [
        *("mask-size", "no-annotation", "no-frame", "unreadable-file", "unreadable-file"),
    ]
    assert any("00002.png: is 3x3, its video 96x64" in text for _, text in found)
    with pytest.raises(DataError, match=r"00001\.png|00009\.png"):
        read_dataset(folder)


MOT_LINES = """1 2001 2 {h} {w} {a}
1 10000 10 {h} {w} {b}
3 2001 2 {h} {w} {a}
3 1007 1 {h} {w} {b}
"""


def mots_challenge(folder: Path, text: str, length: int = 0) -> Path:
    masks = [encode_mask(square(5, 5, 10))["counts"], encode_mask(square(30, 30, 9))["counts"]]
    gt = folder / "MOTS20-02" / "gt" / "gt.txt"
    gt.parent.mkdir(parents=True)
    gt.write_text(text.format(h=HEIGHT, w=WIDTH, a=masks[0], b=masks[1]))
    for t in range(length):
        file = folder / "MOTS20-02" / "img1" / f"{t + 1:06}.jpg"
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return folder


@pytest.mark.parametrize(("pictures", "length"), [(0, 3), (4, 4)])
def test_mots_challenge_counts_from_one_and_its_ignored_region_is_a_crowd(
    tmp_path: Path, pictures: int, length: int
) -> None:
    dataset = read_dataset(mots_challenge(tmp_path, MOT_LINES, pictures))
    (video,) = dataset.videos
    assert (video.length, video.name, len(video.file_names)) == (length, "MOTS20-02", pictures)
    car, pedestrian, ignored = dataset.tracks
    visible = [[mask is not None for mask in t.segmentations[:3]] for t in dataset.tracks]
    assert visible == [[False, False, True], [True, False, True], [True, False, False]]
    assert [car.category_id, pedestrian.category_id, ignored.category_id] == [1, 2, 10]
    assert [t.is_crowd for t in dataset.tracks] == [False, False, True]
    assert {c.name for c in dataset.categories} == {"car", "pedestrian", "ignore"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2001 2 64", "line 5: not six fields"),
        ("1 2001 2 {w} {h} {a}", r"line 5: object 2001: a mask of size \[96, 64\]"),
        ("1 3001 3 {h} {w} zz", "line 5: object 3001: malformed mask"),
        ("1 2001 2 {h} {w} {b}", "line 5: object 2001 is on frame 1 twice"),
        ("2 2001 1 {h} {w} {b}", "line 5: object 2001 is of class 1 and 2"),
        ("9 2001 2 {h} {w} {b}", "line 5: frame 9 is not among 1 to 4"),
    ],
)
def test_damage_in_a_mots_file_is_found_with_its_line(
    tmp_path: Path, line: str, message: str
) -> None:
    folder = mots_challenge(tmp_path, MOT_LINES + line, 4)
    problems: list[Problem] = []
    read_dataset(folder, on_problem=problems.append)
    assert len(problems) == 1
    with pytest.raises(DataError, match=message):
        read_dataset(folder)


def test_where_masks_overlap_the_smaller_one_stays_whole_and_the_pixels_are_counted(
    tmp_path: Path,
) -> None:
    path = make_video(tmp_path, 1)
    content = json.loads(path.read_text())
    large, small = square(0, 0, 40), square(30, 30, 20)
    content["annotations"][0]["segmentations"] = [encode_mask(large)]
    content["annotations"][1]["segmentations"] = [encode_mask(small)]
    path.write_text(json.dumps(content))
    for target in ("davis", "mots"):
        made = convert(path, tmp_path / target, target)
        assert made.overlapping == 100
        masks = [decode_mask(t.segmentations[0]) for t in read_dataset(made.path).tracks]  # type: ignore[arg-type]
        np.testing.assert_array_equal(masks[0], large & ~small)
        np.testing.assert_array_equal(masks[1], small)


def test_crowds_become_void_in_davis_and_ignored_in_mots(tmp_path: Path) -> None:
    path = make_video(tmp_path, 1)
    content = json.loads(path.read_text())
    content["annotations"][1]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    convert(path, tmp_path / "d", "davis")
    labels = np.asarray(Image.open(tmp_path / "d" / "Annotations" / "480p" / "v" / "00000.png"))
    assert set(np.unique(labels)) == {0, 1, 255}
    convert(path, tmp_path / "m", "mots")
    assert [(t.category_id, t.is_crowd) for t in read_dataset(tmp_path / "m").tracks] == [
        (3, False),
        (10, True),
    ]


def test_only_used_categories_must_fit_into_mots(
    tmp_path: Path,
) -> None:
    path = make_video(tmp_path, 1)
    content = json.loads(path.read_text())
    content["categories"] += [{"id": 10 + i, "name": f"other {i}"} for i in range(80)]
    path.write_text(json.dumps(content))
    convert(path, tmp_path / "m", "mots")
    dataset = read_dataset(tmp_path / "m")
    names = {category.id: category.name for category in dataset.categories}
    assert [names[t.category_id] for t in dataset.tracks] == ["red square", "blue square"]
    for i, annotation in enumerate(content["categories"][2:]):
        mask = encode_mask(square(0, i, 1))
        content["annotations"].append(
            {"id": 9 + i, "video_id": 1, "category_id": annotation["id"], "segmentations": [mask]}
        )
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="82 categories, but MOTS ids have room for 63"):
        convert(path, tmp_path / "n", "mots")
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith(".")] == []


def test_results_on_a_davis_folder_may_have_any_category(tmp_path: Path) -> None:
    labels = np.stack([square(5, 5, 10) * 1] * 2)
    folder = davis_folder(tmp_path / "d", labels, save_palette)
    entry = {"video_id": 1, "category_id": 17, "score": 0.5}
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{**entry, "segmentations": [None, None]}]))
    assert problems_in_results(results, read_dataset(folder, masks=False)) == []


def test_nothing_is_overwritten_and_a_wrong_kind_is_reported(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a", 2)
    with pytest.raises(UsageError, match="exists already"):
        convert(path, path, "youtube-vis")
    with pytest.raises(UsageError, match="exists already"):
        convert(path, tmp_path / "a", "davis")
    with pytest.raises(DataError, match="is a youtube-vis set, not davis"):
        convert(path, tmp_path / "b", "mots", kind="davis")
    assert not (tmp_path / "b").exists()


def test_the_command_converts_and_names_what_it_wrote(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a", 2)
    (tmp_path / "a" / "v" / "1.png").unlink()
    words = ["data", "convert", str(path), "--to", "davis", "-o", str(tmp_path / "b")]
    done = runner.invoke(app, words)
    assert done.exit_code == 0
    assert done.stdout.strip() == str(tmp_path / "b")
    assert "warning: 1 frames are missing" in done.stderr
    assert (tmp_path / "b" / "ImageSets" / "2017" / "val.txt").read_text() == "v\n"
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith(".")] == []
