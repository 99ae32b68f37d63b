"""Predictions that are interrupted or fail: what they leave is whole, no earlier result is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.made_squares import (
    LENGTH,
    QUIET,
    SquareFinder,
    assert_tracks_follow_the_squares,
    loaded,
    outcome,
    predict_into,
    source,
)
from vistool.config import PredictConfig
from vistool.errors import DataError, OutOfMemoryError
from vistool.formats.results.files import write_meta
from vistool.progress import silent
from vistool.structures import ClipOutput, FrameFeatures

__all__ = ["source"]  # a fixture


def stop_at(done: int, error: BaseException) -> Callable[[str, int, int | None], None]:
    def on_progress(stage: str, frames: int, total: int | None) -> None:
        if (stage, frames) == ("segmenting", done):
            raise error

    return on_progress


def test_what_is_final_when_interrupted_is_written_as_a_valid_result(
    tmp_path: Path, source: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        predict_into(loaded(), source, folder, on_progress=stop_at(6, KeyboardInterrupt()))
    results, meta = outcome(folder)
    assert (meta.length, meta.complete) == (6, False)
    assert_tracks_follow_the_squares(results, range(6))
    assert {len(r["segmentations"]) for r in results} == {6}
    assert sorted(path.name for path in folder.iterdir()) == ["meta.json", "results.json"]


def test_an_interrupt_before_the_first_final_frame_leaves_nothing(
    tmp_path: Path, source: Path
) -> None:
    class Interrupted(SquareFinder):
        def decode_clips(self, features: FrameFeatures, num_frames: int) -> ClipOutput:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_into(loaded(Interrupted()), source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_result_has_its_final_name_before_it_is_complete(tmp_path: Path, source: Path) -> None:
    """So whatever kills the process, what stands there is whole."""
    folder = tmp_path / "run"
    stages: dict[str, set[str]] = {}

    def on_progress(stage: str, done: int, total: int | None) -> None:
        files = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        stages[stage] = stages.get(stage, set()) | files

    predict_into(loaded(), source, folder, on_progress=on_progress)
    assert stages == {"segmenting": set(), "writing": {"results.json", "meta.json"}}
    assert {p.name for p in folder.iterdir()} == {"results.json", "meta.json", "overlay.mp4"}


def test_frames_before_a_damaged_one_are_not_lost(tmp_path: Path, source: Path) -> None:
    (source / "009.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"009\.png"):
        predict_into(loaded(), source, tmp_path / "run", QUIET)
    results, meta = outcome(tmp_path / "run")
    assert not meta.complete
    assert 0 < meta.length < 9
    assert_tracks_follow_the_squares(results, range(meta.length))


@pytest.mark.parametrize("damaged", [False, True])
def test_a_part_does_not_replace_the_results_of_a_whole_video(
    tmp_path: Path, source: Path, damaged: bool
) -> None:
    folder = tmp_path / "run"
    config = PredictConfig(save=("csv",))
    predict_into(loaded(), source, folder, config)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if damaged:
        (source / "009.png").write_bytes(b"no picture")
    for number in ("", "-2"):
        stop = silent if damaged else stop_at(6, KeyboardInterrupt())
        with pytest.raises((KeyboardInterrupt, DataError)) as caught:
            predict_into(loaded(), source, folder, config, on_progress=stop)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        part = tmp_path / f"run-partial{number}"
        _, meta = outcome(part)
        assert not meta.complete
        assert (part / "tracks.csv").exists()
        assert caught.value.__notes__ == [
            f"the {meta.length} frames that were done are in {part}; {folder} keeps the results of "
            "an earlier run"
        ]


def test_a_part_replaces_another_part(tmp_path: Path, source: Path) -> None:
    for length in (6, 4):
        with pytest.raises(KeyboardInterrupt) as caught:
            predict_into(
                loaded(), source, tmp_path / "run", on_progress=stop_at(length, KeyboardInterrupt())
            )
        assert outcome(tmp_path / "run")[1].length == length
        assert caught.value.__notes__ == [
            f"the {length} frames that were done are in {tmp_path / 'run'}"
        ]


def test_an_earlier_result_is_whole_until_the_new_one_is_on_disk(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    predict_into(loaded(), source, folder, PredictConfig(save=("csv",)))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vistool.engine.writers.write_meta", full)
    with pytest.raises(OSError, match="No space left") as caught:
        predict_into(loaded(), source, folder, QUIET)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (note,) = caught.value.__notes__
    assert note.startswith(f"the {LENGTH} frames that were done could not be saved: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "squares"]


def test_an_interrupt_while_results_are_written_loses_nothing(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        write_meta(*arguments)

    monkeypatch.setattr("vistool.engine.writers.write_meta", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_into(loaded(), source, tmp_path / "run", QUIET)
    results, meta = outcome(tmp_path / "run")
    assert meta.length == LENGTH
    assert_tracks_follow_the_squares(results, range(LENGTH))


def test_an_interrupt_while_drawing_says_where_the_results_are(
    tmp_path: Path, source: Path
) -> None:
    def stop(stage: str, *_: object) -> None:
        if stage == "writing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        predict_into(loaded(), source, tmp_path / "run", on_progress=stop)
    assert caught.value.__notes__ == [
        f"the results of all {LENGTH} frames are in {tmp_path / 'run'}"
    ]
    assert outcome(tmp_path / "run")[1].complete


def test_too_little_memory_names_a_clip_length_that_was_tried(tmp_path: Path, source: Path) -> None:
    config = PredictConfig(clip_length=9, overlay=False)
    with pytest.raises(OutOfMemoryError, match="a clip of 9 frames") as caught:
        predict_into(loaded(SquareFinder(longest_clip=3)), source, tmp_path / "run", config)
    assert caught.value.hint == "--clip-length 2 fits"
    assert not (tmp_path / "run").exists()
    hints = {}
    for batch in (4, 20):
        config = PredictConfig(clip_length=2, batch=batch, overlay=False)
        with pytest.raises(OutOfMemoryError) as caught:
            predict_into(loaded(SquareFinder(longest_clip=0)), source, tmp_path / "run", config)
        hints[batch] = caught.value.hint
    assert hints == {4: "try --batch 2", 20: "try --batch 2"}
