"""A model of a disk, for power cuts: what may be on it when the power goes at some operation of a logged run.

It promises as little as POSIX does. Syncing a file makes its bytes durable; syncing a folder makes the changes of its
names durable; nothing else does. Whatever else was done may be on the disk or not, each write and each change of
names for itself, and a write may be there in part.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

DELETED = " (deleted)"
"""What Linux appends to the path of an open file that has no name any more: no cut can bring it back."""


class Operation(NamedTuple):
    """A line of the shim's log: one call that changed or synced files, and succeeded. Paths are below the root."""

    number: int
    process: int
    name: str
    path: str
    other: str
    offset: int
    flags: int
    data: bytes

    @property
    def acknowledged(self) -> int | None:
        """The generation that a commit just returned, if this is the remark that says so and no operation."""
        word, _, generation = self.path.partition(" ")
        return int(generation) if self.name == "mark" and word == "committed" else None


def read_log(path: Path) -> list[Operation]:
    """The operations of a run, in the order in which they happened. A last line cut short does not count."""
    operations = []
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            number, process, name, first, other, offset, flags, data = line[:-1].split("\t")
            operations.append(
                Operation(int(number), int(process), name, first, other, int(offset), int(flags), bytes.fromhex(data))
            )
    return operations


@dataclass
class Tree:
    """Files with their bytes, and folders, by their paths below the root."""

    files: dict[str, bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, root: Path) -> Tree:
        """What is below ``root`` now."""
        found = {str(path.relative_to(root)): path for path in root.rglob("*")}
        return cls(
            {name: path.read_bytes() for name, path in found.items() if path.is_file()},
            {name for name, path in found.items() if path.is_dir()},
        )

    def materialize(self, root: Path) -> None:
        """Make this, and nothing else, be what is below ``root``."""
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for folder in sorted(self.folders):
            (root / folder).mkdir()
        for name, content in self.files.items():
            (root / name).write_bytes(content)

    def digest(self) -> str:
        """Equal trees have equal ones."""
        return hashlib.sha256(repr((sorted(self.folders), sorted(self.files.items()))).encode()).hexdigest()

    def differences(self, other: Tree) -> list[str]:
        """Where ``other`` is not the same, a line each."""
        lines = [f"folder {name} is in one of them only" for name in sorted(self.folders ^ other.folders)]
        for name in sorted(self.files.keys() | other.files.keys()):
            mine, theirs = self.files.get(name), other.files.get(name)
            if mine is None or theirs is None:
                lines.append(f"{name} is in one of them only")
            elif mine != theirs:
                lines.append(f"{name}: {len(mine)} bytes are not these {len(theirs)}")
        return lines


@dataclass(eq=False)
class File:
    """Bytes, whatever their name: as everybody sees them, as the disk has them, and what lies between."""

    now: bytes = b""
    durable: bytes = b""
    pending: list[Write] = field(default_factory=list)

    def change(self, write: Write) -> None:
        self.now = write.on(self.now)
        self.pending.append(write)

    def sync(self) -> None:
        self.durable = self.now
        self.pending.clear()


