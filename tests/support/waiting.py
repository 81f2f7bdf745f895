"""Waiting for something that must come to be."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(what: str, holds: Callable[[], object], seconds: float, pause: float = 0.05) -> None:
    """Until ``holds``, which must be within ``seconds``; it is looked at every ``pause`` seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(pause)
