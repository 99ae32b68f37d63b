"""`vistool data check`: problems are found, and valid data sets pass."""

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
from vistool.annotations.check import check_dataset
from vistool.annotations.label_maps import write_label_map
from vistool.cli.app import app
from vistool.data.labelled import read_annotations
from vistool.data.shots import read_image
from vistool.errors import DataError
from vistool.formats.masks.rle import encode_mask

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


def turned(path: Path, orientation: int, height: int, width: int) -> Content:
    """Write a disc on noise whose EXIF orientation makes it upright. Returns: COCO entries."""
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - 40) ** 2 + (columns - 60) ** 2 < 20**2
    picture = np.random.default_rng(2).integers(60, 110, (height, width), dtype=np.uint8)
    picture[disc] += 90
    # The inverse of a viewer's transform for each orientation.
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(p, 2).T,
        8: lambda p: np.rot90(p, 3),
    }
    stored = np.ascontiguousarray(undo.get(orientation, np.asarray)(picture))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path.with_name("turned.png"), exif=exif)
    size = {"width": width, "height": height}
    mask = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": encode_mask(disc)}
    return {
        "images": [{"id": 1, "file_name": "turned.png", **size}],
        "annotations": [mask],
        "categories": [{"id": 1, "name": "disc"}],
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_labelled_as_displayed_for_check_and_training(
    tmp_path: Path, orientation: int
) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps(turned(path, orientation, 90, 130)))
    # If height and width are exchanged, the sizes show that the labels are of the turned picture.
    known = orientation in (1, 5, 6, 7, 8)
    assert kinds(path) == ([] if known else [("warning", "turned-picture")])
    (video,) = read_annotations(path, {"disc": ("disc",)})
    mask = video.tracks[0].mask(0, video.size) == 1
    grey = read_image(video, 0)[..., 0]
    assert grey[mask].min() >= 150 > 110 > grey[~mask].max()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_of_a_sideways_picture_as_stored_are_refused_by_check_and_training(
    tmp_path: Path, orientation: int
) -> None:
    path = tmp_path / "set.json"
    content = turned(path, orientation, 90, 130)
    content["images"][0] |= {"width": 90, "height": 130}
    content["annotations"][0]["segmentation"] = [[10, 10, 50, 10, 50, 50]]
    path.write_text(json.dumps(content))
    (problem,) = check_dataset(path).problems
    assert (problem.severity, problem.kind) == ("error", "picture-size")
    assert "is 130x90, but its annotations say 90x130" in problem.what
    (video,) = read_annotations(path, {"disc": ("disc",)})
    with pytest.raises(DataError) as refused:
        read_image(video, 0)
    assert (str(refused.value), refused.value.hint) == (problem.what, problem.hint)
    assert "read as displayed, turned by their EXIF orientation" in problem.hint


def test_davis_frames_are_as_large_as_displayed(tmp_path: Path) -> None:
    frames, labels = (tmp_path / name / "480p" / "a" for name in ("JPEGImages", "Annotations"))
    for folder in (frames, labels):
        folder.mkdir(parents=True)
    turned(frames / "0.png", 6, 90, 130)
    (frames / "turned.png").rename(frames / "0.png")
    write_label_map(labels / "0.png", np.ones((90, 130), int), [0, 0, 0, 255, 0, 0])
    assert [k for k in kinds(tmp_path) if k[0] == "error"] == []


def test_pictures_that_are_all_missing_are_one_error(tmp_path: Path) -> None:
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
def test_a_probable_mistake_is_a_warning(tmp_path: Path, case: str) -> None:
    path = make_video(tmp_path, 4)
    change, kind = ODD[case]
    edit(path, change)
    assert kinds(path) == [("warning", kind)]


def test_boxes_that_fit_their_masks_are_not_a_problem(tmp_path: Path) -> None:
    path = make_video(tmp_path, 4)
    boxes = [[2 + 4 * t, 10, 20, 20] for t in range(4)]
    edit(path, lambda c: c["annotations"][0].update(bboxes=boxes))
    assert kinds(path) == []


def video_of(folder: Path, pictures: list[np.ndarray], masks: list[np.ndarray]) -> Path:
    """Write a YouTube-VIS set of one video and one track."""
    height, width = masks[0].shape
    for t, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{t}.png"), picture)
    names = [f"{t}.png" for t in range(len(pictures))]
    video = {"id": 5, "file_names": names, "width": width, "height": height}
    codes = [encode_mask(mask) for mask in masks]
    track = {"id": 1, "video_id": 5, "category_id": 1, "segmentations": codes}
    content = {"videos": [video], "annotations": [track], "categories": [{"id": 1, "name": "disc"}]}
    path = folder / "disc.json"
    path.write_text(json.dumps(content))
    return path


def textured_video(folder: Path, moved: tuple[int, int]) -> Path:
    """A disc of noise on other noise, 12 frames; masks are shifted down and right by `moved`."""
    height, width = 120, 160
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:height, :width]
    masks, pictures = [], []
    for t in range(12):
        disc = (rows - 60) ** 2 + (columns - 60 - 3 * t) ** 2 < 25**2
        picture = rng.integers(60, 110, (height, width, 3), dtype=np.uint8)
        picture[disc] = rng.integers(140, 200, (int(disc.sum()), 3), dtype=np.uint8)
        pictures.append(picture)
        masks.append(np.roll(disc, moved, (0, 1)))
    return video_of(folder, pictures, masks)


@pytest.mark.parametrize("moved", [(6, 0), (-4, 9), (0, -11)])
def test_shifted_masks_are_found_with_the_size_of_the_shift(
    tmp_path: Path, moved: tuple[int, int]
) -> None:
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
def test_masks_with_a_shift_of_at_most_a_pixel_are_not_a_problem(
    tmp_path: Path, moved: tuple[int, int]
) -> None:
    assert check_dataset(textured_video(tmp_path, moved)).problems == ()


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_an_object_as_bright_as_its_background_is_not_a_problem(
    tmp_path: Path, seed: int, shown: bool
) -> None:
    """The object is on boxes of any colour; if it is not shown, all edges are those of boxes."""
    rng = np.random.default_rng(seed)
    background = np.full((120, 160, 3), 100, np.uint8)
    for top, left in zip(rng.integers(0, 100, 25), rng.integers(0, 140, 25), strict=True):
        height, width = rng.integers(8, 40, 2)
        background[top : top + height, left : left + width] = rng.integers(40, 200, 3)
    luma = cv2.cvtColor(background, cv2.COLOR_BGR2YCrCb)
    luma[..., 1:] = (190, 80)
    coloured = cv2.cvtColor(luma, cv2.COLOR_YCrCb2BGR)
    rows, columns = np.mgrid[:120, :160]
    masks = [(rows - 60) ** 2 + (columns - 45 - 5 * t) ** 2 < 20**2 for t in range(12)]
    pictures = [np.where(mask[..., None] & shown, coloured, background) for mask in masks]
    assert check_dataset(video_of(tmp_path, pictures, masks)).problems == ()


def test_a_path_that_is_not_a_data_set_is_refused(tmp_path: Path) -> None:
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
