"""The check of results files: errors are reported with their place, valid files pass."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.made_data import HEIGHT, WIDTH, make_video, square
from vistool.annotations.problems import errors_of, refuse_all
from vistool.annotations.read import read_dataset
from vistool.annotations.results_check import check_results, problems_in_results
from vistool.errors import DataError
from vistool.formats.masks.rle import encode_mask

LENGTH = 4


def track(score: Any = 0.9, side: int = 20, **changes: Any) -> dict[str, Any]:
    masks = [encode_mask(square(10, 2 + 4 * t, side)) for t in range(LENGTH - 1)]
    return {
        "video_id": 1,
        "category_id": 3,
        "score": score,
        "segmentations": [*masks, None],
        **changes,
    }


def mask(frame: int, value: Any) -> dict[str, Any]:
    changed = track()
    changed["segmentations"][frame] = value
    return changed


def written(folder: Path, entries: Any) -> Path:
    path = folder / "results.json"
    path.write_text(json.dumps(entries))
    return path


RLE_WITH_RUNS = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
GOOD = encode_mask(square(0, 0, 8))
WRONG: dict[str, tuple[Any, str]] = {
    "length": (track(segmentations=[None] * 3), "result 1, video 1, category 3: 3 masks.*has 4"),
    "size": (mask(2, {**GOOD, "size": [WIDTH, HEIGHT]}), r"frame 2: a mask of size \[96, 64\]"),
    "malformed": (mask(1, {**GOOD, "counts": "zz!"}), "frame 1: malformed mask"),
    "cut off": (mask(1, {**GOOD, "counts": GOOD["counts"][:-1]}), "frame 1: malformed mask"),
    "uncompressed": (mask(0, RLE_WITH_RUNS), "frame 0: uncompressed counts"),
    "polygon": (mask(0, [[0, 0, 4, 0, 4, 4]]), "frame 0: a list"),
    "bytes as text": (mask(0, {**GOOD, "counts": f"b'{GOOD['counts']}'"}), "malformed mask"),
    "video": (track(video_id=9), "video_id 9 is not one of the data set's 1 videos"),
    "category": (track(category_id=5), "category_id 5 is not one of the data set's 2 categories"),
    "no category": ({k: v for k, v in track().items() if k != "category_id"}, "category_id is 'mi"),
    "duplicate": (track(), "repeats result 0"),
    "nan": (track(float("nan")), "score is nan"),
    "infinite": (track(float("inf")), "score is inf"),
    "text score": (track(score="0.5"), "score is '0.5'"),
    "no object": (7, "a int, not an object"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_problem_is_reported_with_file_index_and_ids(tmp_path: Path, case: str) -> None:
    entry, message = WRONG[case]
    path = written(tmp_path, [track(), entry])
    checked = check_results(path, read_dataset(make_video(tmp_path, LENGTH), masks=False))
    assert len(checked.results) == 1
    with pytest.raises(DataError, match=message) as error:
        refuse_all(checked.problems)
    assert str(error.value).startswith(f"{path}: result 1")


@pytest.mark.parametrize("case", sorted(WRONG.keys() - {"video", "category"}))
def test_the_same_problems_are_found_without_a_data_set(tmp_path: Path, case: str) -> None:
    assert errors_of(problems_in_results(written(tmp_path, [track(), WRONG[case][0]])))


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    entries = [track(), *(entry for entry, _ in WRONG.values())]
    dataset = read_dataset(make_video(tmp_path, LENGTH), masks=False)
    problems = problems_in_results(written(tmp_path, entries), dataset)
    assert {dict(p.place)["result"] for p in errors_of(problems)} == set(range(1, len(entries)))
    many = [track(float("nan"), side=3 + i) for i in range(30)]
    with pytest.raises(DataError) as error:
        refuse_all(problems_in_results(written(tmp_path, many)))
    assert str(error.value).count("\n") == 20
    assert str(error.value).endswith("... and 10 more")


def test_valid_results_pass_and_are_returned_unchanged(tmp_path: Path) -> None:
    entries = [track(), track(0.5, side=12), track(category_id=4)]
    dataset = read_dataset(make_video(tmp_path, LENGTH), masks=False)
    checked = check_results(written(tmp_path, entries), dataset)
    assert checked.problems == []
    assert checked.results == entries


def test_repeated_masks_with_another_score_or_a_score_above_one_are_warnings(
    tmp_path: Path,
) -> None:
    checked = check_results(written(tmp_path, [track(), track(1.5)]))
    assert {problem.kind for problem in checked.problems} == {"duplicate", "score"}
    assert errors_of(checked.problems) == []
    assert len(checked.results) == 2


def test_empty_tracks_do_not_repeat_each_other(tmp_path: Path) -> None:
    empty = track(segmentations=[None] * LENGTH)
    assert problems_in_results(written(tmp_path, [empty, copy.deepcopy(empty)])) == []


def test_videos_without_results_are_named(tmp_path: Path) -> None:
    dataset = read_dataset(make_video(tmp_path, LENGTH), masks=False)
    (problem,) = problems_in_results(written(tmp_path, [track(video_id=9)]), dataset)[1:]
    assert str(problem).endswith("1 of 1 videos have no result: 1")


@pytest.mark.parametrize(
    ("name", "kinds"), [("results.json", []), ("out/results.json", ["zip-layout"])]
)
def test_a_zip_is_read_and_a_folder_in_it_is_found(
    tmp_path: Path, name: str, kinds: list[str]
) -> None:
    path = tmp_path / "out.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, json.dumps([track()]))
    checked = check_results(path)
    assert [problem.kind for problem in checked.problems] == kinds
    assert len(checked.results) == 1


def test_a_zip_without_results_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x" * 100)
    with pytest.raises(DataError, match="a zip of 1 files, none of them results"):
        check_results(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="cannot be unpacked"):
        check_results(path)


@pytest.mark.parametrize("text", ["", "[", "{}", "[1,]", "[" * 100_000])
def test_no_list_of_results_at_all_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"results\.json"):
        check_results(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["size", "counts", "score"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.sampled_from(sorted(track())), JSON), max_size=3))
def test_any_json_is_checked_without_a_crash(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Any]
) -> None:
    path = written(tmp_path_factory.mktemp("any"), entries)
    checked = check_results(path)
    wrong = {dict(problem.place).get("result") for problem in errors_of(checked.problems)}
    assert len(wrong) + len(checked.results) == len(entries)
    assert all(np.isfinite(result["score"]) for result in checked.results)
