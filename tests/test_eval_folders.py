"""`vistool eval` on DAVIS and MOTS folders: with results files, label pictures and text files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tests.made_eval import HEIGHT, WIDTH, block, make_set, moving, truth_as_results, write
from vistool.cli.app import app
from vistool.formats.masks.rle import decode_mask, encode_mask


def vistool(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def scored(*arguments: str | Path) -> dict[str, Any]:
    done = vistool("eval", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def converted(tmp_path: Path, kind: str) -> tuple[Path, Path]:
    """A folder in a format, and its labels as a results file whose video ids start at 1."""
    source = make_set(tmp_path / "source", frames=True)
    folder = tmp_path / kind
    done = vistool("data", "convert", source, "--to", kind, "-o", folder, "-q")
    assert done.exit_code == 0, done.stderr
    results = truth_as_results(source)
    for result in results:
        result["video_id"] //= 10
    return folder, write(tmp_path / "results.json", results)


def perfect(found: dict[str, Any]) -> bool:
    numbers = [found["ytvis"]["AP"], found["hota"]["HOTA"]]
    return numbers == pytest.approx([1, 1]) and found["davis"]["J&F_mean"] == pytest.approx(1)


# DAVIS


def test_a_davis_folder_takes_results_by_the_order_of_its_sequences(tmp_path: Path) -> None:
    folder, results = converted(tmp_path, "davis")
    found = scored(folder, "--predictions", results)
    assert perfect(found)
    assert [row["name"] for row in found["categories"]] == ["object"]
    assert found["counts"]["videos"] == 3
    shutil.rmtree(folder / "JPEGImages")  # the labels alone are enough
    assert perfect(scored(folder, "--predictions", results))


@pytest.mark.parametrize("place", ["", "Annotations", "Annotations/480p"])
def test_a_davis_folder_takes_a_folder_of_pictures(tmp_path: Path, place: str) -> None:
    folder, _ = converted(tmp_path, "davis")
    mine = tmp_path / "mine"
    shutil.copytree(folder / "Annotations" / "480p", mine / place)
    assert perfect(scored(folder, "-p", mine))
    shutil.rmtree(mine / place / "v2")
    done = vistool("eval", folder, "-p", mine, "--json")
    assert json.loads(done.stdout)["davis"]["J_mean"] == pytest.approx(2 / 3)
    assert "1 of 3 sequences have no prediction: v2" in done.stderr


def test_j_of_a_shifted_mask_is_its_overlap_frame_by_frame(tmp_path: Path) -> None:
    """The expected value is counted on the pixels, independent of the evaluator."""
    folder, results = converted(tmp_path, "davis")
    content = json.loads(results.read_text())
    overlaps = []
    for result in content:
        true = [decode_mask(mask) for mask in result["segmentations"]]
        result["segmentations"] = [
            block(4 if result["category_id"] == 3 else 26, 7 + 2 * t) for t in range(len(true))
        ]
        ours = [decode_mask(mask) for mask in result["segmentations"]]
        per_frame = [(a & b).sum() / (a | b).sum() for a, b in zip(ours, true, strict=True)]
        overlaps.append(np.mean(per_frame))
    found = scored(folder, "-p", write(results, content))
    assert found["davis"]["J_mean"] == pytest.approx(np.mean(overlaps))
    assert 0 < found["davis"]["F_mean"] < 1


def test_the_category_of_a_result_does_not_matter_on_davis(tmp_path: Path) -> None:
    folder, results = converted(tmp_path, "davis")
    content = [{**r, "category_id": 17} for r in json.loads(results.read_text())]
    assert perfect(scored(folder, "-p", write(results, content)))


def test_the_255_of_davis_2016_is_the_object_if_it_is_alone(tmp_path: Path) -> None:
    folder, _ = converted(tmp_path, "davis")
    for file in sorted(folder.glob("Annotations/480p/*/*.png")):
        labels = np.asarray(Image.open(file))
        Image.fromarray(np.where(labels == 1, 255, 0).astype(np.uint8)).save(file)
    found = scored(folder, "-p", folder)
    assert perfect(found)
    assert found["counts"]["truth_tracks"] == 3


def test_pixels_on_void_are_ignored_on_davis(tmp_path: Path) -> None:
    folder, results = converted(tmp_path, "davis")
    content = json.loads(results.read_text())
    for result in content:
        if result["category_id"] == 3:  # each mask reaches into the region that becomes void
            masks = zip(result["segmentations"], moving(18, 9, 2), strict=False)
            result["segmentations"] = [
                encode_mask(decode_mask(mask) | decode_mask(below))
                for mask, below in masks
                if below
            ]
    results = write(results, content)
    assert scored(folder, "-p", results)["davis"]["J_mean"] < 1
    for file in sorted(folder.glob("Annotations/480p/*/*.png")):
        labels = np.array(Image.open(file))
        labels[18:34][labels[18:34] == 0] = 255
        Image.fromarray(labels).save(file)
    found = scored(folder, "-p", results)["davis"]["J_mean"]
    # The part on the second object is still an error: 16 x 8 of 16 x 16 pixels.
    assert found == pytest.approx((256 / 384 + 1) / 2)


def test_pictures_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    folder, _ = converted(tmp_path, "davis")
    mine = tmp_path / "mine"
    shutil.copytree(folder / "Annotations" / "480p", mine)
    Image.fromarray(np.ones((10, 20), np.uint8)).save(mine / "v1" / "00000.png")
    (mine / "v1" / "00001.png").write_bytes(b"no picture")
    shutil.copy(mine / "v2" / "00000.png", mine / "v2" / "00077.png")
    done = vistool("eval", folder, "-p", mine)
    assert done.exit_code == 3
    assert f"{mine / 'v1' / '00000.png'}: is 20x10, its video {WIDTH}x{HEIGHT}" in done.stderr
    assert f"{mine / 'v1' / '00001.png'}: damaged, or no picture that can be read" in done.stderr
    assert f"{mine / 'v2' / '00077.png'}: a frame that the sequence does not have" in done.stderr


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    folder, _ = converted(tmp_path, "davis")
    (tmp_path / "other" / "else").mkdir(parents=True)
    done = vistool("eval", folder, "-p", tmp_path / "other")
    assert done.exit_code == 3
    assert "sequences: v1, v2, v3" in done.stderr


# MOTS


def test_a_mots_folder_takes_results_by_the_order_of_its_sequences(tmp_path: Path) -> None:
    folder, results = converted(tmp_path, "mots")
    found = scored(folder, "--predictions", results)
    assert perfect(found)
    assert [row["name"] for row in found["categories"]] == ["cat", "dog"]


@pytest.mark.parametrize("form", ["", "instances", "instances_txt"])
def test_a_mots_folder_takes_text_and_pictures(tmp_path: Path, form: str) -> None:
    folder, _ = converted(tmp_path, "mots")
    assert perfect(scored(folder, "-p", folder / form))


def test_labels_alone_are_a_mots_set_as_long_as_its_predictions(tmp_path: Path) -> None:
    folder, results = converted(tmp_path, "mots")
    shutil.rmtree(folder / "images")
    shutil.rmtree(folder / "instances")
    content = json.loads(results.read_text())
    for result in content:
        result["segmentations"] += [None, None]
    found = scored(folder, "-p", write(results, content))
    assert perfect(found)
    assert found["counts"]["frames"] == 12 + 6
    text = tmp_path / "mine"
    shutil.copytree(folder / "instances_txt", text)
    for file in text.glob("*.txt"):
        *_, last = file.read_text().splitlines()
        number, rest = last.split(maxsplit=1)
        file.write_text(f"{file.read_text()}{int(number) + 2} {rest}\n")
    assert scored(folder, "-p", text)["hota"]["DetA"] == pytest.approx(0.89, abs=0.02)


def test_predictions_in_a_region_to_ignore_are_not_scored_for_any_class(tmp_path: Path) -> None:
    folder, results = converted(tmp_path, "mots")
    content = json.loads(results.read_text())
    stray = {**content[0], "segmentations": [block(2, 44) for _ in range(4)], "score": 0.95}
    results = write(results, [stray, *content])
    assert not perfect(scored(folder, "-p", results))
    shutil.rmtree(folder / "instances")
    labels = folder / "instances_txt" / "v1.txt"
    region = moving(0, 4, 0)
    lines = [f"{t} 10000 10 48 64 {block(0, 40, 22)['counts']}" for t, _ in enumerate(region)]
    labels.write_text(labels.read_text() + "\n".join(lines) + "\n")
    found = scored(folder, "-p", results)
    assert found["hota"]["HOTA"] == pytest.approx(1)
    assert [row["name"] for row in found["categories"]] == ["cat", "dog"]
    assert found["counts"]["truth_tracks"] == 6


def test_lines_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    folder, _ = converted(tmp_path, "mots")
    mine = tmp_path / "mine"
    shutil.copytree(folder / "instances_txt", mine)
    mask = block(2, 4)["counts"]
    bad = ["0 3001 3 48", f"9 3001 3 48 64 {mask}", f"0 5001 5 48 64 {mask}", "1 3007 3 48 64 zz"]
    file = mine / "v1.txt"
    before = len(file.read_text().splitlines())
    file.write_text(file.read_text() + "\n".join([*bad, f"0 3001 3 48 64 {mask}"]) + "\n")
    done = vistool("eval", folder, "-p", mine)
    assert done.exit_code == 3
    for line, words in enumerate(
        (
            "not six fields",
            "frame 9 is not among 0 to 3",
            "class 5 is not one of [3, 7]",
            "object 3007: malformed mask",
            "object 3001 is on frame 0 twice",
        ),
        start=before + 1,
    ):
        assert f"{file}: line {line}: {words}" in done.stderr


def test_mots_pictures_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    folder, _ = converted(tmp_path, "mots")
    mine = tmp_path / "mine"
    shutil.copytree(folder / "instances", mine)
    Image.fromarray(np.full((10, 20), 3001, np.uint16)).save(mine / "v1" / "000000.png")
    (mine / "v1" / "000001.png").write_bytes(b"no picture")
    done = vistool("eval", folder, "-p", mine)
    assert done.exit_code == 3
    size = f"a mask of size [10, 20], expected [{HEIGHT}, {WIDTH}]"
    assert f"{mine / 'v1'}: picture 000000.png: object 3001: {size}" in done.stderr
    assert f"{mine / 'v1' / '000001.png'}: damaged, or no picture that can be read" in done.stderr
