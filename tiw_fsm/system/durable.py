"""Bringing bytes to a disk so that a power cut cannot take them back, nor leave half of them.

Nothing here follows a symbolic link in the place of a file that is ours: a link there is somebody's mistake or trap,
and what lies behind it is not touched.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO

from tiw_fsm.errors import StateDamaged, disk_errors


def sync(path: Path) -> None:
    """Bring a file's bytes, or a folder's list of names, to the disk.

    Raises:
        OSError: the operating system refused.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


NOT_OURS = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP}
"""What a folder above ours may answer to a sync: it may not be read, or lies where folders cannot be synced."""
_named: set[Path] = set()
"""Folders whose names this process has brought to the disk; one that is only there may be lost with the power."""


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it, durably.

    Raises:
        DiskRefused: the operating system refused.
    """
    with disk_errors("making", folder):
        for path in [*reversed(folder.parents), folder]:
            there = path.is_dir()
            if there and path in _named:
                continue
            path.mkdir(exist_ok=True)
            try:
                sync(path.parent)
            except OSError as exc:
                if not there or exc.errno not in NOT_OURS:
                    raise
            _named.add(path)


OWNER_ONLY = 0o600
"""The mode of a file that nobody else may read."""


def replace(path: Path, content: bytes, *, named_later: bool = False, mode: int | None = None) -> None:
    """Give ``path`` new content: afterwards it is whole and on disk, before it is the old one; never in between.

    ``named_later`` leaves it to the caller to sync the folder: until then a power cut may bring the old one back.
    ``mode`` is the file's from before its first byte on, whatever the umask; without it, the umask decides.

    Raises:
        DiskRefused: the operating system refused; ``path`` is the old one, or whole and new.
    """
    temporary = path.with_name(path.name + ".tmp")
    make_folder(path.parent)
    with disk_errors("writing", path):
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb", opener=partial(os.open, mode=0o666 if mode is None else mode)) as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if not named_later:
            sync(path.parent)


def require_plain(path: Path) -> None:
    """Raise StateDamaged if a link, a folder or a pipe stands in the place of one of our files."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        what = f"is a symbolic link to {os.readlink(path)}" if path.is_symlink() else "is not a file"
        raise StateDamaged(
            f"{path} {what}; tiw-fsm keeps plain files there and follows no link. "
            "Nothing was changed: put the file itself in its place, or begin anew with another --run."
        )


def read_small(path: Path, limit: int = 1 << 20) -> bytes:
    """The content of one of our smaller files.

    Raises:
        DiskRefused: it cannot be read.
        StateDamaged: a link, a folder or a pipe stands in its place.
        ValueError: it is gone, or has more than ``limit`` bytes.
    """
    require_plain(path)
    if not path.exists():
        raise ValueError("it is gone")
    with disk_errors("reading", path), open(path, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    return content


def open_new(path: Path) -> IO[str]:
    """Open a text file for writing, in the place of whatever bore the name.

    Raises:
        OSError: the operating system refused.
    """
    path.unlink(missing_ok=True)
    return open(path, "x", encoding="utf-8")


def set_aside(path: Path) -> Path:
    """Rename what must not be used, so that nothing takes it for something else and nobody loses it.

    Raises:
        DiskRefused: the disk did not let it be renamed.
    """
    names = (path.with_name(f"{path.name}.set-aside-{n}") for n in count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    with disk_errors("setting aside", path):
        path.rename(aside)
        sync(path.parent)
    return aside
