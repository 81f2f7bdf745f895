"""HDF5's errors in words: what a user can do about a file that cannot be opened or decoded."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from tiw_fsm.errors import DiskRefused, UsageProblem

OF_H5PY = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError)
"""What h5py raises at a file that is not as it should be."""
MISSING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
FORBIDDEN = {errno.EACCES, errno.EPERM}
HELD = {errno.EAGAIN, errno.EACCES}
"""What a lock says that another process holds."""
LOCKS = Path("/proc/locks")
"""Linux' list of file locks: kind, process, and device and inode of the file."""


class Undecodable(UsageProblem):
    """A file that is there holds no frames that can be decoded."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate what h5py raises while it reads ``path``.

    Raises:
        UsageProblem: it is missing, not to be read by this user, or open for writing elsewhere.
        Undecodable: its content is no HDF5, or damaged.
        DiskRefused: the operating system failed to read it.
    """
    try:
        if path.exists() and not path.is_file():
            raise UsageProblem(f"{path}: is no regular file; give the path of an h5 file")
        yield
    except OF_H5PY as exc:
        raise _translated(path, exc) from exc


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """``path``, open for reading; what is read of it is the caller's to translate. Raises as ``reading`` does."""
    with reading(path):
        file = h5py.File(path, "r")
    with file:
        yield file


def _translated(path: Path, exc: Exception) -> UsageProblem | DiskRefused:
    number, said = errno_of(exc), str(exc).strip("'\"")
    if "unable to lock file" in said:
        return UsageProblem(f"{path}: {_locked(path, number)}")
    if number in MISSING:
        return UsageProblem(f"{path}: no such file; put it back, or correct the dataset")
    if number in FORBIDDEN:
        return UsageProblem(f"{path}: this user may not read it; give the file to whom the run belongs (chown, chmod)")
    if number:
        return DiskRefused(
            f"reading {path} failed: {os.strerror(number)}. Nothing committed was lost; mend the disk and run again."
        )
    if "file signature not found" in said and path.stat().st_size:
        return Undecodable(
            f"{path}: not readable as HDF5, since it is none; if it should be, copy it again; `tiw-fsm frames` makes "
            "h5 files of videos, pictures, arrays and environments"
        )
    return Undecodable(f"{path}: not readable as HDF5 ({said}); it may be cut short: copy or record it again")


def errno_of(exc: Exception) -> int | None:
    """The operating system's word on it; None where HDF5 itself gave up. h5py hands it on in the text alone."""
    if isinstance(exc, OSError) and exc.errno:
        return exc.errno
    found = re.search(r"\berrno = (\d+)", str(exc))
    return int(found[1]) or None if found else None


def _locked(path: Path, number: int | None) -> str:
    if number not in HELD:
        return (
            "its file system refuses HDF5's lock; copy it to another one, or set HDF5_USE_FILE_LOCKING=FALSE "
            "in the environment while nobody writes to it"
        )
    holders = _holders(path)
    who = f" by process {', '.join(holders)}" if holders else ""
    return (
        f"it is open for writing elsewhere{who}; let that be closed, then start again (HDF5_USE_FILE_LOCKING=FALSE in "
        "the environment reads it all the same, and is safe only if nobody writes any more)"
    )


def _holders(path: Path) -> list[str]:
    """Processes of this machine that hold a lock on a file."""
    try:
        inode, lines = str(path.stat().st_ino), LOCKS.read_text().splitlines()
    except OSError:
        return []
    locks = (line.split() for line in lines)
    return sorted({lock[4] for lock in locks if len(lock) > 5 and lock[3] == "WRITE" and lock[5].endswith(f":{inode}")})
