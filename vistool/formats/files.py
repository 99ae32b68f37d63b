"""Atomic writing of files and folders, free names, JSON decoding and checksums."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from vistool.errors import DataError, UsageError
from vistool.formats.names import as_file_name
from vistool.formats.replacing import sync, temporary_name

T = TypeVar("T")
# Exceptions of msgspec for text that it refuses. ValueError: bytes that are not UTF-8.
NOT_TAKEN = (msgspec.DecodeError, ValueError, RecursionError)


@contextlib.contextmanager
def atomic_path(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """A temporary name beside `path`, with the same suffix; its file becomes `path` on success.

    Any exception, Ctrl-C included, removes the temporary file and leaves an existing `path`
    unchanged. A missing folder is created. An OSError names `path`, also if the disk is full.

    Args: lasting: wait until the file is on the disk; False is faster for many files.
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
    """A temporary folder beside `path` that becomes `path` on success and is removed otherwise.

    If `path` exists, its files are replaced by new ones of the same name and others are kept. An
    OSError names `path`.
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
    """Rename `new` to `path`, after moving into it what only the old folder has."""
    if path.is_symlink() or not path.is_dir():
        new.rename(path)  # fails if `path` is a file or a link
        return
    # Not a temporary name: those are removed after a kill, but this folder has the user's files.
    old = path.with_name(f".{path.name}-{secrets.token_hex(4)}.old")
    moved: list[tuple[Path, Path]] = []
    path.rename(old)
    try:
        new.rename(path)
        _move_missing(old, path, moved)
    except BaseException:
        for item, place in reversed(moved):
            with contextlib.suppress(FileNotFoundError):  # the last one may not have moved
                place.rename(item)
        if not new.exists():
            path.rename(new)
        old.rename(path)
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


def numbered(name: str) -> Iterator[str]:
    """The name itself, then the name with "-2", "-3" and so on.

    >>> list(itertools.islice(numbered("street"), 3))
    ['street', 'street-2', 'street-3']
    """
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def refuse_existing(path: Path, *, exist_ok: bool) -> None:
    """Raises: UsageError if an output file exists and must not be replaced."""
    if os.path.lexists(path) and not exist_ok:
        raise UsageError(
            f"{path}: is there already",
            hint="--exist-ok (from Python exist_ok=True) replaces it; another name keeps it",
        )


def free_path(path: Path, *, exist_ok: bool) -> Path:
    """The path, with "-2", "-3" and so on before its suffix if it exists.

    Args: exist_ok: return the path itself even if it exists.
    """
    if exist_ok:
        return path
    names = (path.with_name(f"{stem}{path.suffix}") for stem in numbered(path.stem))
    return next(name for name in names if not os.path.lexists(name))


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decode_json(data: bytes, kind: Any, where: str) -> Any:
    """Decode JSON text as `kind`; its `msgspec.Raw` parts stay undecoded until `plain` is called.

    Text with NaN, Infinity or names that are not UTF-8 is decoded completely, to plain values that
    may have another type than `kind`; the caller must check.
    Raises: DataError that begins with `where`.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{where}: {error}") from None
    except NOT_TAKEN as error:
        reason = str(error)
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        pass
    raise DataError(f"{where}: not a readable JSON file: {reason}")


def read_file(path: Path, what: str = "file") -> bytes:
    """The bytes of a file. Raises: DataError with the reason. Args: what: the kind of file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such {what}") from None
    except (OSError, ValueError) as error:  # ValueError: an impossible name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: cannot be read: {reason}") from None


def read_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file as `kind`. Raises: DataError if it is missing, damaged or different."""
    data = read_file(path)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: {error}") from None
    except NOT_TAKEN as error:
        reason = str(error)
    try:  # it may have a name that is not UTF-8
        return msgspec.convert(json.loads(data, parse_constant=_refuse_constant), kind)
    except (ValueError, RecursionError, msgspec.ValidationError):
        raise DataError(f"{path}: not a readable JSON file: {reason}") from None


def plain(value: Any) -> Any:
    """The value itself, decoded if it is still JSON text. Raises: DataError."""
    if not isinstance(value, msgspec.Raw):
        return value
    try:
        return msgspec.json.decode(value)
    except NOT_TAKEN as error:
        reason = str(error)
    try:
        return json.loads(bytes(value))
    except (ValueError, RecursionError):
        raise DataError(f"not readable JSON: {reason}") from None


def encode_json(value: Any, *, indented: bool = False) -> bytes:
    """JSON text of a value; bytes of a name that are not UTF-8 become \\udcXX, as in Python."""
    try:
        text = msgspec.json.encode(value)
    except UnicodeEncodeError:
        simple = msgspec.to_builtins(value, builtin_types=(msgspec.Raw,))
        indent = 2 if indented else None
        return json.dumps(simple, default=plain, indent=indent).encode("ascii")
    return msgspec.json.format(text) if indented else text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def path_as_text(path: Path) -> str:
    """A path as text for JSON; every byte of it that is not UTF-8 becomes \\udcXX."""
    return str(path).encode(errors="backslashreplace").decode()


def text_as_path(text: str) -> Path:
    """The path that `path_as_text` made a text of.

    >>> text_as_path(path_as_text(Path("caf\\udce9.mp4"))) == Path("caf\\udce9.mp4")
    True
    """
    return Path(re.sub(r"\\udc([89a-f][0-9a-f])", lambda m: chr(0xDC00 + int(m[1], 16)), text))


def new_run_folder(parent: Path, stem: str, *, exist_ok: bool) -> Path:
    """Make and return `parent/stem`, with "-2", "-3" and so on added if it exists.

    Args: stem: any text, changed by `as_file_name`; exist_ok: return an existing `parent/stem`.
    Raises: DataError if that is a file.
    """
    stem = as_file_name(stem)
    if parent.is_file():
        raise UsageError(f"{parent}: is a file", hint="name a folder; results get one below it")
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
