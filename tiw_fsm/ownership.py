"""Whose a file is and who we are: what to say, and to do, where the system does not let us at it."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from itertools import pairwise
from pathlib import Path


def shut_out(path: Path) -> str:
    """What stands between this process and ``path``, whose it is, and how to open it, in sentences."""
    barrier = _barrier(path)
    there = barrier.lstat()
    owner, mode = name_of(there.st_uid), f"mode {stat.S_IMODE(there.st_mode):04o}"
    me, quoted = name_of(os.geteuid()), shlex.quote(str(barrier))
    kind = "folder" if stat.S_ISDIR(there.st_mode) else "file"
    if _open_to_us(barrier):
        return (
            f"The {kind} {barrier} belongs to {owner} ({mode}), which is open to this process, run by {me}: so an "
            f"attribute or a security module forbids it. Look with: lsattr -d {quoted}; getfacl {quoted}"
        )
    if there.st_uid == os.geteuid():
        return (
            f"The {kind} {barrier} belongs to {owner}, who runs this process, but with {mode} it is closed. "
            f"Open it, then run again: chmod -R u+rwX {quoted}"
        )
    return (
        f"The {kind} {barrier} belongs to {owner} ({mode}), and this process is run by {me}. "
        f"Run as {owner}, or make it yours: sudo chown -R {me} {shlex.quote(str(_with_its_like(barrier)))}"
    )


def name_of(uid: int) -> str:
    """A user's name; the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _barrier(path: Path) -> Path:
    """The first folder on the way to ``path`` that does not let us through; else ``path``, or the folder it is in."""
    way = [*reversed(path.absolute().parents), path.absolute()]
    for folder, inside in pairwise(way):
        if not os.access(folder, os.X_OK) or not os.path.lexists(inside):
            return folder
    closed = (step for step in (way[-1], way[-2]) if not _open_to_us(step))
    return next(closed, way[-1])


def _open_to_us(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0))


def _with_its_like(path: Path) -> Path:
    """The run's folder rather than one file of it, if both are the same user's: what lies beside it is his too."""
    folder = path.parent
    return folder if path.is_file() and folder.stat().st_uid == path.stat().st_uid and _is_a_runs(folder) else path


def _is_a_runs(folder: Path) -> bool:
    return (folder / "lock").exists() or folder.name.partition("_step_")[1] != ""
