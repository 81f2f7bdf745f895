"""Logs for people, by which nothing is decided: one that has grown long begins anew, and the one before it is kept."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LARGEST = 16 << 20
"""Bytes beyond which a log begins anew: so two of them have at most twice as many, however long the run."""


def predecessor(path: Path) -> Path:
    """What was in the log before it began anew."""
    return path.with_stem(f"{path.stem}.old")


def begin_anew_if_long(path: Path) -> None:
    """Make room at ``path``, if what is there is long. Should the disk not let it, the log goes on as it is."""
    with suppress(OSError):
        if path.lstat().st_size > LARGEST:
            os.replace(path, predecessor(path))
