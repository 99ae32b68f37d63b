"""vistool as on a system without POSIX: run by a program of its own, with this as `sitecustomize`.

To the modules of vistool, `os` and `signal` have no names that Windows does not have, and modules
that are not there cannot be imported. The standard library and other packages keep all of theirs.
"""

from __future__ import annotations

import builtins
import enum
import importlib.machinery
import os
import signal
import types
from typing import Any

ABSENT = frozenset(("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"))
SIGNALS = ("SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM")
OTHERS = """
Handlers SIG_DFL SIG_IGN NSIG default_int_handler getsignal raise_signal set_wakeup_fd signal
strsignal valid_signals
"""
KEPT = frozenset({*SIGNALS, *OTHERS.split()})
# Of `os`: its documentation says "Availability: Unix" of these.
UNIX = """
O_NONBLOCK O_NOFOLLOW O_DIRECTORY O_CLOEXEC O_SYNC O_DSYNC O_NOCTTY WNOHANG chown chroot ctermid
fchdir fchmod fchown fdatasync fork forkpty fpathconf fstatvfs getegid geteuid getgid getgroups
getloadavg getpgid getpgrp getpriority getsid getuid killpg lchown lockf mkfifo mknod nice openpty
pathconf pipe2 posix_fadvise posix_fallocate posix_spawn pread preadv pwrite readv register_at_fork
sched_getaffinity sched_setaffinity sched_yield sendfile setegid seteuid setgid setpgid setpriority
setsid setuid statvfs sync sysconf tcgetpgrp uname wait wait3 wait4 writev
"""
POSIX = frozenset(UNIX.split())


def _without(module: types.ModuleType, **changed: Any) -> types.ModuleType:
    proxy = types.ModuleType(module.__name__)
    names = vars(module)
    if module is os:
        proxy.__dict__.update({name: names[name] for name in names.keys() - POSIX})
    else:
        proxy.__dict__.update({name: names[name] for name in names.keys() & KEPT})
    proxy.__dict__.update(changed)
    return proxy


PROXIES = {
    "os": _without(os, name="nt"),
    "signal": _without(
        signal, Signals=enum.IntEnum("Signals", {name: getattr(signal, name) for name in SIGNALS})
    ),
}


def _import(name: str, *arguments: Any, **options: Any) -> Any:
    if name.partition(".")[0] in ABSENT:
        raise ImportError(f"no module {name} on this system")
    found = builtins.__import__(name, *arguments, **options)
    return PROXIES.get(name, found)


_original = importlib.machinery.SourceFileLoader.exec_module


def _exec_module(loader: Any, module: types.ModuleType) -> None:
    if module.__name__.partition(".")[0] == "vistool":
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
    _original(loader, module)


if __name__ == "sitecustomize":  # and not where doctests are looked for
    importlib.machinery.SourceFileLoader.exec_module = _exec_module  # type: ignore[method-assign, assignment]
