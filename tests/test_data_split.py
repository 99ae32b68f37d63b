"""Splitting a data set into a training and a validation part."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.made_data import make_pictures, make_video
from tests.test_data_reading import coco_video
from vistool.annotations.check import check_dataset
from vistool.annotations.read import read_dataset
from vistool.annotations.split import hold_out, one_sided, split_dataset
from vistool.cli.app import app
from vistool.errors import UsageError

runner = CliRunner()
member_lists = st.lists(st.frozensets(st.integers(1, 6), max_size=3), min_size=2, max_size=40)
fractions = st.floats(0.01, 0.99)


@given(member_lists, fractions, st.integers(0, 9))
def test_something_is_held_out_and_something_kept_the_same_for_the_same_seed(
    members: list[frozenset[int]], fraction: float, seed: int
) -> None:
    chosen = hold_out(members, fraction, seed)
    assert 0 < len(chosen) < len(members)
    assert chosen == hold_out(members, fraction, seed)


@given(st.lists(st.integers(1, 8), min_size=2, max_size=60), fractions, st.integers(0, 9))
def test_every_category_with_two_videos_is_on_both_sides_where_videos_have_one_category(
    categories: list[int], fraction: float, seed: int
) -> None:
    members = [frozenset([category]) for category in categories]
    chosen = hold_out(members, fraction, seed)
    assert one_sided(members, chosen) == set()
    several = sum(number > 1 for number in Counter(categories).values())
    assert len(chosen) <= max(round(fraction * len(members)), several, 1)


def test_the_same_share_of_each_category_is_held_out() -> None:
    members = [frozenset([1])] * 200 + [frozenset([2])] * 50 + [frozenset[int]()] * 30
    chosen = hold_out(members, 0.2, seed=3)
    assert len(chosen) == 56
    held = Counter(members[i] for i in chosen)
    assert held == {frozenset([1]): 40, frozenset([2]): 10, frozenset[int](): 6}
    assert chosen != hold_out(members, 0.2, seed=4)


def test_the_two_files_are_valid_sets_that_share_nothing(tmp_path: Path) -> None:
    path = make_pictures(tmp_path, 10, license=3)
    made = split_dataset(path, 0.3, seed=1)
    assert (made.num_kept, made.num_held_out) == (7, 3)
    parts = [json.loads(file.read_text()) for file in (made.kept, made.held_out)]
    whole = json.loads(path.read_text())
    for key in ("images", "annotations"):
        entries = sorted((e for part in parts for e in part[key]), key=lambda e: e["id"])
        assert entries == whole[key]
    assert check_dataset(made.kept).problems == ()
    assert check_dataset(made.held_out).problems == ()


def test_frames_are_linked_into_a_folder_that_is_not_above_them(tmp_path: Path) -> None:
    path = make_pictures(tmp_path / "a", 4)
    made = split_dataset(path, 0.5, 0, tmp_path / "b")
    assert check_dataset(made.held_out).problems == ()
    linked = next((tmp_path / "b" / "JPEGImages").iterdir())
    assert linked.samefile(tmp_path / "a" / linked.name)
    above = split_dataset(path, 0.5, 0, tmp_path)
    assert read_dataset(above.kept).videos[0].file_names[0].startswith("a/")
    assert check_dataset(above.kept).problems == ()


def test_frames_that_are_not_there_are_counted_and_keep_their_names(tmp_path: Path) -> None:
    path = make_pictures(tmp_path, 4)
    (tmp_path / "2.png").unlink()
    assert split_dataset(path, 0.5, 0).missing_files == 1


def test_a_video_of_single_frame_entries_stays_whole(tmp_path: Path) -> None:
    path = coco_video(make_video(tmp_path, 3))
    content = json.loads(path.read_text())
    content["videos"].append({"id": 2, "name": "again"})
    size = {"width": 96, "height": 64}
    content["images"].append({"id": 5, "video_id": 2, "file_name": "v/0.png", **size})
    path.write_text(json.dumps(content))
    made = split_dataset(path, 0.5, 0)
    lengths = [v.length for p in (made.kept, made.held_out) for v in read_dataset(p).videos]
    assert sorted(lengths) == [1, 3]


@pytest.mark.parametrize("form", ["coco", "coco-video"])
def test_annotations_go_with_their_picture_even_if_they_name_a_video(
    tmp_path: Path, form: str
) -> None:
    path = make_pictures(tmp_path, 6)
    content = json.loads(path.read_text())
    if form == "coco-video":
        content["videos"] = [{"id": 40 + n, "name": str(n)} for n in range(3)]
    for image in content["images"]:
        image["video_id"] = 40 + image["id"] % 3
    for annotation in content["annotations"]:
        annotation["video_id"] = 40 + annotation["image_id"] % 3
        annotation["track_id"] = annotation["id"]
    path.write_text(json.dumps(content))
    made = split_dataset(path, 0.4, 0)
    parts = [json.loads(file.read_text()) for file in (made.kept, made.held_out)]
    for part in parts:
        ids = {image["id"] for image in part["images"]}
        assert {annotation["image_id"] for annotation in part["annotations"]} == ids
        assert len(part["annotations"]) == 2 * len(ids) > 0
    written = [a for part in parts for a in part["annotations"]]
    assert sorted(written, key=lambda a: a["id"]) == content["annotations"]
    assert len(read_dataset(made.kept).tracks) == len(parts[0]["annotations"])


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 videos or pictures cannot be split"):
        split_dataset(make_video(tmp_path, 2), 0.5, 0)
    with pytest.raises(UsageError, match="by 1"):
        split_dataset(make_pictures(tmp_path, 2), 1.0, 0)


def test_the_command_prints_the_two_files(tmp_path: Path) -> None:
    path = make_pictures(tmp_path, 5)
    done = runner.invoke(app, ["data", "split", str(path), "--fraction", "0.4", "--seed", "2"])
    assert done.exit_code == 0
    files = [Path(line) for line in done.stdout.splitlines()]
    assert [file.name for file in files] == ["pictures-train.json", "pictures-val.json"]
    assert len(read_dataset(files[1]).videos) == 2
