"""Results are replaced in one step: whenever a process dies, the old or the new ones are there."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.made_squares import QUIET, loaded, predict_into, save_frames
from vistool.engine.writers import may_be_whole
from vistool.errors import DataError
from vistool.formats import replacing
from vistool.formats.files import atomic_path
from vistool.formats.replacing import remove_leftovers, replaced_together, settle
from vistool.formats.results.files import read_meta, read_results
from vistool.formats.results.spool import SegmentationSpool

OLD = {"a.json": b"old a", "b.json": b"old b", "c.mp4": b"old c", "cut/001/7.png": b"old p"}
NEW = {"a.json": b"new a", "b.json": b"new b"}
REMOVED = ["c.mp4", "cut/001/7.png"]
OWN = {"mine.txt": b"mine", "cut/mine.txt": b"mine"}  # not of this program


class Dead(BaseException):
    """A killed process does nothing more."""


@dataclass
class Disk:
    """A folder's content on disk after a power failure; a process dies at a chosen call.

    Names count when their folder has been synced, contents when the file has.
    """

    root: Path
    fatal: int | None = None  # the call of those below that is not done any more
    calls: int = 0
    contents: dict[int, bytes] = field(default_factory=dict)  # synced, by inode
    names: dict[int, dict[str, int]] = field(default_factory=dict)  # of folders
    folders: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        for folder in [self.root, *(p for p in self.root.rglob("*") if p.is_dir())]:
            self._note(folder)
        for file in (p for p in self.root.rglob("*") if p.is_file()):
            self.contents[file.stat().st_ino] = file.read_bytes()

    def _note(self, folder: Path) -> None:
        number = folder.stat().st_ino
        self.folders.add(number)
        self.names[number] = {p.name: p.stat().st_ino for p in folder.iterdir()}
        self.folders |= {p.stat().st_ino for p in folder.iterdir() if p.is_dir()}

    def synced(self, number: int) -> None:
        about = os.fstat(number)
        path = Path(f"/proc/self/fd/{number}").readlink()
        if path.is_dir():
            self._note(path)
        else:
            self.contents[about.st_ino] = path.read_bytes()

    def after_power_failure(self, place: Path) -> None:
        """Write what is left into a new folder."""
        self._restore(self.root.stat().st_ino, place)

    def _restore(self, number: int, place: Path) -> None:
        place.mkdir()
        for name, inner in self.names.get(number, {}).items():
            if inner in self.folders:
                self._restore(inner, place / name)
            else:
                (place / name).write_bytes(self.contents.get(inner, b""))


@contextlib.contextmanager
def dying(disk: Disk, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every call that changes a folder be the last one that is not done, in turn."""
    with patch.context() as patched:
        for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync"):
            patched.setattr(os, name, _counted(disk, getattr(os, name), sync=name == "fsync"))
        with contextlib.suppress(Dead):
            yield


def _counted(disk: Disk, original: Callable[..., Any], *, sync: bool) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        if disk.fatal is not None and disk.calls >= disk.fatal:
            raise Dead
        disk.calls += 1
        result = original(*args, **options)
        if sync:
            disk.synced(args[0])
        return result

    return call


def fill(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def found_in(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def replace_all(folder: Path) -> None:
    with replaced_together(folder, REMOVED) as new:
        fill(new, NEW)


def outcomes_of_every_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, power: bool
) -> list[dict[str, bytes]]:
    """The content after each, when the next process has read the folder."""
    found = []
    for fatal in range(1000):
        folder = tmp_path / f"run{fatal}"
        fill(folder, OLD | OWN)
        disk = Disk(folder, fatal)
        with dying(disk, monkeypatch):
            replace_all(folder)
        if power:
            folder = tmp_path / f"run{fatal}-after"
            disk.after_power_failure(folder)
        with monkeypatch.context() as later:  # another process, and this one is gone
            later.setattr(replacing, "owner", lambda: "00000000-1-1")
            later.setattr(replacing, "_is_dead", lambda *_: True)
            settle(folder)
            remove_leftovers(folder)
        found.append(found_in(folder))
        if disk.calls < fatal:
            return found
    raise AssertionError("no end")


@pytest.mark.parametrize("power", [False, True])
def test_whenever_it_ends_the_old_or_the_new_files_are_there(
    power: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = outcomes_of_every_death(tmp_path, monkeypatch, power=power)
    assert len(found) > 12
    step = found.index(NEW | OWN)
    assert 0 < step < len(found) - 5
    assert all(files == OLD | OWN for files in found[:step])
    assert all(files == NEW | OWN for files in found[step:])


def test_an_exception_leaves_all_as_it_was(tmp_path: Path) -> None:
    fill(tmp_path, OLD)
    with contextlib.suppress(OSError), replaced_together(tmp_path, REMOVED) as new:
        fill(new, NEW)
        raise OSError("full")
    assert found_in(tmp_path) == OLD


def test_replacing_finishes_what_was_begun_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, OLD)
    with monkeypatch.context() as patched:
        patched.setattr(replacing, "_finish", lambda _: None)  # as if it had ended there
        replace_all(tmp_path)
    with replaced_together(tmp_path) as new:
        fill(new, {"d.json": b"newer"})
    assert found_in(tmp_path) == NEW | {"d.json": b"newer"}


def test_what_a_living_process_replaces_is_left_to_it(tmp_path: Path) -> None:
    fill(tmp_path, OLD)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        start = replacing._start_of(other.pid)
        host = replacing.owner().partition("-")[0]
        commit = tmp_path / f".commit-{host}-{other.pid}-{start}-abcd0123"
        fill(commit, {"a.json": b"new a", replacing.REMOVED: b""})
        settle(tmp_path)
        assert (tmp_path / "a.json").read_bytes() == b"old a"
        other.communicate(b"\n")
    settle(tmp_path)
    assert (tmp_path / "a.json").read_bytes() == b"new a"
    assert not commit.exists()


def test_a_commit_cannot_reach_out_of_its_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    fill(outside, {"kept.txt": b"kept", "001/7.png": b"kept"})
    folder = tmp_path / "run"
    fill(folder, {"a.json": b"old a"})
    (folder / "link").symlink_to(outside)
    names = [
        "../outside/kept.txt",
        str(outside / "kept.txt"),
        "link/001/7.png",
        "link/kept.txt",
        "",
    ]
    with replaced_together(folder, names) as new:
        fill(new, {"a.json": b"new a"})
    assert found_in(outside) == {"kept.txt": b"kept", "001/7.png": b"kept"}
    assert (folder / "a.json").read_bytes() == b"new a"
    assert (folder / "link").is_symlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_settled_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, OLD)
    with monkeypatch.context() as patched:
        patched.setattr(replacing, "_finish", lambda _: None)
        replace_all(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DataError, match="cannot be finished"):
            settle(tmp_path)
    finally:
        tmp_path.chmod(0o700)


