"""The CPUs that this process is really given, by affinity and cgroups, and how threads wait for one another on them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tiw_fsm.system import cgroups
from tiw_fsm.system.cgroups import Cgroup

FILES = {1: ("cpu.cfs_quota_us", "cpu.cfs_period_us"), 2: ("cpu.max",)}
"""Where a group tells its quota and period in microseconds, by version."""
LIMITED = re.compile(r"([1-9][0-9]{0,17}) ([1-9][0-9]{0,17})")
"""Of both, a limit: without one, the quota is ``max`` or -1."""
WAIT_POLICY = {"GOMP_SPINCOUNT": "30000"}
"""How often a thread of libgomp, the OpenMP of torch's Linux wheels, looks for the others before it sleeps: for half a
millisecond on a Xeon of the fifth generation. By itself libgomp has it look 300,000 times, for 5 milliseconds, in
which it keeps the CPU from the very thread that it waits for when other work has the rest. Not to look at all is slower
on a quiet machine."""
CHOSEN_BY = frozenset({"OMP_WAIT_POLICY", *WAIT_POLICY})
"""Names of the variables by which users choose it themselves."""


def share(most: int, processes: int = 1) -> int:
    """Threads that each of ``processes``, which share this process's CPUs, is to compute with: from 1 to ``most``."""
    allowed = len(os.sched_getaffinity(0))
    limited = quota(cgroups.of_process(os.getpid(), "cpu"))
    return max(min(most, (allowed if limited is None else min(allowed, limited)) // processes), 1)


def wait_policy(environment: Mapping[str, str]) -> dict[str, str]:
    """What an environment lacks for threads to wait well; it is read when torch is loaded. Nothing if users chose."""
    return {} if CHOSEN_BY & environment.keys() else WAIT_POLICY


def quota(groups: Iterable[Cgroup]) -> int | None:
    """Whole CPUs that a process in these groups, and in all that are around them, may use; at least 1.

    1.5 CPUs are one: two threads would use up the quota of a period before it ends, and both then stand still until
    the next one begins, at whatever update or wait for one another that is.

    Returns:
        None without a limit, or where no file that can be read and understood tells one.
    """
    limits = [LIMITED.fullmatch(_told(folder, group.version)) for group in groups for folder in group.folders]
    return min((max(int(found[1]) // int(found[2]), 1) for found in limits if found), default=None)


def _told(folder: Path, version: int) -> str:
    """What a group's files say, with single blanks between."""
    try:
        return " ".join(word for name in FILES[version] for word in (folder / name).read_text().split())
    except (OSError, UnicodeDecodeError):
        return ""
