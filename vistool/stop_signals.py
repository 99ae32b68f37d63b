"""The signals that ask a process to end, for commands, trainings and their data workers alike."""

from __future__ import annotations

import signal

# What terminals, schedulers and `torchrun` send to all processes of a job that is to stop, as far
# as the system has them.
STOP_SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if name in signal.Signals.__members__
)
