"""The control groups that a process lives in: where the file system tells of each, in version 1 and 2.

Groups above the mount are not to be seen: what they limit is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ESCAPED = re.compile(r"\\([0-7]{3})")
"""How mountinfo writes a blank, a tab, a line's end or a backslash of a path."""


class Cgroup(NamedTuple):
    """A process's group in one mounted hierarchy.

    Attributes:
        version: of cgroups, 1 or 2.
        folders: its own, then those of the groups around it, up to the mount.
    """

    version: int
    folders: list[Path]


def of_process(pid: int, controller: str) -> list[Cgroup]:
    """A process's groups, as ``described``; none where the kernel does not tell."""
    try:
        return list(
            described(Path(f"/proc/{pid}/cgroup").read_text(), Path("/proc/self/mountinfo").read_text(), controller)
        )
    except (OSError, UnicodeDecodeError):
        return []


def described(groups: str, mounts: str, controller: str) -> Iterator[Cgroup]:
    """The groups that may limit what ``controller`` counts: of each mount of version 2, and of version 1 with it.

    Args:
        groups: content of ``/proc/PID/cgroup``.
        mounts: content of ``/proc/self/mountinfo``.
        controller: ``cpu`` or ``memory``, for example.
    """
    memberships = [line.split(":", 2) for line in groups.splitlines() if line.count(":") >= 2]
    for mount in map(str.split, mounts.splitlines()):
        if "-" not in mount[5:-3]:
            continue
        root, where, (kind, _, options) = _path(mount[3]), Path(_path(mount[4])), mount[mount.index("-", 5) + 1 :][:3]
        for number, controllers, group in memberships:
            if kind == "cgroup2" and number == "0":
                yield Cgroup(2, _up_to(where, _below(where, root, group)))
            if kind == "cgroup" and controller in controllers.split(",") and controller in options.split(","):
                yield Cgroup(1, _up_to(where, _below(where, root, group)))


def _path(written: str) -> str:
    return ESCAPED.sub(lambda found: chr(int(found[1], 8)), written)


def _below(mounted: Path, root: str, group: str) -> Path:
    """Where a cgroup's folder lies; the mount's own, if a container sees nothing beside it."""
    inside = group.removeprefix(root.rstrip("/")).lstrip("/")
    return mounted if ".." in inside.split("/") or not (mounted / inside).is_dir() else mounted / inside


def _up_to(mounted: Path, folder: Path) -> list[Path]:
    return [each for each in (folder, *folder.parents) if mounted in (each, *each.parents)]
