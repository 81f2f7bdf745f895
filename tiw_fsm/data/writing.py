"""Frame files written: streamed, the same bytes for the same frames, and whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np

from tiw_fsm.data.h5 import OF_H5PY, errno_of
from tiw_fsm.errors import UsageProblem, disk_errors
from tiw_fsm.system import durable, locking
from tiw_fsm.values.printable import excerpt, printable, unfit

CHUNK_FRAMES = 16


@contextmanager
def replacing(path: Path) -> Iterator[h5py.File]:
    """A new h5 file, which has taken the place of ``path`` afterwards; after an error ``path`` is as it was.

    It is written beside ``path``. A process that dies leaves it there, and the next one writes over it. The block has
    to flush it while its datasets are open: one that is being closed cannot say that the disk is full. An OSError in it
    is taken for one of the file's: it has to translate those of what it reads.

    Raises:
        UsageProblem: no file can be there, as ``require_file`` says.
        RunHeld: another process is writing it.
        DiskRefused: ``path`` is as it was before.
    """
    require_file(path)
    temporary = path.with_name(path.name + ".tmp")
    with disk_errors("recording to", path):
        durable.make_folder(path.parent)
        with open(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "rb") as file_of_lock:
            held = f"{path}: another process is writing it; let it end, or name another file"
            locking.take_alone(file_of_lock.fileno(), temporary, held)
            try:
                with _numbered_errors():
                    file = h5py.File(temporary, "w", locking=False)
                    try:
                        yield file
                    except BaseException:
                        _unplug(file)
                        raise
                    file.close()
                durable.take_place(temporary, path)
            finally:
                if locking.bears(temporary, file_of_lock.fileno()):  # else it is that of the next one who writes
                    temporary.unlink()


def require_file(path: Path) -> None:
    """Raise UsageProblem if no file of ours can be at ``path``: its name cannot be, or something else is there."""
    if letter := unfit(str(path)):
        raise UsageProblem(f"{printable(str(path))}: has {letter!a} in it, which is no UTF-8 text; give another name")
    whole = durable.temporary_beside(path)
    longest = max(len(os.fsencode(name)) for name in whole.parts)
    if longest > os.pathconf("/", "PC_NAME_MAX") or len(os.fsencode(whole)) >= os.pathconf("/", "PC_PATH_MAX"):
        raise UsageProblem(f"{excerpt(str(path))}: is longer than a name can be; shorten it")
    if above := next((folder for folder in path.parents if os.path.lexists(folder) and not folder.is_dir()), None):
        raise UsageProblem(f"{path}: {above} is no folder; correct the path")
    if path.is_symlink():
        raise UsageProblem(f"{path}: is a symbolic link to {printable(os.readlink(path))}; name the file itself")
    if path.exists() and not path.is_file():
        raise UsageProblem(f"{path}: is there, and is no file; move it elsewhere, or name another file")


def _unplug(file: h5py.File) -> None:
    """Have HDF5 write what it still holds to nowhere: where a disk refuses it, closing the file kills the process.

    Memory would not do: a limit on the size of files (``ulimit -f``) holds for it too.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, file.id.get_vfd_handle())
    os.close(nowhere)
    with suppress(*OF_H5PY):
        file.close()


@contextmanager
def _numbered_errors() -> Iterator[None]:
    """What the operating system answered to h5py, which has it in the text alone, as an OSError that has its number."""
    try:
        yield
    except OF_H5PY as exc:
        if (number := errno_of(exc)) is None:
            raise
        raise OSError(number, os.strerror(number)) from exc


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
