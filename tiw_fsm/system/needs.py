"""What the system has to have, looked at before anything else is imported, and which packages it has."""

from __future__ import annotations

import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path


def _has_locks() -> bool:
    try:
        return find_spec("fcntl") is not None
    except ValueError:  # somebody has put something else in its place
        return False


NEEDED: dict[str, Callable[[], bool]] = {
    "file locks (Python's fcntl)": _has_locks,
    "the signal SIGHUP": lambda: hasattr(signal, "SIGHUP"),
    "/proc": Path("/proc/self/stat").exists,
}
"""By their names, how they are looked for."""


def lacking() -> str | None:
    """One sentence on what is missing here; None where nothing is."""
    missing = [name for name, is_there in NEEDED.items() if not is_there()]
    if not missing:
        return None
    return (
        f"tiw-fsm needs {' and '.join(missing)}, which this system lacks. It was tried on Linux alone: on Windows run "
        "it in WSL 2, in a container mount /proc."
    )


def installed(package: str) -> bool:
    """Whether a package can be imported; a mere folder of that name is none."""
    found = find_spec(package)
    return found is not None and found.origin is not None
