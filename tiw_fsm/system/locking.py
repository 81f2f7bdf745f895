"""The lock that a runner holds for its life: flock, which the operating system lets go of however a process ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiw_fsm.errors import disk_errors
from tiw_fsm.system import durable

PATIENCE = 0.2
"""Seconds a runner waits: whoever looks whether a run is alive shares the lock for an instant."""
PAUSE = 0.02


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold the lock for the length of the block, alone; the value of the block is False if another process does.

    Raises:
        DiskRefused: the lock cannot be made.
        StateDamaged: no plain file stands in its place.
    """
    durable.require_plain(path)
    with disk_errors("locking", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (mine := _take(path, descriptor, fcntl.LOCK_EX)) and time.monotonic() < deadline:
            time.sleep(PAUSE)
        yield mine
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock. Those who look do not stand in each other's way, and write nothing.

    Raises:
        DiskRefused: it cannot be read.
        StateDamaged: no plain file stands in the lock's place.
    """
    durable.require_plain(path)
    if not path.exists():
        return False
    with disk_errors("reading", path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return not _take(path, descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _take(path: Path, descriptor: int, how: int) -> bool:
    with disk_errors("locking", path):
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
