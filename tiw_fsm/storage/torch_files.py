"""Read what ``torch.save`` wrote, without torch and without executing anything in it.

Such a file is an archive (``torch_archive``) of one pickle that describes objects (``inert_pickle``) and of the blocks
of elements that its tensors are views of (``stored_tensors``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tiw_fsm.storage.inert_pickle import HARMLESS, PickleMachine, Record
from tiw_fsm.storage.stored_tensors import StoredTensor
from tiw_fsm.storage.torch_archive import Archive, UnreadableFile
from tiw_fsm.values.printable import LONGEST, excerpt

__all__ = ["Record", "StoredTensor", "UnreadableFile", "read", "read_with_globals", "shown_key", "tensors"]

_DEEPEST = 32  # an optimizer's tensors lie three deep


def read(path: Path) -> Any:
    """The object saved in ``path``, its tensors as `StoredTensor`, its foreign objects as `Record`.

    Raises:
        UnreadableFile: no file, not one of torch.save's, damaged, or implausibly large.
    """
    return PickleMachine(Archive(path)).run()


def read_with_globals(path: Path) -> tuple[Any, list[str]]:
    """What `read` returns, and the names of the classes and functions in ``path`` beyond what tensors need.

    A model or optimizer file names none. One that names, say, ``posix.system`` may run it when torch loads it.

    Raises:
        UnreadableFile: as `read`.
    """
    machine = PickleMachine(Archive(path))
    content = machine.run()
    return content, [excerpt(name) for name in dict.fromkeys(machine.named) if name not in HARMLESS]


def tensors(value: Any) -> Iterator[tuple[str, StoredTensor]]:
    """Every tensor within nested dicts, lists and tuples, with its dotted name; each object only once.

    Raises:
        UnreadableFile: they are nested deeper than any checkpoint's.
    """
    pending: list[tuple[_Way | None, Any]] = [(None, value)]
    seen = set()
    while pending:
        way, node = pending.pop()
        if id(node) in seen or not isinstance(node, StoredTensor | dict | list | tuple):
            continue
        if way and way.depth > _DEEPEST:
            raise UnreadableFile(f"values are nested more than {_DEEPEST} deep, which no checkpoint's are.")
        seen.add(id(node))
        if isinstance(node, StoredTensor):
            yield str(way or ""), node
            continue
        children = node.items() if isinstance(node, dict) else enumerate(node)
        depth = way.depth + 1 if way else 1
        pending += reversed([(_Way(way, key, depth), child) for key, child in children])


class _Way(NamedTuple):
    """Where a value lies within others. Put into words only for what is told of: a hostile file has many."""

    above: _Way | None
    key: object
    depth: int

    def __str__(self) -> str:
        return (f"{self.above}." if self.above else "") + shown_key(self.key)


def shown_key(key: object) -> str:
    """A key for people: not at any length, and without what a terminal would obey."""
    match key:
        case str():
            return excerpt(key)
        case bytes():
            return excerpt(repr(key[:LONGEST]))
        case Record():
            return excerpt(key.qualified)
    return str(key)
