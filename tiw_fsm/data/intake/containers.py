"""The files that arrays come in: npy, npz, HDF5, zarr. Nothing in one is ever unpickled."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tiw_fsm.data.h5 import opened, reading
from tiw_fsm.data.intake.arrays import BLOCK_BYTES, Stored, blocks_of, group_name, open_arrays
from tiw_fsm.data.intake.options import Options
from tiw_fsm.data.intake.source import Source
from tiw_fsm.errors import UsageProblem, disk_errors

Opens = Callable[[], AbstractContextManager[IO[bytes]]]


def open_npy(name: str, options: Options) -> Source:
    """The pictures of a .npy file. Raises as ``arrays.open_arrays`` and ``_npy_errors`` do."""
    path = Path(name)
    with _npy_errors(path):
        size = path.stat().st_size
    return open_arrays(name, path.name, {"": _npy(path, size, lambda: path.open("rb"))}, options)


def open_npz(name: str, options: Options) -> Source:
    """The pictures of a .npz file. Raises as ``arrays.open_arrays`` and ``_npy_errors`` do."""
    path = Path(name)
    with _npy_errors(path), zipfile.ZipFile(path) as archive:
        members = {each.filename: each.file_size for each in archive.infolist() if each.filename.endswith(".npy")}
    held = {
        member.removesuffix(".npy"): _npy(path, size, partial(_member, path, member))
        for member, size in members.items()
    }
    return open_arrays(name, path.name, held, options)


@contextmanager
def _member(path: Path, member: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        yield file


def _npy(path: Path, size: int, opens: Opens) -> Stored:
    with _npy_errors(path), opens() as file:
        shape, fortran, dtype = _header(file)
        if min(shape, default=0) < 0:
            raise ValueError(f"its header says {shape}")
        claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
        if claimed > there and not dtype.hasobject:
            raise EOFError(f"its header claims {claimed:,} bytes, and {max(0, there):,} are there")

    def read() -> NDArray[Any]:
        with _npy_errors(path), opens() as file:
            return np.asarray(npy.read_array(file, allow_pickle=False))

    def blocks(row_axes: int) -> Iterator[NDArray[Any]]:
        if fortran:  # the rows lie apart
            yield from blocks_of(read(), row_axes)
            return
        rows, row = int(np.prod(shape[:row_axes])), shape[row_axes:]
        row_bytes = int(np.prod(row)) * dtype.itemsize
        step = max(1, BLOCK_BYTES // max(1, row_bytes))
        with _npy_errors(path), opens() as file:
            _header(file)
            for begin in range(0, rows, step):
                wanted = min(step, rows - begin)
                content = file.read(wanted * row_bytes)
                if len(content) < wanted * row_bytes:
                    raise EOFError(f"it ends in row {begin + len(content) // row_bytes} of {rows}")
                yield np.frombuffer(content, dtype).reshape(wanted, *row)

    return Stored(shape, dtype, blocks, read)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if header is None:
        raise ValueError(f"version {version} of the format")
    shape, fortran, dtype = header(file)
    return shape, fortran, dtype


@contextmanager
def _npy_errors(path: Path) -> Iterator[None]:
    """Translate what numpy and zipfile raise.

    Raises:
        UsageProblem: it is no such file, or cut short.
        DiskRefused: it cannot be read.
    """
    with disk_errors("reading", path):
        try:
            yield
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError) as exc:
            raise UsageProblem(
                f"{path}: not readable as {path.suffix.lower()} ({exc}); it may be cut short: copy or save it again"
            ) from exc


def open_h5(name: str, options: Options) -> Source:
    """The pictures of an HDF5 file. Raises as ``arrays.open_arrays`` and ``h5.reading`` do."""
    path = Path(name)
    return open_arrays(name, path.name, h5_arrays(path), options)


def h5_arrays(path: Path) -> dict[str, Stored]:
    """The arrays of an HDF5 file by their keys. Raises as ``h5.reading`` does."""
    held: dict[str, Stored] = {}

    def add(key: str, found: h5py.Dataset | h5py.Group) -> None:
        if isinstance(found, h5py.Dataset) and found.shape:
            held[group_name(key)] = _h5(path, key, found)

    with opened(path) as file, reading(path):
        file.visititems(add)
        for key in file:  # what is linked is not visited
            if key not in held and isinstance(found := file.get(key), h5py.Dataset):
                add(key, found)
    return held


def _h5(path: Path, key: str, dataset: h5py.Dataset) -> Stored:
    def blocks(row_axes: int) -> Iterator[NDArray[Any]]:
        with opened(path) as file:
            found = blocks_of(file[key], row_axes)
            while True:
                with reading(path):
                    block = next(found, None)
                if block is None:
                    return
                yield block

    def read() -> NDArray[Any]:
        with opened(path) as file, reading(path):
            return np.asarray(file[key][()])

    names = dataset.attrs.get("names", ())
    known = tuple(str(each) for each in names) if np.ndim(names) == 1 else ()
    return Stored(dataset.shape, dataset.dtype, blocks, read, known)


def open_zarr(name: str, options: Options) -> Source:
    """The pictures of a zarr array or group.

    Raises:
        UsageProblem: it is none, or wants to be unpickled; else as ``arrays.open_arrays``.
    """
    import zarr

    path = Path(name)
    try:
        root = zarr.open(path, mode="r")
        arrays = {"": root} if isinstance(root, zarr.Array) else dict(root.members(max_depth=None))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as exc:
        raise UsageProblem(f"{name}: not readable as zarr ({exc}); copy or store it again") from exc
    found = {group_name(key): each for key, each in arrays.items() if isinstance(each, zarr.Array) and each.shape}
    for each in found.values():
        if "pickle" in json.dumps(each.metadata.to_dict(), default=str):
            raise UsageProblem(f"{name}: holds pickled objects, which reading would execute; store arrays of numbers")
    return open_arrays(name, path.name, {key: _zarr(path, each) for key, each in found.items()}, options)


def _zarr(path: Path, array: Any) -> Stored:
    def translated(block: Callable[[], Any]) -> Any:
        try:
            return block()
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as exc:
            raise UsageProblem(f"{path}: a chunk cannot be read ({exc}); copy or store it again") from exc

    def blocks(row_axes: int) -> Iterator[NDArray[Any]]:
        found = blocks_of(array, row_axes)
        while (block := translated(lambda: next(found, None))) is not None:
            yield block

    return Stored(array.shape, array.dtype, blocks, lambda: np.asarray(translated(lambda: array[...])))
