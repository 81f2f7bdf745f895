"""Processes that an earlier one left behind, known by a mark in their environment."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

PATIENCE = 3.0
"""Seconds in which one that has lost its parent may end by itself."""
PAUSE = 0.05


def end(name: str, value: str) -> None:
    """See that no process goes on in whose environment ``name`` is ``value``, but for this one. Where the system does
    not show the environment of processes (outside of Linux), none is found."""
    deadline = time.monotonic() + PATIENCE
    while found := _bearing(f"{name}={value}".encode()):
        if time.monotonic() > deadline:
            for pid in found:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(PAUSE)


def _bearing(mark: bytes) -> list[int]:
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        pid = int(environment.parent.name)
        with suppress(OSError):  # another user's, or one that has ended meanwhile
            if pid != os.getpid() and mark in environment.read_bytes().split(b"\0"):
                found.append(pid)
    return found
