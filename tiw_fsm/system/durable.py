"""Bringing bytes to a disk so that a power cut cannot take them back, nor leave half of them.

Nothing here follows a symbolic link in the place of a file that is ours: a link there is somebody's mistake or trap,
and what lies behind it is not touched.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO

from tiw_fsm.errors import StateDamaged, disk_errors

_held: dict[Path, int] = {}
"""Folders that this process holds a lock in, and a descriptor of each."""


@contextmanager
def kept_to(folder: Path, descriptor: int) -> Iterator[None]:
    """Within the block, what is written to ``folder`` goes through its ``descriptor``: into this very folder, though it
    be renamed meanwhile and another bear its name."""
    _held[folder] = descriptor
    try:
        yield
    finally:
        del _held[folder]


def open_there(path: Path, flags: int) -> int:
    """As ``os.open``, in the folder that ``kept_to`` keeps to, if it is one.

    Raises:
        OSError: the operating system refused.
    """
    name, folder = _place(path)
    return os.open(name, flags, 0o666, dir_fd=folder)


def unlink(path: Path) -> None:
    """Remove a file's name, which need not be there.

    Raises:
        OSError: the operating system refused.
    """
    name, folder = _place(path)
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _place(path: Path) -> tuple[Path, int | None]:
    """How a path is given to the system: as it is, or as a name in a folder that is held."""
    folder = _held.get(path.parent)
    return (path if folder is None else Path(path.name)), folder


def sync(path: Path) -> None:
    """Bring a file's bytes, or a folder's list of names, to the disk.

    Raises:
        OSError: the operating system refused.
    """
    if path in _held:
        return os.fsync(_held[path])
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return None


NOT_OURS = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP}
"""What a folder above ours may answer to a sync: it may not be read, or lies where folders cannot be synced."""
_named: set[Path] = set()
"""Folders whose names this process has brought to the disk; one that is only there may be lost with the power."""


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it, durably.

    Raises:
        DiskRefused: the operating system refused.
    """
    if folder in _held:
        return
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
    make_folder(path.parent)
    with disk_errors("writing", path):
        exchange(path, content, mode=mode)
        if not named_later:
            sync(path.parent)


def exchange(path: Path, content: bytes, *, synced: bool = True, mode: int | None = None) -> None:
    """Give ``path`` new content at once; its name is not brought to the disk, its bytes only if ``synced``.

    ``mode`` is as in ``replace``.

    Raises:
        OSError: the operating system refused.
    """
    try:
        _exchange(path, content, synced, mode)
    except FileNotFoundError:  # a runner that begins takes what is half written for a leftover, and removes it
        _exchange(path, content, synced, mode)


