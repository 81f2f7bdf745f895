"""The files in which the rows of a frame file lie beside itself: those of virtual datasets, links and raw storage.

HDF5 looks for them when it reads, and where one is missing it mostly gives zeros and says nothing. So they are looked
up here before anything is read, in the places and the order in which HDF5 looks.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from tiw_fsm.data import layout
from tiw_fsm.data.h5 import reading

DATASETS = ("frames", "episode", "actions")
"""What is read of a frame file."""
MOST_SOURCES = 10_000
"""Datasets that a file may rest on; years of play in a file per session."""
MOST_PROBLEMS = 8
"""Told of at once; further ones are not looked for."""
DEEPEST = 16
"""Links and virtual datasets one behind the other; HDF5 follows no more links, and a circle of datasets kills it."""
ORIGIN = "${ORIGIN}"
"""In a prefix: the folder of the file that names another."""
NUMBERED = re.compile("%([%b])")
"""In the name of a virtual dataset's source: a percent sign, or the number of the block."""


class Sources(NamedTuple):
    """What a frame file rests on."""

    files: tuple[Path, ...]
    """Other files, in the order in which they are named first; those that are missing are not among them."""
    problems: tuple[str, ...]
    """Why rows cannot be what they were, each with its remedy."""
    unwritten: tuple[str, ...]
    """What was declared and never stored."""


_Taken = int | tuple[int, ...]
"""What a virtual dataset takes of a source: all its values, so many; or what lies within these sizes."""


class _Place(NamedTuple):
    """A dataset to look at."""

    file: Path
    name: str
    way: tuple[tuple[str, str], ...] = ()
    """Real path and name of the datasets that led here."""
    takes: _Taken = ()
    """What is taken of it."""


def of(path: Path) -> Sources:
    """What the rows of a frame file rest on.

    Raises:
        UsageProblem, DiskRefused: as ``reading`` says, of this file or of one that it rests on.
    """
    walk = _Walk(path)
    walk.go()
    return Sources(tuple(walk.files.values()), tuple(walk.problems), tuple(walk.unwritten))


