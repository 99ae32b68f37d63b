"""Nothing that exists is replaced unasked: a named output is refused, a default one is numbered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import vistool
from tests.made_data import make_pictures
from tests.made_data import make_video as make_dataset
from tests.made_squares import loaded, save_frames
from tests.test_predict_command import make_video, weights
from tests.test_predict_command import vistool as command
from vistool.annotations.convert import link_or_copy
from vistool.errors import UsageError
from vistool.formats.files import free_path

__all__ = ["weights"]  # a fixture

PRECIOUS = b"the work of a day"
Prepare = Callable[[Path, Path], tuple[list[str | Path], list[Path]]]


def results_of(folder: Path, weights: Path) -> tuple[Path, Path]:
    source = make_video(folder / "one.mp4", 2)
    common = ("-m", weights, "-o", folder / "runs", "--no-overlay", "--conf", "0")
    done = command("predict", source, *common)
    assert done.exit_code == 0, done.stderr
    return source, folder / "runs" / "one"


def render(folder: Path, weights: Path) -> tuple[list[str | Path], list[Path]]:
    output = folder / "drawn.mp4"
    return ["render", *results_of(folder, weights), "-o", output], [output]


def visualize(folder: Path, weights: Path) -> tuple[list[str | Path], list[Path]]:
    output = folder / "figure.png"
    return ["visualize", results_of(folder, weights)[1], "-o", output], [output]


def visualize_page(folder: Path, weights: Path) -> tuple[list[str | Path], list[Path]]:
    output = folder / "figure.html"
    return ["visualize", results_of(folder, weights)[1], "--html", "-o", output], [output]


def visualize_dataset(folder: Path, weights: Path) -> tuple[list[str | Path], list[Path]]:
    return ["visualize", make_dataset(folder, 3), "-o", folder / "set.png"], [folder / "set.png"]


def visualize_rows(folder: Path, weights: Path) -> tuple[list[str | Path], list[Path]]:
    rows = folder / "rows"
    return ["visualize", make_pictures(folder, 3), "-o", rows], [rows / "0001.png"]


def split(folder: Path, weights: Path) -> tuple[list[str | Path], list[Path]]:
    path = make_pictures(folder, 4)
    return ["data", "split", path], [path.with_name(f"{path.stem}-val.json")]


def submission(folder: Path, weights: Path) -> tuple[list[str | Path], list[Path]]:
    path, output = make_dataset(folder, 3), folder / "out.zip"
    content = json.loads(path.read_text())
    masks = content["annotations"][0]["segmentations"]
    results = folder / "results.json"
    entry = {"video_id": 1, "category_id": content["annotations"][0]["category_id"]}
    results.write_text(json.dumps([{**entry, "score": 0.5, "segmentations": masks}]))
    options = ("--predictions", results, "--submission", output, "--json", "--no-report")
    return ["eval", path, *options], [output]


@pytest.mark.parametrize(
    "prepare",
    [
        *(render, visualize, visualize_page, visualize_dataset, visualize_rows, split),
        submission,
    ],
)
def test_a_named_output_that_exists_is_kept_unless_asked_for(
    prepare: Prepare, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, outputs = prepare(tmp_path, weights)
    for output in outputs:
        output.parent.mkdir(exist_ok=True)
        output.write_bytes(PRECIOUS)
    before = sorted(tmp_path.rglob("*"))
    refused = command(*arguments)
    assert refused.exit_code == 2, refused.stderr
    assert f"{outputs[0]}: is there already" in refused.stderr
    assert "--exist-ok" in refused.stderr
    assert [output.read_bytes() for output in outputs] == [PRECIOUS] * len(outputs)
    assert sorted(tmp_path.rglob("*")) == before
    done = command(*arguments, "--exist-ok")
    assert done.exit_code == 0, done.stderr
    assert all(output.read_bytes() != PRECIOUS for output in outputs)


def test_a_default_output_takes_the_next_free_name(weights: Path, tmp_path: Path) -> None:
    source, run = results_of(tmp_path, weights)
    names = []
    for _ in range(3):
        done = command("render", source, run, "--quiet")
        assert done.exit_code == 0, done.stderr
        names.append(Path(done.stdout.strip()).name)
    assert names == ["overlay.mp4", "overlay-2.mp4", "overlay-3.mp4"]
    again = command("render", source, run, "--quiet", "--exist-ok")
    assert Path(again.stdout.strip()).name == "overlay.mp4"
    for name in ("tracks.png", "tracks-2.png"):
        done = command("visualize", run, "--quiet")
        assert done.exit_code == 0, done.stderr
        assert done.stdout.strip() == str(run / name)


def test_from_python_the_same_is_refused(tmp_path: Path) -> None:
    source, output = save_frames(tmp_path / "frames", length=3), tmp_path / "drawn.mp4"
    output.write_bytes(PRECIOUS)
    with vistool.predict(source, model=loaded()) as video:
        with pytest.raises(UsageError, match=r"drawn\.mp4: is there already") as failure:
            video.render(output)
        assert "exist_ok=True" in failure.value.hint
        assert output.read_bytes() == PRECIOUS
        assert video.render(output, exist_ok=True) == output
        assert output.read_bytes() != PRECIOUS
        run = tmp_path / "run"
        run.mkdir()
        (run / "tracks.csv").write_bytes(PRECIOUS)
        with pytest.raises(UsageError, match=r"tracks\.csv: is there already"):
            video.save(run, overlay=False, also=["csv"])
        assert [file.name for file in run.iterdir()] == ["tracks.csv"]


def test_a_link_that_leads_nowhere_is_there_too(tmp_path: Path) -> None:
    output = tmp_path / "drawn.mp4"
    output.symlink_to(tmp_path / "elsewhere.mp4")
    assert free_path(output, exist_ok=False) == tmp_path / "drawn-2.mp4"
    source = save_frames(tmp_path / "frames", length=2)
    with (
        vistool.predict(source, model=loaded()) as video,
        pytest.raises(UsageError, match="is there already"),
    ):
        video.render(output)


def test_frames_of_another_set_are_not_replaced(tmp_path: Path) -> None:
    one, other, target = (tmp_path / name for name in ("a.png", "b.png", "set/a.png"))
    cv2.imwrite(str(one), np.zeros((4, 4), np.uint8))
    cv2.imwrite(str(other), np.ones((4, 4), np.uint8))
    link_or_copy(one, target)
    link_or_copy(one, target)
    copied = tmp_path / "copy.png"
    copied.write_bytes(one.read_bytes())
    link_or_copy(copied, target)  # the same content does no harm
    before = target.read_bytes()
    with pytest.raises(UsageError, match=r"set/a\.png: is there already"):
        link_or_copy(other, target)
    assert target.read_bytes() == before