def _exchange(path: Path, content: bytes, synced: bool, mode: int | None) -> None:
    name, folder = _place(path)
    temporary = temporary_beside(name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with open(os.open(temporary, flags, 0o666 if mode is None else mode, dir_fd=folder), "wb") as file:
        try:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            if synced:
                os.fsync(file.fileno())
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with suppress(OSError):  # it would keep its place on a disk that may be full
                os.unlink(temporary, dir_fd=folder)
            raise


@contextmanager
def written_whole(path: Path) -> Iterator[IO[str]]:
    """A text file that gets the name ``path`` at the end of the block, whole; if that fails, ``path`` is as it was.

    Raises:
        DiskRefused: the operating system refused.
    """
    make_folder(path.parent)
    temporary = temporary_beside(path)
    try:
        with disk_errors("writing", path), open(temporary, "x", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            take_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def take_place(temporary: Path, path: Path) -> None:
    """Give what was written to ``temporary``, in the same folder, the name ``path``, durably.

    Raises:
        OSError: the operating system refused; ``path`` is the old one, or whole and new.
    """
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def temporary_beside(path: Path) -> Path:
    """A name in the same folder that nothing has borne yet, for what is not whole."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")


HALF_WRITTEN = re.compile(r".+\.[0-9a-f]{8}\.tmp")
"""Names that ``temporary_beside`` gives."""


def remove_half_written(folder: Path, named: str = "") -> list[str]:
    """Remove what processes that died left half written in ``folder``, of the files with ``named`` in their names.

    Returns what could not be removed yet, a sentence each.

    Raises:
        DiskRefused: the disk fails.
    """
    with disk_errors("reading", folder):
        names = [name for name in os.listdir(folder) if named in name] if folder.is_dir() else []
    left = (discard(folder / name) for name in sorted(names) if HALF_WRITTEN.fullmatch(name))
    return [sentence for sentence in left if sentence]


def is_there(path: Path) -> bool:
    """Whether anything bears the name, be it a link.

    Raises:
        DiskRefused: that cannot be found out; a folder on the way may be closed to us.
    """
    with disk_errors("reading", path):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def require_plain(path: Path) -> None:
    """Raise StateDamaged if a link, a folder or a pipe stands in the place of one of our files."""
    if is_there(path) and (path.is_symlink() or not path.is_file()):
        what = f"is a symbolic link to {os.readlink(path)}" if path.is_symlink() else "is not a file"
        raise StateDamaged(
            f"{path} {what}; tiw-fsm keeps plain files there and follows no link. "
            "Nothing was changed: put the file itself in its place, or begin anew with another --run."
        )


def require_permission(path: Path) -> None:
    """Raise NotPermitted if ``path`` is there, and this process may not read it; a link to nothing is not."""
    with disk_errors("reading", path):
        if path.exists() and not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def read_small(path: Path, limit: int = 1 << 20) -> bytes:
    """The content of one of our smaller files.

    Raises:
        DiskRefused: it cannot be read.
        StateDamaged: a link, a folder or a pipe stands in its place.
        ValueError: it is gone, or has more than ``limit`` bytes.
    """
    require_plain(path)
    if not is_there(path):
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
    aside = free_name(path.with_name(f"{path.name}.set-aside"))
    with disk_errors("setting aside", path):
        move(path, aside)
    return aside


def free_name(path: Path) -> Path:
    """``path`` with the first number behind it that makes a name nothing bears."""
    names = (path.with_name(f"{path.name}-{n}") for n in count(1))
    return next(name for name in names if not os.path.lexists(name))


def move(source: Path, target: Path) -> None:
    """Rename ``source``, durably; ``target`` is free, and lies in the same folder.

    A file system of layers (overlayfs) does not rename folders of the lower ones: then it is copied, file by file in
    the order of their names, brought to the disk, and removed.

    Raises:
        DiskRefused, OSError: the operating system refused.
    """
    try:
        source.rename(target)
    except OSError as exc:
        if exc.errno != errno.EXDEV or not source.is_dir():
            raise
        _copy_folder(source, target)
        sync(target.parent)
        discard(source)
    sync(target.parent)


def _copy_folder(source: Path, target: Path) -> None:
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_dir() and not path.is_symlink():
            _copy_folder(path, target / path.name)
        else:
            copied = shutil.copy2(path, target / path.name, follow_symlinks=False)
            if not path.is_symlink():
                sync(Path(copied))
    sync(target)


NOT_YET = {
    *(errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ESTALE, errno.ETXTBSY, errno.ENOENT),
    *(errno.EACCES, errno.EPERM),
}
"""What the system answers where something cannot be removed that may go later: NFS keeps a file that a process has open
under another name, a folder is mounted, or is somebody else's."""


def discard(path: Path) -> str | None:
    """Remove what nobody needs, be it a folder, a file or a link; a sentence if it cannot be removed yet.

    Raises:
        DiskRefused: the disk fails.
    """
    with disk_errors("removing", path):
        try:
            clear(path)
            sync(path.parent)
        except OSError as exc:
            if exc.errno not in NOT_YET:
                raise
            return not_yet(path, exc)
    return None


def not_yet(path: Path, exc: OSError) -> str:
    """That ``path`` is left, and why."""
    return f"{path} is of no more use, but cannot be removed yet ({exc.strerror}); later commits try again."


def clear(path: Path) -> None:
    """Leave nothing at ``path``, be it a folder, a file or a link.

    Raises:
        OSError: the operating system refused.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
