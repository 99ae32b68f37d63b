"""`vistool predict` as a user meets it: files, exit codes, one line an error, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.processes import PATIENCE, Start, wait_until
from tests.untrained import save_untrained
from vistool.cli.app import app
from vistool.formats.results.files import read_meta, read_results
from vistool.formats.video.writer import VideoWriter
from vistool.structures import Size


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that was never trained."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    return save_untrained(path, ("person", "car"), num_queries=8)


def make_video(path: Path, length: int) -> Path:
    with VideoWriter(path, Size(64, 96), fps=10.0) as writer:
        for frame in range(length):
            image = np.full((64, 96, 3), 90, np.uint8)
            image[20:50, frame % 60 : frame % 60 + 30] = (220, 40, 40)
            writer.write(image, frame / 10)
    return path


def vistool(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def spooled(run: Path) -> bool:
    """Whether masks of some frames have gone to disk."""
    return any(file.stat().st_size > 50_000 for file in run.glob(".masks-*/*"))


def test_predict_writes_three_files_a_source_and_prints_their_folders(
    tmp_path: Path, weights: Path
) -> None:
    for name, length in (("one", 7), ("two", 1)):
        make_video(tmp_path / f"{name}.mp4", length)
    runs = tmp_path / "runs"
    done = vistool("predict", tmp_path / "*.mp4", "-m", weights, "-o", runs, "--conf", "0")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [str(runs / "one"), str(runs / "two")]
    assert "one.mp4: 7 frames" in done.stderr
    for name, length in (("one", 7), ("two", 1)):
        assert {p.name for p in (runs / name).iterdir()} == {
            "results.json",
            "meta.json",
            "overlay.mp4",
        }
        assert read_meta(runs / name / "meta.json").length == length
        results = read_results(runs / name / "results.json")
        assert results
        assert {len(r["segmentations"]) for r in results} == {length}


def test_a_second_run_takes_a_new_folder_unless_told_otherwise(
    tmp_path: Path, weights: Path
) -> None:
    video = make_video(tmp_path / "one.mp4", 2)
    common = ("predict", video, "-m", weights, "-o", tmp_path / "runs", "--no-overlay", "--quiet")
    assert vistool(*common).stdout.strip() == str(tmp_path / "runs" / "one")
    assert vistool(*common).stdout.strip() == str(tmp_path / "runs" / "one-2")
    done = vistool(*common, "--exist-ok")
    assert done.stdout.strip() == str(tmp_path / "runs" / "one")
    assert done.stderr == ""


def test_every_option_reaches_the_run(tmp_path: Path, weights: Path) -> None:
    video = make_video(tmp_path / "one.mp4", 12)
    options = (
        "--conf 0.01 --classes person,car --clip-length 4 --clip-stride 2 --frame-stride 2 "
        "--start 0.2 --end 1.1 --size 40 --device cpu --precision bf16 --batch 3 --no-overlay "
        "--save csv --max-overlap 0.7"
    )
    done = vistool("predict", video, "-m", weights, "-o", tmp_path, *options.split())
    assert done.exit_code == 0, done.stderr
    meta = read_meta(tmp_path / "one" / "meta.json")
    assert meta.settings == {
        "conf": 0.01,
        "classes": ["person", "car"],
        "max_overlap": 0.7,
        "clip_length": 4,
        "clip_stride": 2,
        "frame_stride": 2,
        "start": 0.2,
        "end": 1.1,
        "stream": None,
        "fps": None,
        "range": None,
        "size": 40,
        "device": "cpu",
        "precision": "bfloat16",
        "batch": 3,
        "overlay": False,
        "save": ["csv"],
    }
    assert (meta.first_frame, meta.length) == (2, 9)
    done = vistool("predict", video, "-m", weights, "-o", tmp_path, "--clip-length", "all")
    assert read_meta(tmp_path / "one-2" / "meta.json").settings["clip_length"] == "all"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["missing.mp4"], 3, "missing.mp4: no such file"),
        (["text.mp4"], 3, "text.mp4: "),
        (["empty"], 3, "empty: no frames"),
        (["nothing.mp4"], 3, "nothing.mp4: the file is empty"),
        (["good.mp4", "-m", "none"], 4, "no weights named 'none'"),
        (["good.mp4", "--classes", "person,unicorn"], 2, "unknown class 'unicorn'"),
        (["good.mp4", "--clip-length", "some"], 2, "--clip-length some"),
        (["good.mp4", "--clip-length", "3", "--clip-stride", "4"], 2, "clip stride 4"),
        (["good.mp4", "--device", "cuda:77"], 2, "cuda:77"),
        (["good.mp4", "--precision", "fp8"], 2, "unknown precision 'fp8'"),
        (["good.mp4", "--start", "5"], 3, "no frame"),
        (["good.mp4", "--start", "nan"], 2, "start nan"),
        (["good.mp4", "--end", "inf"], 2, "end inf"),
        (["good.mp4", "text.mp4"], 6, "1 of 2 sources failed: "),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    tmp_path: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "good.mp4", 2)
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 99)
    (tmp_path / "nothing.mp4").touch()
    (tmp_path / "empty").mkdir()
    model = [] if "-m" in options else ["-m", str(weights)]
    done = vistool("predict", *options, *model, "--no-overlay", "--quiet")
    assert done.exit_code == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert words in errors[-1]
    assert len(errors) == (2 if code == 6 else 1)
    assert all(line.startswith(("error: ", "hint: ")) for line in done.stderr.splitlines())
    left = sorted(p.name for p in tmp_path.glob("runs/predict/*"))
    assert left == (["good"] if code == 6 else [])


def test_a_truncated_video_gives_the_frames_that_can_be_decoded(
    tmp_path: Path, weights: Path
) -> None:
    whole = make_video(tmp_path / "whole.mp4", 60).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) * 2 // 3])  # the index stands first, so a part plays
    done = vistool("predict", cut, "-m", weights, "-o", tmp_path, "--no-overlay", "--conf", "0")
    assert done.exit_code == 7, done.stderr
    meta = read_meta(tmp_path / "cut" / "meta.json")
    assert not meta.complete
    assert 0 < meta.length < 60
    results = read_results(tmp_path / "cut" / "results.json")
    assert {len(r["segmentations"]) for r in results} == {meta.length}


@pytest.mark.parametrize("to_stdout", [True, False])
def test_sources_may_have_any_name(tmp_path: Path, weights: Path, to_stdout: bool) -> None:
    """Also where the system's encoding has no letters for it."""
    names = [os.fsdecode(b"caf\xe9"), "\u65e5\u672c\U0001f600\xff"]
    video = make_video(tmp_path / "video.mp4", 2)
    videos = [shutil.copy(video, tmp_path / f"{name}.mp4") for name in names]
    output = "-" if to_stdout else tmp_path / "runs"
    command = ("predict", *videos, "-m", weights, "-o", output, "-q", "--conf", "0")
    done = subprocess.run(
        [sys.executable, "-m", "vistool", *command],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    texts = ["caf\\udce9", names[1]]
    lines = done.stdout.splitlines()
    if to_stdout:
        sources = [Path(json.loads(line)["source"]).stem for line in lines]
        assert sources == [texts[0], texts[0], texts[1], texts[1]]
        return
    escaped = [name.encode("ascii", errors="backslashreplace").decode() for name in names]
    assert [Path(line).name for line in lines] == escaped
    metas = [read_meta(tmp_path / "runs" / name / "meta.json") for name in names]
    assert [Path(meta.source).stem for meta in metas] == texts


@pytest.mark.slow
def test_a_killed_run_leaves_no_result(tmp_path: Path, weights: Path, start: Start) -> None:
    video = make_video(tmp_path / "long.mp4", 3000)
    options = (video, "-m", weights, "-o", tmp_path, "--conf", "0")
    process = start("-m", "vistool", "predict", *options)
    wait_until(lambda: spooled(tmp_path / "long"), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert not [p for p in (tmp_path / "long").glob("*.*") if not p.name.startswith(".")]
