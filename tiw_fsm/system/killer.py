"""What killed a process: told from its exit status, its last words, and the counters of the kernel's memory killer."""

from __future__ import annotations

import errno
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

from tiw_fsm.system import cgroups
from tiw_fsm.values.death import Killer

EARNED = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
)
"""Signals that a program brings upon itself."""
SHELL = 128
"""Shells, and our reaper, say 128 + n of a command that signal n ended."""
SHORTAGE = re.compile(
    r"out of memory|OutOfMemoryError|MemoryError|can't allocate memory|cannot allocate memory|not enough memory|"
    r"unable to allocate|memory allocation (still )?failed|could not create a (primitive|memory)|bad_alloc|"
    r"failed to map segment|_STATUS_ALLOC_FAILED|can't start new thread|error return without exception set",
    re.IGNORECASE,
)
"""How torch, oneDNN, CUDA, numpy, HDF5, OpenBLAS, the dynamic loader and Python say that memory did not suffice."""
LEAST_ADDRESSES = 256 << 20
"""Bytes of address space without which numpy ends the process, with the exit code of a run that did not pass."""
OF_ITS_OWN = re.compile(r"exitcode\s*: -(\d+) \(pid")
"""How torchrun says which signal ended the process that it had started."""
NO_ROOM = frozenset({errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE})
"""Why the system may not start a process now, although it could another time."""
REMEDY = (
    "lower batch_size_per_gpu in the stage's YAML file, or preload_ratio in training.yaml so that fewer frames are "
    "held, or give it more memory (ulimit -v, the job's or the container's limit)"
)
"""What helps against a shortage of memory, to end a sentence with."""


def addresses_suffice() -> bool:
    """Whether this process may have as much address space as it needs to begin (``ulimit -v``)."""
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    return allowed == resource.RLIM_INFINITY or allowed >= LEAST_ADDRESSES


def speaks_of_memory(text: str) -> bool:
    """Whether an error's text says that memory did not suffice."""
    return SHORTAGE.search(text) is not None


def is_shortage(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, is that memory did not suffice."""
    if error is None:
        return False
    if isinstance(error, OSError) and error.errno is not None:
        found = error.errno == errno.ENOMEM
    else:
        found = isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError | ImportError | OSError) and speaks_of_memory(str(error))
        )
    return found or is_shortage(error.__cause__)


def signal_of(status: int) -> signal.Signals | None:
    """The signal that ended a process with this exit status, if one did."""
    number = -status if status < 0 else status - SHELL
    return signal.Signals(number) if number in set(signal.Signals) else None


def judge(status: int, words: str, kills: bool | None) -> Killer:
    """What killed a process that ended before its work was done.

    Args:
        words: the last ones of its output.
        kills: as ``MemoryKills.seen`` says.
    """
    number = signal_of(status)
    if number is None and (below := OF_ITS_OWN.search(words)):
        number = signal_of(-int(below[1]))
    if number == signal.SIGKILL:
        return Killer.UNKNOWN if kills is None else Killer.MEMORY if kills else Killer.OUTSIDE
    if number is not None and number not in EARNED:
        return Killer.OUTSIDE
    return Killer.MEMORY if speaks_of_memory(words) else Killer.OWN


class MemoryKills:
    """Watches how often the kernel's memory killer struck where a process lives, from now on."""

    def __init__(self, pid: int) -> None:
        self._before = {path: number for path in _counters(pid) if (number := _kills(path)) is not None}

    def seen(self) -> bool | None:
        """Whether it has struck since; None where the kernel does not tell."""
        now = {path: _kills(path) for path in self._before}
        known = [number > self._before[path] for path, number in now.items() if number is not None]
        return any(known) if known else None


def _counters(pid: int) -> list[Path]:
    """The files that count for a process: its cgroup's, of either version; else the whole machine's."""
    return [path for path in _of_cgroups(pid) if path.exists()] or [Path("/proc/vmstat")]


def _of_cgroups(pid: int) -> Iterator[Path]:
    for group in cgroups.of_process(pid, "memory"):
        if group.version == 1:
            yield group.folders[0] / "memory.oom_control"
        else:
            # Hierarchical, so that the nearest folder that counts has all that happened below it.
            candidates = [folder / "memory.events" for folder in group.folders]
            yield from [path for path in candidates if path.exists()][:1]


def _kills(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
