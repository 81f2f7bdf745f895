"""Where something of a run is done over again without touching the run: a temporary folder, gone at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tiw_fsm.errors import TiwFsmError, disk_errors
from tiw_fsm.storage import checkpoint_checks, checkpoints
from tiw_fsm.storage.torch_files import UnreadableFile
from tiw_fsm.system import locking
from tiw_fsm.values.frozen import CheckpointRef

PREFIX = "tiw-fsm-replay-"
"""Of the names of temporary folders."""


class RunWentOn(Exception):
    """A runner is at work: what the run no longer names is gone."""


@contextmanager
def workshop() -> Iterator[Path]:
    """A folder of its own among the system's temporary files, removed at the end; and with it what one that was killed
    has left. A lock in it says that somebody is at work; it gets its name only once it is held.

    Raises:
        DiskRefused: it cannot be made.
    """
    place = Path(tempfile.gettempdir())
    _tidy(place)
    with disk_errors("making a temporary folder in", place):
        temporary = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    with temporary as name, locking.held(Path(name) / "lock.new"):
        folder = Path(name)
        with disk_errors("locking", folder):
            (folder / "lock.new").rename(folder / "lock")
        yield folder


def _tidy(place: Path) -> None:
    for left in place.glob(f"{PREFIX}*"):
        with suppress(OSError, TiwFsmError):
            mine = left.lstat().st_uid == os.getuid() and not left.is_symlink()
            if mine and (left / "lock").is_file() and not locking.is_held(left / "lock"):
                shutil.rmtree(left, ignore_errors=True)


def held(ref: CheckpointRef, folder: Path) -> CheckpointRef:
    """The checkpoint below ``folder``, where nobody sweeps it.

    Raises:
        RunWentOn: it is gone, or another has taken its name.
        DiskRefused: the disk did not take it.
    """
    target = folder / ref.sha256[:16] / Path(ref.path).name
    if not target.exists():
        try:
            checkpoints.keep(Path(ref.path), target.parent)
        except UnreadableFile:
            raise RunWentOn from None
    if checkpoint_checks.altered(target, ref.sha256):
        raise RunWentOn
    return ref.evolve(path=str(target))
