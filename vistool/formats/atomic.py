"""Files and folders that appear whole or not at all: written under a temporary name, renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A free name beside `path`, with its suffix, whose file becomes `path` on a clean exit.

    Any exception, Ctrl-C included, removes it and leaves what stood at `path` as it was.
    The folder is made if it is not there. An OSError names the file; that of a full disk would not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that becomes `path` on a clean exit, and else is gone.

    Raises: OSError if `path` is there by then with something in it.
    """
    temporary = _temporary(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        with contextlib.suppress(OSError):
            path.rmdir()  # not every system renames to an empty folder
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _temporary(path: Path) -> Path:
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.stem}-{unique}.part{path.suffix}")
