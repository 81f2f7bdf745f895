"""What ended a process that nobody had asked to end: the journal says it, and what follows depends on it."""

from __future__ import annotations

from enum import StrEnum


class Killer(StrEnum):
    """What ended it."""

    MEMORY = "memory"
    """There was not enough: the kernel's memory killer took it, or it was refused some and ended."""
    OWN = "own"
    """Itself: an error, a signal that a program earns, or no sign of life for too long."""
    OUTSIDE = "outside"
    """A signal from elsewhere, which says nothing of what it was doing."""
    UNKNOWN = "unknown"
    """SIGKILL where the kernel does not say whether its memory killer sent it, or a start that was refused."""
