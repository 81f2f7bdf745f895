"""Real cgroups, where this machine lets us make one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def made_cgroup(parents: Iterable[Path], limit: Callable[[Path], None]) -> Iterator[Path]:
    """A cgroup below the first parent that takes one, and the ``limit`` written to it; else the test is skipped."""
    for parent in parents:
        folder = parent / f"tiw_fsm_test_{os.getpid()}"
        try:
            folder.mkdir()
            limit(folder)
        except OSError:
            if folder.exists():
                folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no cgroup with such a limit can be made here")
