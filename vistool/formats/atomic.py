"""Files and folders that appear whole or not at all: written under a temporary name, renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from vistool.formats.replacing import sync, temporary_name


@contextlib.contextmanager
def atomic_path(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """A free name beside `path`, with its suffix, whose file becomes `path` on a clean exit.

    Any exception, Ctrl-C included, removes it and leaves what stood at `path` as it was.
    The folder is made if it is not there. An OSError names `path`; that of a full disk would not.

    Args: lasting: wait until it is on the disk; False for one of many.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        if lasting:
            sync(temporary)
        temporary.replace(path)
        if lasting:
            sync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name_place(error, path, temporary)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that becomes `path` on a clean exit, and else is gone.

    Of a folder that is at `path` by then, what has another name stays. An OSError names `path`.
    """
    temporary = temporary_name(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _replace_folder(path, temporary)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _name_place(error, path, temporary)
        raise


def _replace_folder(path: Path, new: Path) -> None:
    """Let `new` become `path`, and take over what only the folder there has."""
    if path.is_symlink() or not path.is_dir():
        new.rename(path)  # fails if there is a file, or a link
        return
    # Not a name that is taken for what a killed process left: it holds what was not made here.
    old = path.with_name(f".{path.name}-{secrets.token_hex(4)}.old")
    moved: list[tuple[Path, Path]] = []
    path.rename(old)
    try:
        new.rename(path)
        _move_missing(old, path, moved)
    except BaseException:
        for item, place in reversed(moved):
            with contextlib.suppress(FileNotFoundError):  # the last one, perhaps
                place.rename(item)
        if not new.exists():
            path.rename(new)
        old.rename(path)
        raise
    shutil.rmtree(old)


def _move_missing(source: Path, target: Path, moved: list[tuple[Path, Path]]) -> None:
    """Move what is in one folder and not in another from the one to the other; notes each."""
    for item in list(source.iterdir()):
        place = target / item.name
        if not os.path.lexists(place):
            moved.append((item, place))
            item.rename(place)
        elif item.is_dir() and not item.is_symlink() and place.is_dir():
            _move_missing(item, place, moved)


def _name_place(error: BaseException, path: Path, temporary: Path) -> None:
    """Let an OSError that names nothing, or what is temporary, name the place that it is about."""
    if isinstance(error, OSError):
        named = error.filename
        if named is None or Path(os.fsdecode(named)).is_relative_to(temporary):
            error.filename, error.filename2 = str(path), None
