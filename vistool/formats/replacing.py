"""Replace several files of a folder in one step, and remove temporary files of dead processes.

New files are written into a hidden folder beside the old ones. The single step is the renaming of
that folder to a commit. Before it, the old files are valid; after it, the new ones. The next reader
or writer of the folder finishes the moves if a kill or a power failure interrupted them.

Temporary names contain the host, process id and start time of their owner. This distinguishes files
of a dead process from those that another process is writing.
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
REMOVED = ".removed"  # in a commit: the names of files to remove, separated by zero bytes
OWNER = r"([0-9a-f]{8})-(\d{1,10})-(\d{1,20})-[0-9a-z_]{8}"
TEMPORARY = re.compile(rf"\.(?:(?:new|masks)-{OWNER}|.*-{OWNER}\.part(?:\.\w+)*)", re.DOTALL)
COMMITTED = re.compile(rf"\.commit-{OWNER}")


def temporary_name(path: Path) -> Path:
    """A free temporary name beside `path`, with the same suffix."""
    return path.with_name(
        f".{path.stem[:LONGEST_STEM]}-{owner()}-{secrets.token_hex(4)}.part{path.suffix}"
    )


@contextlib.contextmanager
def replaced_together(folder: Path, removed: Iterable[str] = ()) -> Iterator[Path]:
    """A new folder whose files replace those of the same names in `folder`, in one step.

    This happens on success; any exception leaves `folder` unchanged.

    Args: removed: files to remove in the same step, relative to `folder`, with slashes.
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
    """Finish the replacement of a process that died during it.

    Raises: DataError if this is necessary, but the folder is not writable.
    """
    try:
        commits = [path for path in folder.iterdir() if _is_left(path, COMMITTED)]
    except OSError:
        return  # the next access to the folder reports it
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
    """Remove the temporary files and folders of dead processes of this machine.

    Other files stay: those with names that vistool does not make, and those of processes that may
    be alive.
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
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    if os.name != "posix" and path.is_dir():
        return  # not possible on such systems
    number = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not supported by the file system
            raise
    finally:
        os.close(number)


def _finish(commit: Path) -> None:
    """Move the files of a commit to their places; may be repeated after an interruption."""
    folder = commit.parent
    removed = commit / REMOVED
    if removed.exists():  # else all files have been moved
        for name in removed.read_bytes().split(b"\0"):
            _remove(folder, os.fsdecode(name))
        for file in commit.iterdir():
            if file.name != REMOVED:
                file.replace(folder / file.name)
        sync(folder)  # before the list of moves is deleted
        removed.unlink()
    commit.rmdir()


def _remove(folder: Path, name: str) -> None:
    """Remove a file and the empty parent folders below `folder`; links are not followed."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        return
    parents = [folder.joinpath(*parts[:depth]) for depth in range(len(parts) - 1, 0, -1)]
    if any(parent.is_symlink() for parent in parents):
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        folder.joinpath(*parts).unlink()
    for parent in parents:
        with contextlib.suppress(OSError):  # it is not empty
            parent.rmdir()


def _is_left(path: Path, names: re.Pattern[str]) -> bool:
    """Does a name have this form, with a dead process of this machine as its owner?"""
    match = names.fullmatch(path.name)
    if match is None:
        return False
    host, process, start = (part for part in match.groups() if part is not None)
    if f"{host}-{process}-{start}" == owner():
        return names is COMMITTED  # this process failed to finish it
    return host == _host() and _is_dead(int(process), start)


def owner() -> str:
    """Host, process id and start time of this process, as in temporary names."""
    return f"{_host()}-{os.getpid()}-{_start_of(os.getpid())}"


@cache
def _host() -> str:
    """A code for this machine, or for this container, which has its own process ids."""
    name = socket.gethostname()
    with contextlib.suppress(OSError, AttributeError):
        name += os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - a name, not a path
    return hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]


def _start_of(process: int) -> str:
    """The start time of a process in the system's ticks; 0 if it is unknown."""
    try:
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[19].decode()
    except (OSError, IndexError):
        return "0"


def _is_dead(process: int, start: str) -> bool:
    """Whether a process has ended; False if it is unknown."""
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)  # only tests whether it exists
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return start != "0" and _start_of(process) not in (start, "0")
