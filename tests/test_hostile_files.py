"""Hostile run folders and names: links that lead out, files of others, damaged records."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.made_data import make_pictures
from tests.made_eval import make_set
from tests.test_predict_command import make_video, vistool
from tests.untrained import save_untrained
from vistool.formats.tables import read_table

CLASSES = ("=cmd()", "@dog")  # what a spreadsheet would run


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("w") / "w.safetensors", CLASSES, 5)


def predicted(folder: Path, weights: Path, save: str) -> Path:
    """A run with what is to be saved, over one that may be there."""
    video = folder / "one.mp4"
    if not video.exists():
        make_video(video, 4)
    options = ("--conf", "0", "-m", weights, "-o", folder / "runs", "--no-overlay", "--exist-ok")
    done = vistool("predict", video, *options, "--save", save)
    assert done.exit_code == 0, done.stderr
    return folder / "runs" / "one"


def content(folder: Path) -> dict[str, bytes]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize("link", ["cutouts", "cutouts/001", "davis"])
def test_a_later_run_deletes_nothing_behind_a_link(
    tmp_path: Path, weights: Path, link: str
) -> None:
    run = predicted(tmp_path, weights, "cutouts,davis")
    assert (run / link).is_dir()
    (run / link).rename(tmp_path / "mine")
    for number in range(6):
        (tmp_path / "mine" / "001").mkdir(exist_ok=True)
        (tmp_path / "mine" / "001" / f"{number:05}.png").write_text("mine")
        (tmp_path / "mine" / f"{number:05}.png").write_text("mine")
    before = content(tmp_path / "mine")
    (run / link).symlink_to(tmp_path / "mine")
    predicted(tmp_path, weights, "csv")
    assert content(tmp_path / "mine") == before


def test_a_later_run_deletes_only_what_the_record_names(tmp_path: Path, weights: Path) -> None:
    run = predicted(tmp_path, weights, "cutouts,davis,csv")
    ours = set(content(run / "cutouts")) | set(content(run / "davis"))
    assert ours
    mine = ["cutouts/099/00000.png", "cutouts/00000.png", "cutouts/001/00099.png"]
    mine += ["cutouts/001/1.png", "cutouts/001/note.txt", "davis/00099.png", "davis/7/00000.png"]
    for name in mine:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    predicted(tmp_path, weights, "jsonl")
    left = content(run)
    assert {name for name in left if "/" in name} == set(mine)
    assert not (run / "tracks.csv").exists()
    assert not (run / "davis" / "00000.png").exists()


@pytest.mark.parametrize("save", [7, "csv", {"csv": 1}, [["csv"], 7, None], None, ["nonsense"]])
def test_a_record_that_is_damaged_loses_no_new_results(
    tmp_path: Path, weights: Path, save: object
) -> None:
    run = predicted(tmp_path, weights, "csv")
    meta = json.loads((run / "meta.json").read_text())
    meta["settings"]["save"] = save
    (run / "meta.json").write_text(json.dumps(meta))
    predicted(tmp_path, weights, "jsonl")
    assert json.loads((run / "meta.json").read_text())["settings"]["save"] == ["jsonl"]


def test_no_class_name_is_a_formula_in_the_table(tmp_path: Path, weights: Path) -> None:
    run = predicted(tmp_path, weights, "csv")
    with (run / "tracks.csv").open(newline="", encoding="utf-8") as file:
        shown = {row["class"] for row in csv.DictReader(file)}
    assert shown
    assert shown <= {f"'{name}" for name in CLASSES}
    assert {row["class"] for row in read_table(run / "tracks.csv")} <= set(CLASSES)


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    """A name that is not UTF-8, with a line break and a terminal command in it."""
    folder = tmp_path / os.fsdecode(b"d\xff\n\x1b[2J\xe9")
    folder.mkdir()
    return folder


def test_everything_works_below_a_folder_of_any_name(tmp_path: Path, odd_folder: Path) -> None:
    """Pictures are written elsewhere first: OpenCV cannot write there."""
    truth = make_set(tmp_path / "set", lengths=(2, 2), frames=True)
    (tmp_path / "pictures").mkdir()
    make_pictures(tmp_path / "pictures", 3)
    make_video(tmp_path / "one.mp4", 4)
    for name in ("set", "pictures", "one.mp4"):
        shutil.move(tmp_path / name, odd_folder / name)
    save_untrained(odd_folder / "w.safetensors", ("cat", "dog"), 5)
    truth = odd_folder / "set" / truth.name
    video, model, runs = (odd_folder / name for name in ("one.mp4", "w.safetensors", "runs"))
    commands: list[tuple[str | Path, ...]] = [
        ("predict", video, "-m", model, "-o", runs, "--conf", "0", "--save", "csv,jsonl,davis"),
        ("render", video, runs / "one", "-o", odd_folder / "drawn.mp4"),
        ("visualize", runs / "one", "-o", odd_folder / "sheet.png"),
        ("visualize", truth, "-o", odd_folder / "labels.png"),
        ("data", "check", odd_folder / "pictures" / "pictures.json", "--json"),
        ("data", "split", truth, "--fraction", "0.5", "-o", odd_folder / "parts"),
        ("data", "convert", truth, "--to", "davis", "-o", odd_folder / "davis"),
        ("data", "convert", truth, "--to", "mots", "-o", odd_folder / "mots"),
        ("eval", truth, "-m", model, "-o", odd_folder / "eval", "--json"),
        ("weights", "show", model),
    ]
    for command in commands:
        done = vistool(*command)
        assert done.exit_code == 0, (command, done.stderr, done.exception)
        assert "\x1b" not in done.stderr
    for file in odd_folder.rglob("*.json"):
        json.loads(file.read_bytes())