# Leftovers -------------------------------------------------------------------------------------

LEAVE = (
    "import os, sys\n"
    "from pathlib import Path\n"
    "from vistool.formats.files import atomic_folder, atomic_path\n"
    "from vistool.formats.results.spool import SegmentationSpool\n"
    "place = Path(sys.argv[1])\n"
    "with SegmentationSpool(place), atomic_path(place / 'x.mp4') as part:\n"
    "    part.with_suffix('.picture.mp4').touch()\n"
    "    with atomic_folder(place / 'cutouts') as folder:\n"
    "        part.touch()\n"
    "        (folder / '1.png').touch()\n"
    "        os._exit(9)\n"
)


def test_what_a_killed_process_left_goes_with_the_next_run(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LEAVE, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 4
    with SegmentationSpool(tmp_path):
        assert len(list(tmp_path.iterdir())) == 1  # its own masks
    assert list(tmp_path.iterdir()) == []


def test_nothing_else_is_taken_for_a_leftover(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LEAVE, str(tmp_path)], check=False)
    dead = {path.name: path for path in tmp_path.iterdir()}
    (part,) = (path for name, path in dead.items() if name.endswith(".part.mp4"))
    host, process, start, mark = part.name.removeprefix(".x-").split(".")[0].split("-")
    kept = [
        f".x-{'0' * 8}-{process}-{start}-{mark}.part.mp4",  # another machine's
        f".x-{host}-{os.getpid()}-{replacing._start_of(os.getpid())}-{mark}.part.mp4",  # alive
        f".x-{process}-{mark}.part.mp4",  # of an earlier version, or of somebody else
        ".masks-old",
        ".x.part",
        "results.json",
        f"x-{host}-{process}-{start}-{mark}.part.mp4",
    ]
    for name in kept:
        (tmp_path / name).touch()
    deeper = tmp_path / "deeper" / part.name
    deeper.parent.mkdir()
    deeper.touch()
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    fill(outside, {"kept.txt": b"kept"})
    link = tmp_path / part.name.replace(".x-", ".y-")
    link.symlink_to(outside)
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "deeper"])
    assert deeper.exists()
    assert found_in(outside) == {"kept.txt": b"kept"}


def test_a_process_of_the_same_number_that_began_later_is_another_one(tmp_path: Path) -> None:
    host = replacing.owner().partition("-")[0]
    parent = os.getppid()
    earlier = tmp_path / f".x-{host}-{parent}-1-abcd0123.part.mp4"
    running = tmp_path / f".x-{host}-{parent}-{replacing._start_of(parent)}-abcd0123.part.mp4"
    earlier.touch()
    running.touch()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [running]


# Predict ---------------------------------------------------------------------------------------


def test_a_run_that_is_killed_while_it_replaces_another_leaves_one_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_frames(tmp_path / "squares", length=6)
    longer = save_frames(tmp_path / "longer", length=8)
    seen = set()
    for fatal in range(1, 200, 2):
        folder = tmp_path / f"run{fatal}"
        config = QUIET.__class__(overlay=False, save=("csv", "davis"))
        predict_into(loaded(), source, folder, config)
        disk = Disk(folder, fatal)
        with dying(disk, monkeypatch):
            predict_into(loaded(), longer, folder, QUIET)
        with monkeypatch.context() as later:
            later.setattr(replacing, "owner", lambda: "00000000-1-1")
            later.setattr(replacing, "_is_dead", lambda *_: True)
            assert may_be_whole(folder)
            remove_leftovers(folder)
        meta, results = read_meta(folder / "meta.json"), read_results(folder / "results.json")
        assert {len(result["segmentations"]) for result in results} == {meta.length}
        names = {path.name for path in folder.iterdir()}
        expected = {"results.json", "meta.json"}
        assert names == (expected | {"tracks.csv", "davis"} if meta.length == 6 else expected)
        seen.add(meta.length)
        if disk.calls < fatal:
            break
    assert seen == {6, 8}


def test_a_file_appears_with_its_content_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    fill(folder, {"a.json": b"old"})
    disk = Disk(folder)
    with dying(disk, monkeypatch), atomic_path(folder / "a.json") as part:
        part.write_text(json.dumps("new"))
    disk.after_power_failure(tmp_path / "after")
    assert found_in(tmp_path / "after") == {"a.json": b'"new"'}