@dataclass(eq=False)
class Folder:
    """Names, as everybody sees them and as the disk has them."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)


Names = dict[Folder, dict[str, File | Folder]]


class Write(NamedTuple):
    """Bytes at an offset, or, without bytes, a new length."""

    offset: int
    data: bytes | None

    def on(self, content: bytes) -> bytes:
        if self.data is None:
            return content[: self.offset].ljust(self.offset, b"\0")
        return content[: self.offset].ljust(self.offset, b"\0") + self.data + content[self.offset + len(self.data) :]

    def perhaps(self, content: bytes, chance: random.Random) -> bytes:
        """``content`` after a power cut: with this, without it, with a part of it, or only grown by it."""
        fate = chance.choice(("all", "none", "torn", "zeros"))
        if fate == "none":
            return content
        if self.data is None or fate == "all":
            return self.on(content)
        if fate == "torn":
            return Write(self.offset, self.data[: chance.randint(0, len(self.data))]).on(content)
        return content.ljust(self.offset + len(self.data), b"\0")


class Naming(NamedTuple):
    """A name in a folder that came to stand for something, or, for None, for nothing any more."""

    folder: Folder
    name: str
    what: File | Folder | None


class Change(NamedTuple):
    """Namings that reach the disk together or not at all. ``source`` must stand for what it did, or it cannot be."""

    namings: tuple[Naming, ...]
    source: Naming | None = None

    def on(self, names: Names) -> None:
        for folder, name, what in self.namings:
            if what is None:
                names[folder].pop(name, None)
            else:
                names[folder][name] = what

    def possible(self, names: Names) -> bool:
        return self.source is None or names[self.source.folder].get(self.source.name) is self.source.what


class Disk:
    """The disk while a run goes on. What is there at the beginning is durable."""

    def __init__(self, beginning: Tree) -> None:
        self._root = Folder()
        self._folders = [self._root]
        self._pending: list[Change] = []
        for path in sorted(beginning.folders):
            self._folder(PurePosixPath(path).parent).now[PurePosixPath(path).name] = self._new_folder()
        for path, content in beginning.files.items():
            self._folder(PurePosixPath(path).parent).now[PurePosixPath(path).name] = File(content, content)
        for folder in self._folders:
            folder.durable = dict(folder.now)

    def apply(self, op: Operation) -> None:
        """Perform a logged operation."""
        if op.name == "mark" or op.path.endswith(DELETED):
            return
        path = PurePosixPath(op.path)
        match op.name:
            case "open":
                self._open(path, op.flags)
            case "write":
                self._file(path).change(Write(op.offset, op.data))
            case "truncate":
                self._file(path).change(Write(op.offset, None))
            case "fsync":
                self._sync(path)
            case "mkdir":
                self._name(Naming(self._folder(path.parent), path.name, self._new_folder()))
            case "unlink":
                self._name(Naming(self._folder(path.parent), path.name, None))
            case "rename" if op.flags == 0:
                self._rename(path, PurePosixPath(op.other))
            case _:
                raise NotImplementedError(f"this disk knows no {op}")

    def tree(self) -> Tree:
        """What everybody sees: all that was done so far."""
        return _tree(self._root, {folder: folder.now for folder in self._folders}, lambda file: file.now)

    def durable(self) -> Tree:
        """What the disk has if it did nothing but what it had to."""
        return _tree(self._root, {folder: folder.durable for folder in self._folders}, lambda file: file.durable)

    def perhaps(self, chance: random.Random) -> Tree:
        """One of the many things the disk may have."""
        names = {folder: dict(folder.durable) for folder in self._folders}
        for change in self._pending:
            if chance.random() < 0.5 and change.possible(names):
                change.on(names)

        def content(file: File) -> bytes:
            found = file.durable
            for write in file.pending:
                found = write.perhaps(found, chance)
            return found

        return _tree(self._root, names, content)

    def _new_folder(self) -> Folder:
        self._folders.append(Folder())
        return self._folders[-1]

    def _find(self, path: PurePosixPath) -> File | Folder | None:
        found: File | Folder | None = self._root
        for part in path.parts:
            found = found.now.get(part) if isinstance(found, Folder) else None
        return found

    def _folder(self, path: PurePosixPath) -> Folder:
        found = self._find(path)
        assert isinstance(found, Folder), f"{path} is no folder"
        return found

    def _file(self, path: PurePosixPath) -> File:
        found = self._find(path)
        assert isinstance(found, File), f"{path} is no file"
        return found

    def _open(self, path: PurePosixPath, flags: int) -> None:
        if self._find(path) is None:
            self._name(Naming(self._folder(path.parent), path.name, File()))
        elif flags & os.O_TRUNC:
            self._file(path).change(Write(0, None))

    def _rename(self, path: PurePosixPath, other: PurePosixPath) -> None:
        source = Naming(self._folder(path.parent), path.name, self._find(path))
        target = Naming(self._folder(other.parent), other.name, source.what)
        self._name(source._replace(what=None), target, source=source)

    def _name(self, *namings: Naming, source: Naming | None = None) -> None:
        change = Change(namings, source)
        change.on({folder: folder.now for folder in self._folders})
        self._pending.append(change)

    def _sync(self, path: PurePosixPath) -> None:
        found = self._find(path)
        if isinstance(found, File):
            return found.sync()
        done = [change for change in self._pending if any(naming.folder is found for naming in change.namings)]
        for change in done:
            change.on({folder: folder.durable for folder in self._folders})
        self._pending = [change for change in self._pending if change not in done]
        return None


def _tree(root: Folder, names: Names, content: Callable[[File], bytes]) -> Tree:
    tree = Tree()

    def walk(folder: Folder, prefix: str) -> None:
        for name, what in names[folder].items():
            if isinstance(what, Folder):
                tree.folders.add(prefix + name)
                walk(what, f"{prefix}{name}/")
            else:
                tree.files[prefix + name] = content(what)

    walk(root, "")
    return tree


def replayed(beginning: Tree, log: Iterable[Operation]) -> Disk:
    """A disk on which the operations of a log were performed."""
    disk = Disk(beginning)
    for op in log:
        disk.apply(op)
    return disk


def images(beginning: Tree, log: Sequence[Operation], cut: int, *, some: int, seed: int) -> Iterator[Tree]:
    """What the disk may hold if the power goes after the first ``cut`` operations of a log.

    First with nothing done that need not be, then with everything done, then ``some`` in between.
    """
    disk = replayed(beginning, log[:cut])
    yield disk.durable()
    yield disk.tree()
    chance = random.Random(f"{seed} {cut}")
    for _ in range(some):
        yield disk.perhaps(chance)
