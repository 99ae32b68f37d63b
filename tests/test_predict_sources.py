"""Predict on several sources: a failed one stops none, no result replaces another or a source."""

from __future__ import annotations

from pathlib import Path

import pytest

import vistool
from tests.made_squares import (
    LENGTH,
    QUIET,
    SCENE,
    SIZE,
    SquareFinder,
    loaded,
    outcome,
    pictures,
    save_frames,
    source,
)
from vistool.config import PredictConfig
from vistool.engine.predict.sources import predict_videos
from vistool.errors import DataError, PartialFailureError, UsageError, VistoolError
from vistool.formats.results.spool import SegmentationSpool
from vistool.formats.video.writer import VideoWriter
from vistool.structures import RLE

__all__ = ["source"]  # a fixture


def test_one_bad_source_does_not_stop_the_others(tmp_path: Path, source: Path) -> None:
    bad = save_frames(tmp_path / "bad", SCENE, 3)
    (bad / "000.png").write_bytes(b"no picture")
    other = save_frames(tmp_path / "more" / "squares", SCENE, 5)
    failures: list[tuple[Path, VistoolError]] = []
    with pytest.raises(PartialFailureError, match=r"1 of 3 sources failed: .*bad"):
        predict_videos(
            loaded(),
            [source, bad, other],
            tmp_path / "runs",
            QUIET,
            on_failure=lambda *failure: failures.append(failure),
        )
    assert [(path, type(error)) for path, error in failures] == [(bad, DataError)]
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["squares", "squares-2"]
    assert outcome(tmp_path / "runs" / "squares-2")[1].length == 5
    with pytest.raises(DataError, match=r"000\.png"):
        predict_videos(loaded(), [bad], tmp_path / "runs", QUIET)


@pytest.mark.parametrize("by_sqlite", [True, False])
def test_a_disk_that_refuses_one_source_does_not_stop_the_others(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, by_sqlite: bool
) -> None:
    class Refusing(SegmentationSpool):
        BATCH = 1

        def add(self, frame: int, track: int, rle: RLE) -> None:
            if self._folder.name == "squares":
                if not by_sqlite:
                    raise OSError(28, "No space left on device")
                self._db.execute("PRAGMA query_only = ON")
            super().add(frame, track, rle)

    monkeypatch.setattr("vistool.engine.predict.video.SegmentationSpool", Refusing)
    other = save_frames(tmp_path / "other", SCENE, 3)
    failures: list[VistoolError] = []
    with pytest.raises(PartialFailureError, match="1 of 2 sources failed"):
        predict_videos(
            loaded(),
            [source, other],
            tmp_path / "runs",
            QUIET,
            on_failure=lambda _, failure: failures.append(failure),
        )
    assert [type(failure) for failure in failures] == [VistoolError]
    told = "attempt to write a readonly database" if by_sqlite else "No space left on device"
    assert told in str(failures[0])
    assert outcome(tmp_path / "runs" / "other")[1].length == 3


def test_sources_of_one_name_do_not_overwrite_each_other(tmp_path: Path, source: Path) -> None:
    other = save_frames(tmp_path / "more" / "squares", SCENE, 5)
    for _ in range(2):
        done = predict_videos(loaded(), [source, other], tmp_path / "runs", QUIET, exist_ok=True)
        assert len(set(done)) == 2
    assert outcome(tmp_path / "runs" / "squares")[1].length == LENGTH


def test_sources_of_one_name_have_the_same_folders_again(tmp_path: Path) -> None:
    """Whatever their suffix is, and whether they are files or folders."""
    sources = [
        save_frames(tmp_path / name, SCENE, length)
        for length, name in enumerate(("seq.01", "seq.02", "more/seq.01", "seq.01-2"), start=1)
    ]
    video = tmp_path / "seq.01.mp4"
    with VideoWriter(video, SIZE, fps=10.0) as writer:
        for n, image in enumerate(pictures(SCENE, 5)):
            writer.write(image, n / 10)
    for _ in range(2):
        done = predict_videos(loaded(), [*sources, video], tmp_path / "runs", QUIET, exist_ok=True)
        assert [folder.name for folder in done] == [
            *("seq.01", "seq.02", "seq.01-2", "seq.01-2-2", "seq.01-3"),
        ]
        assert [outcome(folder)[1].length for folder in done] == [1, 2, 3, 4, 5]
    assert len(list((tmp_path / "runs").iterdir())) == 5


@pytest.mark.parametrize("name", ["overlay.mp4", "davis", "cutouts/001", "."])
def test_a_source_that_results_would_replace_is_refused(tmp_path: Path, name: str) -> None:
    run = tmp_path / "overlay"
    source = run / name
    if source.suffix:
        run.mkdir()
        with VideoWriter(source, SIZE, fps=10.0) as writer:
            writer.write(next(pictures(SCENE, 1)), 0.0)
    else:
        save_frames(source, SCENE, 2)
    before = sorted(tmp_path.rglob("*"))
    with (
        vistool.predict(source, model=loaded()) as video,
        pytest.raises(UsageError, match="where results would be written"),
    ):
        video.save(run, also=("csv",), exist_ok=True)
    link = tmp_path / f"link{source.suffix}"
    link.symlink_to(source)
    with (
        vistool.predict(link, model=loaded()) as video,
        pytest.raises(UsageError, match="where results would be written"),
    ):
        video.save(run, exist_ok=True)
    link.unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_source_that_another_ones_results_would_replace_is_refused(
    tmp_path: Path, source: Path
) -> None:
    runs = tmp_path / "runs"
    predict_videos(loaded(), [source], runs, PredictConfig())
    overlay = runs / "squares" / "overlay.mp4"
    model = SquareFinder()
    with pytest.raises(UsageError, match="where results would be written"):
        predict_videos(loaded(model), [source, overlay], runs, QUIET, exist_ok=True)
    assert model.encoded == 0  # before anything is done
    assert overlay.exists()
    predict_videos(loaded(), [source, overlay], runs, QUIET)  # folders of their own
    assert overlay.exists()
    assert {path.name for path in runs.iterdir()} == {"squares", "squares-2", "overlay"}


def test_a_source_may_lie_beside_its_results(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    source = save_frames(folder / "frames", SCENE, 2)
    with vistool.predict(source, model=loaded()) as video:
        video.save(folder, overlay=False)
    assert outcome(folder)[1].length == 2
    assert len(list(source.iterdir())) == 2