class _Walk:
    """From dataset to dataset, each but once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, Path] = {}
        self.problems: list[str] = []
        self.unwritten: list[str] = []
        self._pending = deque(_Place(path, name) for name in DATASETS)
        self._seen: set[tuple[str, str]] = set()

    def go(self) -> None:
        while self._pending and len(self.problems) < MOST_PROBLEMS:
            place = self._pending.popleft()
            key = os.path.realpath(place.file), place.name
            if key in place.way or len(place.way) > DEEPEST or len(self._seen) >= MOST_SOURCES:
                self.problems.append(
                    f"{self.path}: its rows rest on more than {MOST_SOURCES} datasets, or on datasets that lie more "
                    f"than {DEEPEST} links away or in a circle; write them into one file"
                )
                return
            if key in self._seen:
                continue
            self._seen.add(key)
            with reading(place.file), h5py.File(place.file, "r") as file:
                self._look(file, place._replace(way=(*place.way, key)))

    def _look(self, file: h5py.File, place: _Place) -> None:
        dataset = self._resolved(file, place)
        if not isinstance(dataset, h5py.Dataset):
            return
        said = f"{place.file}: `{place.name}`"
        if not _holds(dataset, place.takes):
            self.problems.append(
                f"{said} has shape {dataset.shape}, which is not what {self.path} takes of it; put back the file that "
                "it was made of"
            )
        if dataset.is_virtual:
            self._virtual(dataset, place)
        elif dataset.external:
            self._raw(dataset, place)
        if lacking := layout.missing_filters(dataset) if not dataset.is_virtual and dataset.size else None:
            self.problems.append(f"{said} {lacking}")
        if missing := layout.never_written(dataset):
            self.unwritten.append(f"{said}: {missing}")

    def _resolved(self, file: h5py.File, place: _Place) -> Any:
        """The object of that name in the file itself; None where a link leads on from it, or to nothing."""
        found: Any = file
        parts = [part for part in place.name.split("/") if part not in ("", ".")]
        for number, part in enumerate(parts, 1):
            link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
            rest = "/".join(["", *parts[number:]])
            if isinstance(link, h5py.ExternalLink):
                if target := self._found(link.filename, place.file, "HDF5_EXT_PREFIX"):
                    self._pending.append(_Place(target, link.path + rest, place.way, place.takes))
                return None
            if isinstance(link, h5py.SoftLink):
                where = "" if link.path.startswith("/") else f"{found.name}/"
                self._pending.append(_Place(place.file, where + link.path + rest, place.way, place.takes))
                return None
            if link is None:
                if len(place.way) > 1:
                    self.problems.append(
                        f"{place.file}: has no dataset `{place.name}`, of which {self.path} is made; put it back"
                    )
                return None
            found = found[part]
        return found

    def _virtual(self, dataset: h5py.Dataset, place: _Place) -> None:
        taken: dict[tuple[str, str], _Taken] = {}
        mapped = 0
        for source in dataset.virtual_sources():
            names = source.file_name, source.dset_name
            try:
                values = source.vspace.get_select_npoints()
            except (RuntimeError, ValueError):  # it has no end, so HDF5 itself takes what there is
                taken[names], mapped = (), dataset.size
                continue
            mapped += values
            taken[names] = _both(taken.get(names), _taken(source.src_space, values))
        if mapped < dataset.size:
            self.problems.append(
                f"{place.file}: `{place.name}` is virtual, and {dataset.size - mapped} of its {dataset.size} values "
                "come from nowhere: HDF5 reads zeros there; make it anew of files that hold all rows"
            )
        for (file_name, dset_name), takes in taken.items():
            for file, name in self._numbered(file_name, dset_name, place.file):
                self._pending.append(_Place(file, name, place.way, takes))

    def _numbered(self, file_name: str, dset_name: str, named_in: Path) -> Iterator[tuple[Path, str]]:
        """The datasets that a source's names mean; where they hold a block's number, those of all blocks there are."""
        prefix = "HDF5_VDS_PREFIX"
        if not any("b" in NUMBERED.findall(name) for name in (file_name, dset_name)):
            file = named_in if file_name == "." else self._found(_filled(file_name, 0), named_in, prefix)
            if file:
                yield file, _filled(dset_name, 0)
            return
        for block in range(MOST_SOURCES + 1):
            names = _filled(file_name, block), _filled(dset_name, block)
            places = [named_in] if file_name == "." else _candidates(names[0], named_in, prefix)
            there = next((path for path in places if path.is_file() and _has(path, names[1])), None)
            if there is None:
                break
            self._add(there)
            yield there, names[1]
        if later := _later_block(file_name, named_in, block):
            self.problems.append(
                f"{self.path}: its rows lie in files that are numbered, and {names[0]} is missing although there is "
                f"{later}; put it back"
            )

    def _raw(self, dataset: h5py.Dataset, place: _Place) -> None:
        """Raw storage is looked for from the working directory, not from the file that names it."""
        left = dataset.size * dataset.dtype.itemsize
        for name, offset, size in dataset.external:
            here = min(left, size)
            left -= here
            path = Path(_expanded(os.environ.get("HDF5_EXTFILE_PREFIX") or "", place.file), name)
            if not path.is_file():
                self.problems.append(f"{self.path}: its rows lie in {path.absolute()}, which is missing; put it back")
                continue
            self._add(path)
            if path.stat().st_size < offset + here:
                self.problems.append(
                    f"{path.absolute()}: has {path.stat().st_size} bytes, and {self.path} reads up to byte "
                    f"{offset + here} of it: it was cut short; put it back"
                )

    def _found(self, name: str, named_in: Path, prefix: str) -> Path | None:
        """Where HDF5 finds a file that another names; that it is missing is a problem."""
        places = list(dict.fromkeys(path.absolute() for path in _candidates(name, named_in, prefix)))
        there = [path for path in places if path.is_file()]
        if not there:
            looked = " and ".join(map(str, places))
            self.problems.append(
                f"{self.path}: its rows lie in other files too, and {name} is missing (looked for as {looked}), for "
                "which HDF5 may read zeros; put it back"
            )
            return None
        found = next((path for path in there if h5py.is_hdf5(path)), there[0])
        self._add(found)
        return found

    def _add(self, path: Path) -> None:
        real = os.path.realpath(path)
        if real != os.path.realpath(self.path):
            self.files.setdefault(real, path)


def _taken(space: h5py.h5s.SpaceID, values: int) -> _Taken:
    """What a selection of a source takes of it."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return values
    return tuple(int(end) + 1 for end in space.get_select_bounds()[1])


def _both(one: _Taken | None, other: _Taken) -> _Taken:
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        return tuple(map(max, one, other))
    return other


def _holds(dataset: h5py.Dataset, takes: _Taken) -> bool:
    if isinstance(takes, int):
        return bool(dataset.size == takes)
    return not takes or (dataset.ndim == len(takes) and all(map(int.__ge__, dataset.shape, takes)))


def _candidates(name: str, named_in: Path, prefix: str) -> Iterator[Path]:
    """Where HDF5 looks for a file that another names, in its order."""
    if os.path.isabs(name):
        yield Path(name)
        name = os.path.basename(name)
    if given := os.environ.get(prefix):
        yield from (Path(_expanded(folder, named_in), name) for folder in [*given.split(os.pathsep), given] if folder)
    yield named_in.parent / name
    yield Path(name)
    yield Path(os.path.realpath(named_in)).parent / name


def _expanded(prefix: str, named_in: Path) -> str:
    return str(named_in.parent.absolute()) + prefix.removeprefix(ORIGIN) if prefix.startswith(ORIGIN) else prefix


def _filled(name: str, block: int) -> str:
    return NUMBERED.sub(lambda found: "%" if found[1] == "%" else str(block), name)


def _has(path: Path, name: str) -> bool:
    with reading(path), h5py.File(path, "r") as file:
        return name in file


def _later_block(file_name: str, named_in: Path, missing: int) -> str | None:
    """A file of a later block than the first that is missing: a block was lost, and HDF5 stops before it."""
    folder = (named_in.parent / file_name).parent
    parts = NUMBERED.split(os.path.basename(file_name))
    pattern = "".join(re.escape(p) if n % 2 == 0 else r"(\d+)" if p == "b" else "%" for n, p in enumerate(parts))
    names = (entry.name for entry in os.scandir(folder)) if folder.is_dir() else ()
    matches = ((re.fullmatch(pattern, name), name) for name in names)
    return next((name for found, name in matches if found and found.groups() and int(found[1]) > missing), None)
