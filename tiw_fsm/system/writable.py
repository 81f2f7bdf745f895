"""Whether anything can be written to a place, found out before there is anything to write."""

from __future__ import annotations

import os
from pathlib import Path

from tiw_fsm import ownership


def unwritable(path: Path, remedy: str = "give another --repo-root or --run-root") -> str | None:
    """Why nothing can be written to ``path``, which need not exist yet; None if it can."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK) and os.statvfs(there).f_blocks:
        return None
    if not there.is_dir():
        return f"{path}: {'it' if there == path else there} is no folder; {remedy}"
    whose = "" if os.access(there, os.W_OK | os.X_OK) else f" {ownership.shut_out(there)}"
    return f"{path}: {there} cannot be written to; mend its permissions, or {remedy}.{whose}"
