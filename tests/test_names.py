"""Names that lead elsewhere, or that a system keeps for itself: results stay where they belong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.made_data import make_pictures
from tests.untrained import save_untrained
from vistool.annotations.convert import bring_frames
from vistool.annotations.dataset import AnnotatedVideo
from vistool.annotations.label_maps import folder_names
from vistool.annotations.read import read_dataset
from vistool.config import PredictConfig
from vistool.engine.predict.sources import predict_videos
from vistool.errors import DataError
from vistool.formats.files import new_run_folder
from vistool.formats.names import LONGEST, RAW_BYTES, as_file_name
from vistool.formats.video.sources import source_name
from vistool.structures import Size

ODD = [
    "...",
    "..",
    ".",
    "",
    "../x",
    "a/b",
    "a\\b",
    "\0",
    "\n",
    "con",
    "COM1.txt",
    "lpt9",
    " ",
    "a.",
]
ODD += ["x" * 300, "é" * 200, "\udcff", "\x1b[31m", "C:", "a:b", "nul.tar.gz", ".hidden", "-rf"]


def assert_is_one_name(name: str) -> None:
    assert name
    assert all(c.isprintable() or c in RAW_BYTES for c in name)
    assert name not in {".", ".."}
    assert not set(name) & set('/\\:*?"<>|')
    assert name == name.strip(". ")
    assert len(os.fsencode(name)) <= LONGEST
    assert name.partition(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@pytest.mark.parametrize("text", ODD)
def test_an_odd_name_becomes_one_of_a_file(text: str) -> None:
    assert_is_one_name(as_file_name(text))


@given(st.text(st.characters(exclude_categories=[]), max_size=300))
def test_any_text_becomes_the_name_of_a_file(text: str) -> None:
    name = as_file_name(text)
    assert_is_one_name(name)
    assert as_file_name(name) == name


@pytest.mark.parametrize("name", ["street", "my video (1)", "Straße-2", "v1.2", "東京", "x_y"])
def test_a_plain_name_stays_as_it_is(name: str) -> None:
    assert as_file_name(name) == name


@pytest.mark.parametrize("name", ["...mp4", "..mp4", ".mp4", "con.mp4", "a\nb.mp4", "\udcff.mp4"])
def test_results_of_a_source_lie_below_the_folder_for_results(tmp_path: Path, name: str) -> None:
    parent = tmp_path / "runs"
    for exist_ok in (False, True):
        folder = new_run_folder(parent, source_name(tmp_path / name), exist_ok=exist_ok)
        assert folder.resolve().parent == parent.resolve()
        assert folder.is_dir()


@pytest.mark.parametrize("stem", ODD)
def test_a_run_folder_of_any_name_lies_in_its_parent(tmp_path: Path, stem: str) -> None:
    folders = {new_run_folder(tmp_path / "runs", stem, exist_ok=False) for _ in range(3)}
    assert len(folders) == 3
    assert set((tmp_path / "runs").iterdir()) == folders


def video(number: int, name: str) -> AnnotatedVideo:
    return AnnotatedVideo(id=number, name=name, size=Size(4, 4), length=1, file_names=())


def test_folders_of_videos_are_distinct_on_every_system() -> None:
    videos = [video(n, name) for n, name in enumerate([*ODD, "Cat", "cat", "CAT", "..", "a b"])]
    names = list(folder_names(videos).values())
    assert len({name.casefold() for name in names}) == len(videos)
    for name in names:
        assert_is_one_name(name)


def test_frames_are_not_brought_to_where_only_a_link_leads(tmp_path: Path) -> None:
    deep = tmp_path / "set" / "a" / "b"
    deep.mkdir(parents=True)
    path = make_pictures(tmp_path / "set", 1)
    shutil.move(tmp_path / "set" / "0.png", tmp_path / "set" / "a" / "0.png")
    (tmp_path / "set" / "link").symlink_to(deep)
    path.write_text(path.read_text().replace('"0.png"', '"link/../0.png"'))
    dataset = read_dataset(path)
    with pytest.raises(DataError, match="leads out of the folder"):
        bring_frames(dataset, tmp_path / "new")
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").rglob("*.png"))


def test_a_video_called_dots_leaves_nothing_one_folder_up(
    tmp_path: Path, make_video: Callable[..., Path]
) -> None:
    make_video("plain.mp4", np.zeros((2, 32, 32, 3), np.uint8))
    source = tmp_path / "in" / "...mp4"
    source.parent.mkdir()
    (tmp_path / "plain.mp4").rename(source)
    weights = save_untrained(tmp_path / "w.safetensors", ("cat",), 3)
    before = set(tmp_path.iterdir())
    (folder,) = predict_videos(
        str(weights), [source], tmp_path / "in" / "runs", PredictConfig(overlay=False)
    )
    assert folder.parent == tmp_path / "in" / "runs"
    assert set(tmp_path.iterdir()) == before
