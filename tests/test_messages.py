"""Messages for common mistakes: what is wrong, and the way out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from tests.made_data import make_pictures, make_video
from tests.test_predict_command import make_video as make_mp4
from tests.untrained import save_untrained
from vistool.annotations.read import read_dataset
from vistool.annotations.results_check import check_results
from vistool.cli.app import app
from vistool.errors import DataError

runner = CliRunner()


def told(*arguments: str | Path) -> tuple[int, str]:
    done: Result = runner.invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.stderr


def test_an_address_is_not_taken_for_a_pattern() -> None:
    code, said = told("predict", "https://example.org/watch?v=1")
    assert code == 3
    assert "an address, not a file" in said
    assert "download it first" in said


def test_a_pattern_that_matches_nothing_says_so(tmp_path: Path) -> None:
    code, said = told("predict", tmp_path / "*.mp4")
    assert code == 3
    assert "nothing matches it" in said
    assert "0 matches" not in said


def test_a_run_folder_in_the_place_of_weights_says_what_is_in_it(tmp_path: Path) -> None:
    save_untrained(tmp_path / "best.safetensors", ("cat",), 3)
    code, said = told("bench", "-m", tmp_path)
    assert code == 4
    assert "a folder, not a weight file" in said
    assert "best.safetensors" in said


def test_a_weight_file_that_is_not_there_is_not_taken_for_a_name(tmp_path: Path) -> None:
    code, said = told("bench", "-m", tmp_path / "mine.safetensors")
    assert code == 4
    assert "no such weight file" in said


@pytest.mark.parametrize("command", ["import", "show"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS"),
        (b"\n<!DOCTYPE html><html><body>sign in</body></html>", "a web page"),
    ],
)
def test_what_stands_in_for_weights_is_known(
    tmp_path: Path, content: bytes, what: str, command: str
) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    code, said = told("weights", command, path)
    assert code == 4
    assert what in said


def test_a_checkpoint_of_another_program_is_to_be_imported(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "m.pth")
    code, said = told("bench", "-m", tmp_path / "m.pth")
    assert code == 4
    assert "vistool weights import" in said


def test_a_file_in_the_place_of_the_folder_for_results(tmp_path: Path) -> None:
    video, taken = make_mp4(tmp_path / "v.mp4", 2), tmp_path / "one.mp4"
    taken.write_text("mine")
    weights = save_untrained(tmp_path / "w.safetensors", ("cat",), 3)
    code, said = told("predict", video, "-m", weights, "-o", taken)
    assert code == 2
    assert "is a file" in said
    assert taken.read_text() == "mine"


def test_polygons_of_points_are_told_as_such(tmp_path: Path) -> None:
    path = make_pictures(tmp_path, 1)
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[[1, 1], [9, 1], [9, 9]]]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"a polygon as a list of points.*not x, y, x, y"):
        read_dataset(path)


def test_results_of_pictures_are_told_by_their_own_words(tmp_path: Path) -> None:
    dataset = read_dataset(make_pictures(tmp_path, 1))
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"image_id": 77, "category_id": 3, "score": 0.5}]))
    problems = [str(problem) for problem in check_results(path, dataset).problems]
    assert any("image_id 77 is none of the 1 images" in problem for problem in problems)
    assert not any("video_id" in problem for problem in problems)


def test_annotations_in_the_place_of_results_are_known(tmp_path: Path) -> None:
    truth = make_video(tmp_path, 2)
    code, said = told("render", tmp_path / "v", truth, "-o", tmp_path / "o.mp4")
    assert code == 3
    assert "an annotation file?" in said


def test_options_of_other_programs_are_translated() -> None:
    code, said = told("train", "set.json", "--epochs", "3")
    assert code == 2
    assert "steps" in said.splitlines()[-1]


def test_a_source_that_is_not_there_is_told_before_torch_is_loaded() -> None:
    script = (
        "import sys\nfrom vistool.cli.app import app\n"
        "try: app(['predict', 'nothing.mp4'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3", "False"]
