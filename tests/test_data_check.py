"""`vistool data check`: what breaks a training is found, and a good set passes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.made_data import HEIGHT, WIDTH, make_pictures, make_video, square
from vistool.cli.app import app
from vistool.data.check import check_dataset
from vistool.errors import DataError
from vistool.formats.rle import encode_mask

runner = CliRunner()
Content = dict[str, Any]


def edit(path: Path, change: Callable[[Content], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def kinds(path: Path) -> list[tuple[str, str]]:
    return [(problem.severity, problem.kind) for problem in check_dataset(path).problems]


def test_a_good_set_passes_and_is_counted(tmp_path: Path) -> None:
    checked = check_dataset(make_video(tmp_path, 4))
    assert checked.problems == ()
    summary = checked.summary
    assert (summary.videos, summary.frames, summary.instances) == (1, 4, 2)
    assert (summary.shortest, summary.median, summary.longest) == (4, 4, 4)
    assert {(c.name, c.instances, c.videos, c.masks) for c in summary.categories} == {
        ("red square", 1, 1, 4),
        ("blue square", 1, 1, 2),
    }


def replaced_by_a_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("/etc/hostname")


Breakage = Callable[[Path], object]
BROKEN: dict[str, tuple[Breakage, str]] = {
    "missing": (lambda v: (v / "2.png").unlink(), "missing-file"),
    "empty file": (lambda v: (v / "2.png").write_bytes(b""), "unreadable-file"),
    "text": (lambda v: (v / "2.png").write_text("not a picture"), "unreadable-file"),
    "cut": (lambda v: os.truncate(v / "2.png", 400), "unreadable-file"),
    "size": (
        lambda v: cv2.imwrite(str(v / "2.png"), np.zeros((WIDTH, HEIGHT, 3), np.uint8)),
        "picture-size",
    ),
    "link": (lambda v: replaced_by_a_link(v / "2.png"), "outside"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_picture_is_found_with_video_and_frame(tmp_path: Path, case: str) -> None:
    path = make_video(tmp_path, 4)
    damage, kind = BROKEN[case]
    damage(tmp_path / "v")
    (problem,) = check_dataset(path).problems
    assert (problem.severity, problem.kind) == ("error", kind)
    assert problem.place == (("video", 1), ("frame", 2))
    assert "2.png" in str(problem)


def test_a_jpeg_that_ends_early_is_found_although_opencv_reads_it(tmp_path: Path) -> None:
    path = make_video(tmp_path, 2)
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    file = tmp_path / "v" / "1.jpg"
    cv2.imwrite(str(file), noise)
    edit(path, lambda c: c["videos"][0]["file_names"].__setitem__(1, "v/1.jpg"))
    assert kinds(path) == []
    os.truncate(file, file.stat().st_size // 2)
    assert kinds(path) == [("error", "unreadable-file")]


def test_a_picture_that_exif_data_turn_is_a_warning(tmp_path: Path) -> None:
    path = make_video(tmp_path, 2)
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(tmp_path / "v" / "1.png") as image:
        image.save(tmp_path / "v" / "1.png", exif=exif)
    assert kinds(path) == [("warning", "turned-picture")]


def test_pictures_that_are_all_elsewhere_are_one_error(tmp_path: Path) -> None:
    path = make_pictures(tmp_path / "a", 5)
    moved = path.rename(tmp_path / "pictures.json")
    (problem,) = check_dataset(moved).problems
    assert "none of its 5 pictures" in str(problem)
    assert check_dataset(moved, frames=tmp_path / "a").problems == ()


ODD: dict[str, tuple[Callable[[Content], object], str]] = {
    "empty mask": (
        lambda c: c["annotations"][0]["segmentations"].__setitem__(
            1, encode_mask(np.zeros((HEIGHT, WIDTH), bool))
        ),
        "empty-mask",
    ),
    "never visible": (
        lambda c: c["annotations"][0].update(segmentations=[None] * 4),
        "never-visible",
    ),
    "inverted": (
        lambda c: c["annotations"][0].update(
            segmentations=[encode_mask(np.ones((HEIGHT, WIDTH), bool))] * 4
        ),
        "covers-all",
    ),
    "twice": (lambda c: c["annotations"].append({**c["annotations"][0], "id": 9}), "duplicate"),
    "box": (
        lambda c: c["annotations"][0].update(bboxes=[[40, 40, 20, 20], None, None, None]),
        "box-elsewhere",
    ),
    "nothing": (lambda c: c.update(annotations=[]), "no-annotation"),
    "file twice": (
        lambda c: c["videos"][0]["file_names"].__setitem__(1, "v/0.png"),
        "repeated-file",
    ),
    "names": (lambda c: c["categories"][1].update(name="red square"), "duplicate-name"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_is_a_warning(tmp_path: Path, case: str) -> None:
    path = make_video(tmp_path, 4)
    change, kind = ODD[case]
    edit(path, change)
    assert kinds(path) == [("warning", kind)]


def test_boxes_that_fit_their_masks_are_no_problem(tmp_path: Path) -> None:
    path = make_video(tmp_path, 4)
    boxes = [[2 + 4 * t, 10, 20, 20] for t in range(4)]
    edit(path, lambda c: c["annotations"][0].update(bboxes=boxes))
    assert kinds(path) == []


def textured_video(folder: Path, moved: tuple[int, int]) -> Path:
    """A noisy disc over other noise on 12 frames, its masks moved down and right by so much."""
    height, width = 120, 160
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:height, :width]
    masks, names = [], []
    for t in range(12):
        disc = (rows - 60) ** 2 + (columns - 60 - 3 * t) ** 2 < 25**2
        picture = rng.integers(60, 110, (height, width, 3), dtype=np.uint8)
        picture[disc] = rng.integers(140, 200, (int(disc.sum()), 3), dtype=np.uint8)
        names.append(f"{t}.jpg")
        cv2.imwrite(str(folder / names[-1]), picture)
        masks.append(encode_mask(np.roll(disc, moved, (0, 1))))
    video = {"id": 5, "file_names": names, "width": width, "height": height}
    track = {"id": 1, "video_id": 5, "category_id": 1, "segmentations": masks}
    content = {"videos": [video], "annotations": [track], "categories": [{"id": 1, "name": "disc"}]}
    path = folder / "disc.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("moved", [(6, 0), (-4, 9), (0, -11)])
def test_shifted_masks_are_found_and_by_how_much(tmp_path: Path, moved: tuple[int, int]) -> None:
    (problem,) = check_dataset(textured_video(tmp_path, moved)).problems
    assert (problem.severity, problem.kind) == ("warning", "shifted-masks")
    assert problem.place == (("video", 5),)
    found = re.search(r"better (-?\d+) pixels (\w+) and (\d+) (\w+)", str(problem))
    assert found is not None
    right = int(found[1]) * (1 if found[2] == "right" else -1)
    down = int(found[3]) * (1 if found[4] == "down" else -1)
    assert abs(right + moved[1]) <= 1
    assert abs(down + moved[0]) <= 1


@pytest.mark.parametrize("moved", [(0, 0), (1, 0), (0, -1)])
def test_masks_that_lie_right_or_a_pixel_off_are_no_problem(
    tmp_path: Path, moved: tuple[int, int]
) -> None:
    assert check_dataset(textured_video(tmp_path, moved)).problems == ()


def test_a_path_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotation file in this folder"):
        check_dataset(tmp_path)


def test_the_command_prints_findings_and_a_table_and_exits_by_them(tmp_path: Path) -> None:
    path = make_video(tmp_path, 24)
    good = runner.invoke(app, ["data", "check", str(path)])
    assert good.exit_code == 0
    assert "red square" in good.stdout
    for t in range(23):
        (tmp_path / "v" / f"{t}.png").unlink()
    bad = runner.invoke(app, ["data", "check", str(path)])
    assert bad.exit_code == 3
    assert bad.stdout.count("no such file") == 20
    assert "... and 3 more" in bad.stdout
    whole = runner.invoke(app, ["data", "check", str(path), "--json"])
    assert whole.exit_code == 3
    facts = json.loads(whole.stdout)
    assert facts["errors"] == len(facts["problems"]) == 23
    assert facts["problems"][3]["place"] == {"video": 1, "frame": 3}
    assert facts["summary"]["frames"] == 24


def test_the_command_checks_results_with_and_without_the_truth(tmp_path: Path) -> None:
    path = make_video(tmp_path, 4)
    track = {"video_id": 1, "category_id": 3, "score": 0.5}
    results = tmp_path / "results.json"
    entries = [{**track, "segmentations": [encode_mask(square(1, 1, 9)), None, None]}]
    results.write_text(json.dumps(entries))
    alone = runner.invoke(app, ["data", "check", "--results", str(results)])
    assert alone.exit_code == 0
    against = runner.invoke(app, ["data", "check", str(path), "--results", str(results)])
    assert against.exit_code == 3
    assert "result 0, video 1, category 3: 3 masks, its video has 4 frames" in against.stdout
    nothing = runner.invoke(app, ["data", "check"])
    assert nothing.exit_code == 2
