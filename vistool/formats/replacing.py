"""Several files of a folder replaced in one step, and what killed processes left behind.

New files are written into a hidden folder beside the old ones. Renaming that folder to a commit is
the one step. Before it, the old files are there. After it, the new ones are: whoever reads or
writes the folder next finishes the moves that a kill or a power failure interrupted.

Temporary names carry their owner, by host, process id and start time, so that what a dead process
left can be told from what another one is writing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath

from vistool.errors import DataError

LONGEST_STEM = 40  # characters that are kept in a temporary name, which may have 255 bytes
REMOVED = ".removed"  # in a commit: what is to go besides, a line each
OWNER = r"([0-9a-f]{8})-(\d{1,10})-(\d{1,20})-[0-9a-z_]{8}"
TEMPORARY = re.compile(rf"\.(?:(?:new|masks)-{OWNER}|.*-{OWNER}\.part(?:\.\w+)*)", re.DOTALL)
COMMITTED = re.compile(rf"\.commit-{OWNER}")


def temporary_name(path: Path) -> Path:
    """A free name beside `path`, with its suffix."""
    return path.with_name(
        f".{path.stem[:LONGEST_STEM]}-{owner()}-{secrets.token_hex(4)}.part{path.suffix}"
    )


@contextlib.contextmanager
def replaced_together(folder: Path, removed: Iterable[str] = ()) -> Iterator[Path]:
    """A new folder whose files replace those of the same names in `folder`, in one step.

    They do so on a clean exit; any exception leaves `folder` as it was.

    Args: removed: what goes in the same step, relative to `folder`, with slashes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settle(folder)
    new = folder / f".new-{owner()}-{secrets.token_hex(4)}"
    try:
        new.mkdir()
        yield new
        (new / REMOVED).write_bytes(b"".join(os.fsencode(name) + b"\0" for name in removed))
        for file in new.iterdir():
            sync(file)
        sync(new)
        commit = new.with_name(new.name.replace(".new", ".commit"))
        new.rename(commit)
        sync(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    _finish(commit)


def settle(folder: Path) -> None:
    """Finish the replacement that a process was at when it ended.

    Raises: DataError if that is needed, but the folder cannot be written to.
    """
    try:
        commits = [path for path in folder.iterdir() if _is_left(path, COMMITTED)]
    except OSError:
        return  # whoever wants something of it will tell
    for commit in commits:
        try:
            _finish(commit)
        except OSError as error:
            raise DataError(
                f"{folder}: its files were being replaced when a process ended, and that cannot "
                f"be finished: {error.strerror}",
                hint="make the folder writable",
            ) from None


def remove_leftovers(folder: Path) -> None:
    """Take away the temporary files and folders that processes of this machine left when they died.

    Nothing else: no name that this program does not make, nothing of a process that may be alive.
    """
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            if not _is_left(path, TEMPORARY):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


def sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk before anything after it."""
    if os.name != "posix" and path.is_dir():
        return  # not possible there
    number = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not known to this file system
            raise
    finally:
        os.close(number)


def _finish(commit: Path) -> None:
    """Move what is committed to its place; may be repeated from any point."""
    folder = commit.parent
    removed = commit / REMOVED
    if removed.exists():  # else all of it is moved
        for name in removed.read_bytes().split(b"\0"):
            _remove(folder, os.fsdecode(name))
        for file in commit.iterdir():
            if file.name != REMOVED:
                file.replace(folder / file.name)
        sync(folder)  # before it is forgotten what was to be done
        removed.unlink()
    commit.rmdir()


def _remove(folder: Path, name: str) -> None:
    """Remove a file, and the folders below `folder` that it leaves empty; never through a link."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        return
    parents = [folder.joinpath(*parts[:depth]) for depth in range(len(parts) - 1, 0, -1)]
    if any(parent.is_symlink() for parent in parents):
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        folder.joinpath(*parts).unlink()
    for parent in parents:
        with contextlib.suppress(OSError):  # something else is in it
            parent.rmdir()


def _is_left(path: Path, names: re.Pattern[str]) -> bool:
    """Has it a name of this form, whose process is of this machine and is no more?"""
    match = names.fullmatch(path.name)
    if match is None:
        return False
    host, process, start = (part for part in match.groups() if part is not None)
    if f"{host}-{process}-{start}" == owner():
        return names is COMMITTED  # this process failed to finish it
    return host == _host() and _is_dead(int(process), start)


def owner() -> str:
    """Host, process and its start, as they stand in temporary names."""
    return f"{_host()}-{os.getpid()}-{_start_of(os.getpid())}"


@cache
def _host() -> str:
    """This machine; in a container, whose processes are counted apart, that container."""
    name = socket.gethostname()
    with contextlib.suppress(OSError, AttributeError):
        name += os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - a name, not a path
    return hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]


def _start_of(process: int) -> str:
    """When a process started, in the system's ticks; 0 where that is not said."""
    try:
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[19].decode()
    except (OSError, IndexError):
        return "0"


def _is_dead(process: int, start: str) -> bool:
    """False where it is not known."""
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)  # asks whether there is one
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return start != "0" and _start_of(process) not in (start, "0")
