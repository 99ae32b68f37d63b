"""Atomic writing of files and folders, free names, JSON decoding and checksums."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from vistool.errors import DataError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, with the same suffix; its file becomes `path` on success.

    Any exception, Ctrl-C included, removes the temporary file and leaves an existing `path`
    unchanged. A missing folder is created. An OSError names `path`, also if the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name_place(error, path, temporary)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` on success and is removed otherwise.

    If `path` exists, its files are replaced by new ones of the same name and others are kept. An
    OSError names `path`.
    """
    temporary = _temporary(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _replace_folder(path, temporary)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _name_place(error, path, temporary)
        raise


def _replace_folder(path: Path, new: Path) -> None:
    """Rename `new` to `path`, after moving into it what only the old folder has."""
    if path.is_symlink() or not path.is_dir():
        new.rename(path)  # fails if `path` is a file or a link
        return
    old = _temporary(path)
    moved: list[tuple[Path, Path]] = []
    try:
        _move_missing(path, new, moved)
        path.rename(old)
        new.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        if new.exists():
            for item, place in reversed(moved):
                with contextlib.suppress(FileNotFoundError):  # the last one may not have moved
                    place.rename(item)
        raise
    shutil.rmtree(old)


def _move_missing(source: Path, target: Path, moved: list[tuple[Path, Path]]) -> None:
    """Move the items that `target` lacks from `source` to it, and append each to `moved`."""
    for item in list(source.iterdir()):
        place = target / item.name
        if not os.path.lexists(place):
            moved.append((item, place))
            item.rename(place)
        elif item.is_dir() and not item.is_symlink() and place.is_dir():
            _move_missing(item, place, moved)


def _name_place(error: BaseException, path: Path, temporary: Path) -> None:
    """Set the file name of an OSError to `path` if it has none or a temporary one."""
    if isinstance(error, OSError):
        named = error.filename
        if named is None or Path(os.fsdecode(named)).is_relative_to(temporary):
            error.filename, error.filename2 = str(path), None


def _temporary(path: Path) -> Path:
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.stem}-{unique}.part{path.suffix}")


def numbered(name: str) -> Iterator[str]:
    """The name itself, then the name with "-2", "-3" and so on.

    >>> list(itertools.islice(numbered("street"), 3))
    ['street', 'street-2', 'street-3']
    """
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decode_json(data: bytes, kind: Any, where: str) -> Any:
    """Decode JSON text as `kind`; its `msgspec.Raw` parts stay undecoded until `plain` is called.

    Text with NaN or Infinity is decoded completely, to plain values that may have another type than
    `kind`; the caller must check. Raises: DataError that begins with `where`.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{where}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error)
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        pass
    raise DataError(f"{where}: not a readable JSON file: {reason}")


def plain(value: Any) -> Any:
    """The value itself, decoded if it is still JSON text."""
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value


def path_as_text(path: Path) -> str:
    """A path as text for JSON; every byte of it that is not UTF-8 becomes \\udcXX."""
    return str(path).encode(errors="backslashreplace").decode()


def new_run_folder(parent: Path, stem: str, *, exist_ok: bool) -> Path:
    """Make and return `parent/stem`, with "-2", "-3" and so on added if it exists.

    Args: exist_ok: return an existing folder `parent/stem`. Raises: DataError if it is a file.
    """
    parent.mkdir(parents=True, exist_ok=True)
    if exist_ok:
        folder = parent / stem
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder}: is a file, not a folder")
        folder.mkdir(exist_ok=True)
        return folder
    for name in numbered(stem):
        folder = parent / name
        with contextlib.suppress(FileExistsError):
            folder.mkdir()  # fails if it exists, so two processes never get the same
            return folder
    raise AssertionError("unreachable")
