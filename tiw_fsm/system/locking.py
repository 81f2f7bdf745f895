"""Locks: flock, which the operating system lets go of however a process ends. A runner holds one for its life.

For that two things are locked. The file ``lock``, whose lock reaches other machines where the file system does that;
and the folder it lies in, where folders can be locked (not on NFS). Somebody may remove the file under its holder:
whoever tidies up, a purge of scratch space. The folder's lock then still keeps others out, and its holder lays the file
anew.
Without it, and where the folder itself was renamed or replaced, the holder finds out that it holds nothing any more,
and goes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiw_fsm.errors import LockLost, NoLocks, RunHeld, disk_errors
from tiw_fsm.system import durable

PATIENCE = 0.2
"""Seconds a runner waits: whoever looks whether a run is alive shares the lock for an instant."""
PAUSE = 0.02
KEEPS_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}
"""What file systems without locks answer; the last of them NFS, of a folder."""


class Lock:
    """A lock that this process holds, or tries to take.

    Attributes:
        folder: descriptor of the folder it lies in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with disk_errors("opening", path.parent):
            self.folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        self._has_folder = False
        self._file: int | None = None

    def take(self) -> bool:
        """Hold folder and file, unless another process does.

        Raises:
            DiskRefused: the file cannot be made.
            NoLocks: the file system keeps none.
            LockLost: the folder was removed meanwhile.
        """
        free = _takes_folder(self.folder, fcntl.LOCK_EX)
        self._has_folder = bool(free)
        return free is not False and self._take_file()

    def require(self) -> None:
        """Make sure that this is still the lock that another process would find.

        Raises:
            LockLost: it is not, and cannot be put right.
        """
        self._require_folder()
        if self._file is not None and bears(self._path, self._file):
            return
        if not (self._has_folder and self._take_file()):
            raise LockLost(
                f"{self._path} was removed while this process held it (do systemd-tmpfiles or a purge of scratch space "
                "tidy there?), and another process may work on this run now; so this one ends. All progress that was "
                "committed is saved: run again."
            )

    def _require_folder(self) -> None:
        if not bears(self._path.parent, self.folder):
            raise LockLost(
                f"{self._path.parent} was moved or removed while this process worked in it, so it ends. All progress "
                "that was committed is saved in that folder, wherever it lies now: put it back, and run again."
            )

    def close(self) -> None:
        """Let go."""
        for descriptor in filter(None, (self._file, self.folder)):
            os.close(descriptor)

    def _take_file(self) -> bool:
        """Hold the file that bears the name, as long as it does so."""
        while True:
            self._require_folder()
            durable.require_plain(self._path)
            with disk_errors("locking", self._path):
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
                descriptor = os.open(self._path.name, flags, 0o666, dir_fd=self.folder)
            try:
                mine = _takes(self._path, descriptor, fcntl.LOCK_EX)
            except BaseException:
                os.close(descriptor)
                raise
            if mine and bears(self._path, descriptor):
                self._file, before = descriptor, self._file
                if before is not None:
                    os.close(before)
                return True
            os.close(descriptor)
            if not mine:
                return False


@contextmanager
def held(path: Path) -> Iterator[Lock | None]:
    """Hold the lock for the length of the block, alone; the value of the block is None if another process does.

    Raises:
        DiskRefused: the lock cannot be made.
        NoLocks: the file system keeps none.
        StateDamaged: no plain file stands in its place.
    """
    lock = Lock(path)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (mine := lock.take()) and time.monotonic() < deadline:
            time.sleep(PAUSE)
        yield lock if mine else None
    finally:
        lock.close()


def take_alone(descriptor: int, path: Path, held: str, patience: float = 0.0) -> None:
    """Keep other processes out of the file or folder that is open, for as long as it is.

    For short work, which a file system without locks need not refuse: there nobody is kept out.

    Args:
        path: its name.
        held: what to say if another process has it.
        patience: seconds to wait for that one.

    Raises:
        RunHeld: another process has it, or was done with it just now, and the name is not this one's any more.
        OSError: the operating system refused.
    """
    deadline = time.monotonic() + patience
    try:
        while not _flock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise RunHeld(held)
            time.sleep(PAUSE)
    except OSError as exc:
        if exc.errno not in KEEPS_NO_LOCKS:
            raise
    if not bears(path, descriptor):
        raise RunHeld(held)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock. Those who look do not stand in each other's way, and write nothing.

    Raises:
        DiskRefused: it cannot be read.
        NoLocks: the file system keeps none.
        StateDamaged: no plain file stands in the lock's place.
    """
    durable.require_plain(path)
    if _folder_is_held(path.parent):
        return True
    if not durable.is_there(path):
        return False
    with disk_errors("reading", path), _opened(path, os.O_NOFOLLOW) as file:
        return not _takes(path, file, fcntl.LOCK_SH)


def _folder_is_held(folder: Path) -> bool:
    try:
        with _opened(folder, os.O_DIRECTORY) as descriptor:
            return _takes_folder(descriptor, fcntl.LOCK_SH) is False
    except OSError:  # it is not there, or may not be read: then the file alone must tell
        return False


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _takes(path: Path, descriptor: int, how: int) -> bool:
    try:
        return _flock(descriptor, how)
    except OSError as exc:
        if exc.errno not in KEEPS_NO_LOCKS:
            with disk_errors("locking", path):
                raise
        raise NoLocks(
            f"locking {path} failed: {exc.strerror}. The file system there keeps no locks, so nothing would keep two "
            "runners apart: NFS without its lock service (or mounted with nolock), Lustre without -o flock, 9p, and "
            "some FUSE and SMB are like that. Keep the run's state where locks work, on a local disk for one, with "
            "--state-dir FOLDER (of a run that has begun, move its folder there); its results may stay where they are."
        ) from exc


def _takes_folder(descriptor: int, how: int) -> bool | None:
    """None where folders cannot be locked: then the file alone must do."""
    try:
        return _flock(descriptor, how)
    except OSError:
        return None


def _flock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def bears(path: Path, descriptor: int) -> bool:
    """Whether what is open is what bears the name now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False
