"""Frame files whose rows lie elsewhere, or cannot be decoded: made of a sound one, really."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

BLOSC = 32001
PARTS = 4

Make = Callable[[Path], None]
"""Turns a frame file into another kind."""


def _taken(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the file holds; it is gone then."""
    with h5py.File(path) as file:
        held = file["frames"][:], file["episode"][:], file["actions"][:]
    path.unlink()
    return held


def _labelled(file: h5py.File, episode: np.ndarray, actions: np.ndarray) -> None:
    file["episode"], file["actions"] = episode, actions
    file.attrs["stride"] = 1


def _parts(path: Path, frames: np.ndarray, name: str = "part{}.h5") -> int:
    """Write the frames into ``PARTS`` files beside it; returns the rows of one."""
    rows = len(frames) // PARTS
    for number in range(PARTS):
        with h5py.File(path.parent / name.format(number), "w") as file:
            file["frames"] = frames[number * rows : (number + 1) * rows]
    return rows


def virtual(path: Path) -> None:
    frames, *labels = _taken(path)
    rows = _parts(path, frames)
    layout = h5py.VirtualLayout(frames.shape, "u1")
    for number in range(PARTS):
        layout[number * rows : (number + 1) * rows] = h5py.VirtualSource(
            f"part{number}.h5", "frames", (rows, *frames.shape[1:])
        )
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("frames", layout)
        _labelled(file, *labels)


def numbered(path: Path) -> None:
    """A virtual dataset without an end, whose sources are meant by a pattern."""
    frames, *labels = _taken(path)
    rows, rest = _parts(path, frames), frames.shape[1:]
    space = h5s.create_simple((rows, *rest), (h5s.UNLIMITED, *rest))
    space.select_hyperslab((0,) * 4, (h5s.UNLIMITED, 1, 1, 1), (rows, 1, 1, 1), (rows, *rest))
    created = h5p.create(h5p.DATASET_CREATE)
    created.set_virtual(space, b"part%b.h5", b"frames", h5s.create_simple((rows, *rest)))
    with h5py.File(path, "w") as file:
        h5d.create(file.id, b"frames", h5t.NATIVE_UINT8, space, created)
        _labelled(file, *labels)


def virtual_of_virtual(path: Path) -> None:
    virtual(path)
    inner = path.with_name("inner.h5")
    path.rename(inner)
    with h5py.File(inner) as file:
        shape, labels = file["frames"].shape, (file["episode"][:], file["actions"][:])
    layout = h5py.VirtualLayout(shape, "u1")
    layout[:] = h5py.VirtualSource("inner.h5", "frames", shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("frames", layout)
        _labelled(file, *labels)


def linked(path: Path) -> None:
    """Each dataset an external link, and one of them behind a second."""
    path.rename(path.with_name("part3.h5"))
    with h5py.File(path.with_name("between.h5"), "w") as file:
        file["pictures"] = h5py.ExternalLink("part3.h5", "/frames")
    with h5py.File(path, "w") as file:
        file["frames"] = h5py.ExternalLink("between.h5", "/pictures")
        file["episode"] = h5py.ExternalLink("part3.h5", "/episode")
        file["actions"] = h5py.ExternalLink("part3.h5", "/actions")
        file.attrs["stride"] = 1


def through_a_group(path: Path) -> None:
    """A soft link that leads through a group of another file."""
    path.rename(path.with_name("part3.h5"))
    with h5py.File(path, "w") as file:
        file["session"] = h5py.ExternalLink("part3.h5", "/")
        for name in ("frames", "episode", "actions"):
            file[name] = h5py.SoftLink(f"/session/{name}")
        file.attrs["stride"] = 1


def raw(path: Path) -> None:
    """External raw storage in two files, named by their whole paths."""
    frames, *labels = _taken(path)
    half = frames.nbytes // 2
    files = [(str(path.with_name(f"part{n}.h5")), 0, size) for n, size in ((0, half), (3, h5py.h5f.UNLIMITED))]
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", frames.shape, "u1", external=files)[:] = frames
        _labelled(file, *labels)


ELSEWHERE: dict[str, Make] = {
    "virtual": virtual,
    "numbered": numbered,
    "virtual of virtual": virtual_of_virtual,
    "linked": linked,
    "through a group": through_a_group,
    "raw": raw,
}
"""Ways in which rows lie in other files; ``part3.h5`` is always one, and holds the last ones."""


def blosc(path: Path) -> None:
    """Compressed with a filter that is not installed; the metadata is fine."""
    frames, *labels = _taken(path)
    created = h5p.create(h5p.DATASET_CREATE)
    created.set_chunk((1, *frames.shape[1:]))
    created.set_filter(BLOSC, h5py.h5z.FLAG_OPTIONAL, (2, 2, 1, 768))
    with h5py.File(path, "w") as file:
        dataset = h5d.create(file.id, b"frames", h5t.NATIVE_UINT8, h5s.create_simple(frames.shape), created)
        for row, frame in enumerate(frames):
            dataset.write_direct_chunk((row, 0, 0, 0), frame.tobytes())  # mask 0: the filter was applied
        _labelled(file, *labels)


def chunked(path: Path, rows: int = 16, **options: object) -> None:
    frames, *labels = _taken(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=frames, chunks=(rows, *frames.shape[1:]), **options)
        _labelled(file, *labels)


def damage_chunk(path: Path, number: int = 20) -> None:
    """Bytes in the middle of one chunk overwritten, as a bad sector does."""
    with h5py.File(path) as file:
        chunk = file["frames"].id.get_chunk_info(number)
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), b"\xff" * 40, chunk.byte_offset + chunk.size // 3)
