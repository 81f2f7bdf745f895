"""Processes, looked at from outside."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path


def process_state(pid: int) -> str | None:
    """Linux' letter for what a process does, None when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None


def children(pid: int) -> list[int]:
    """The processes that a process has started, and that it has not waited for."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


Tiw = Callable[..., subprocess.CompletedProcess[str]]
"""The command line as a real process: called with a working root and arguments."""
