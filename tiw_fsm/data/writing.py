"""Frame files written: streamed, the same bytes for the same frames, and whole or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from tiw_fsm.data.h5 import OF_H5PY, errno_of
from tiw_fsm.errors import UsageProblem, disk_errors
from tiw_fsm.system import durable
from tiw_fsm.system.locking import KEEPS_NO_LOCKS

CHUNK_FRAMES = 16


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file to write in the block, which is ``path`` afterwards; after an error ``path`` is as it was.

    A process that dies leaves what it had written under that name, and the next one writes over it.

    Raises:
        UsageProblem: another process is writing it.
        DiskRefused: ``path`` is as it was before.
    """
    temporary = path.with_name(path.name + ".tmp")
    with disk_errors("recording to", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(temporary, path)
        try:
            with _numbered_errors():
                yield temporary
            os.fsync(lock)
            temporary.replace(path)
            durable.sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(lock)


def _locked(temporary: Path, path: Path) -> int:
    """A descriptor of the file, emptied, whose lock other writers meet."""
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if isinstance(exc, BlockingIOError):
            os.close(descriptor)
            raise UsageProblem(
                f"{path}: another process is writing it; let it come to an end, or name another file"
            ) from exc
        if exc.errno not in KEEPS_NO_LOCKS:
            os.close(descriptor)
            raise
    return descriptor


@contextmanager
def _numbered_errors() -> Iterator[None]:
    """What the operating system answered to h5py, which has it in the text alone, as an OSError that has its number."""
    try:
        yield
    except OF_H5PY as exc:
        if (number := errno_of(exc)) is None:
            raise
        raise OSError(number, os.strerror(number)) from exc


def create(path: Path) -> h5py.File:
    """An h5 file in the place of what ``replacing`` gave; its lock is not HDF5's but that one's."""
    return h5py.File(path, "w", locking=False)


def add_frames(file: h5py.File, side: int, rows: int | None = None) -> h5py.Dataset:
    """The dataset ``frames``, uint8 [rows, side, side, 3]; without ``rows`` it is empty, and can be resized."""
    return file.create_dataset(
        "frames",
        (rows or 0, side, side, 3),
        "u1",
        maxshape=None if rows else (None, side, side, 3),
        chunks=(min(CHUNK_FRAMES, rows or CHUNK_FRAMES), side, side, 3),
        compression="gzip",
        compression_opts=1,
        track_times=False,
    )


def add_actions(file: h5py.File, rows: int, keys: Sequence[str]) -> h5py.Dataset:
    """The dataset ``actions``, int64 [rows]; ``keys`` are their names by number, none where they have none."""
    actions = file.create_dataset("actions", (rows,), "i8", track_times=False)
    meaning = "the key pressed at this row, which leads to the next one"
    if keys:
        actions.attrs["names"] = np.array(keys, h5py.string_dtype())
        meaning += ": " + ", ".join(f"{number} {name}" for number, name in enumerate(keys))
    actions.attrs["meaning"] = meaning
    return actions


def add_episode(file: h5py.File, rows: int) -> h5py.Dataset:
    """The dataset ``episode``, int64 [rows]: the episode's number."""
    return file.create_dataset("episode", (rows,), "i8", track_times=False)
