"""Processes that an earlier one left behind, known by a mark in their environment."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

PATIENCE = 3.0
"""Seconds in which one that has lost its parent may end by itself; as many again once it is killed."""
PAUSE = 0.05


def end(name: str, value: str) -> None:
    """See that no process goes on in whose environment ``name`` is ``value``, but for this one. Where the system does
    not show the environment of processes (outside of Linux), none is found.

    Raises:
        TimeoutError: one goes on though it was killed, as one does that waits for a file system.
    """
    begun = time.monotonic()
    while found := _bearing(f"{name}={value}".encode()):
        if (waited := time.monotonic() - begun) > 2 * PATIENCE:
            raise TimeoutError(f"process {found[0]} goes on though it was killed; see what it waits for")
        if waited > PATIENCE:
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
