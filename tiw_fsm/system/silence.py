"""For how long a process has given no sign of life. Time in which it was stopped, or its listener, is no silence."""

from __future__ import annotations

import time
from pathlib import Path

LOOKS = 20
"""How often it is looked at within the time that is too long."""
SHORTEST, LONGEST = 0.05, 5.0
"""Seconds between two looks, at the least and at the most."""


class Silence:
    """The silence of a process and of all that it has started.

    Args:
        most: seconds of it after which it hangs.
    """

    def __init__(self, pid: int, most: float) -> None:
        self._pid, self._most = pid, most
        self.pause = min(max(most / LOOKS, SHORTEST), LONGEST)
        """Seconds after which to look again, at the latest."""
        self.broken()

    def broken(self) -> None:
        """It has given a sign of life."""
        self._counted = 0.0
        self._looked = time.monotonic()

    def too_long(self) -> bool:
        """Whether it hangs. To be asked again and again, since silence between two looks counts as one pause."""
        passed = time.monotonic() - self._looked
        if passed >= self.pause:
            self._looked += passed
            if not suspended(self._pid):
                self._counted += min(passed, 2 * self.pause)  # what is more, this process itself was stopped
        return self._counted > self._most


def suspended(pid: int) -> bool:
    """Whether a process, or one that it has started, is stopped (SIGSTOP, a debugger); False where nobody can tell."""
    states: dict[int, str] = {}
    started: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it has ended
        number = int(path.parent.name)
        states[number] = state
        started.setdefault(int(parent), []).append(number)
    family, waiting = set(), [pid]
    while waiting:
        member = waiting.pop()
        family.add(member)
        waiting += [child for child in started.get(member, ()) if child not in family]
    return any(states.get(member, "") in ("T", "t") for member in family)
