"""Every error a user can meet, and the exit code it becomes.

TiwFsmError
├── UsageProblem        2   bad flags, config, data or warm-start checkpoint
├── RunHeld             3   another runner holds this run
├── StateDamaged        4   state or checkpoint damaged beyond repair, or newer than this tool
├── RunChanged          5   config, data, code or torch differ from what the run began with
├── Interrupted        75   asked to stop, all progress saved
├── EngineCrashed      70   a child died; the controller counts it, waits, and goes on
└── DiskRefused        74   full, read-only or failing disk
    └── MemoryRefused  74   memory does not suffice

Foreign errors are translated once, where they enter (``raise ... from exc``). Messages say what to do next.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import ClassVar


class ExitCode(IntEnum):
    PASSED = 0
    NOT_PASSED = 1
    USAGE = 2
    HELD = 3
    DAMAGED = 4
    CHANGED = 5
    BUG = 70
    DISK = 74
    INTERRUPTED = 75


class TiwFsmError(Exception):
    """Base of all errors this package raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.BUG


class UsageProblem(TiwFsmError):
    """What the user gave cannot be used. Carries every problem found, each with its remedy."""

    exit_code = ExitCode.USAGE

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class RunHeld(TiwFsmError):
    """Another process is running this run."""

    exit_code = ExitCode.HELD


class StateDamaged(TiwFsmError):
    """State or a checkpoint it names cannot be trusted; nothing was overwritten."""

    exit_code = ExitCode.DAMAGED


class RunChanged(TiwFsmError):
    """What determines the weights differs from what the run began with."""

    exit_code = ExitCode.CHANGED


class DiskRefused(TiwFsmError):
    """The operating system refused to store something."""

    exit_code = ExitCode.DISK


class MemoryRefused(DiskRefused):
    """The operating system refused this process memory: like a full disk, it costs nothing but time."""


class EngineCrashed(TiwFsmError):
    """The engine's child died, or reported an error of its own.

    Attributes:
        killed_by: what ended it, one of ``values.death.Killer``.
    """

    def __init__(self, message: str, *, killed_by: str = "own") -> None:
        super().__init__(message)
        self.killed_by = killed_by


class Interrupted(TiwFsmError):
    """Asked to stop; all progress is saved."""

    exit_code = ExitCode.INTERRUPTED


@contextmanager
def disk_errors(doing: str, path: Path) -> Iterator[None]:
    """Translate an OSError met while ``doing`` something to ``path`` into DiskRefused."""
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or str(exc)
        if exc.errno == errno.ENOMEM:
            raise MemoryRefused(f"{doing} {path} failed: {reason}. Nothing committed was lost; run again.") from exc
        raise DiskRefused(
            f"{doing} {path} failed: {reason}. Nothing committed was lost; mend the disk and run again."
        ) from exc
