"""Read what ``torch.save`` wrote, without torch and without executing anything in it.

Such a file is an archive (``torch_archive``) of one pickle that describes objects (``inert_pickle``) and of the blocks
of elements that its tensors are views of (``stored_tensors``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiw_fsm.storage.inert_pickle import HARMLESS, PickleMachine, Record
from tiw_fsm.storage.stored_tensors import StoredTensor
from tiw_fsm.storage.torch_archive import Archive, UnreadableFile

__all__ = ["Record", "StoredTensor", "UnreadableFile", "read", "read_with_globals", "tensors"]

_DEEPEST = 32  # an optimizer's tensors lie three deep
_LONGEST_NAME = 200  # letters shown of one key


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
    return content, [_shown(name) for name in dict.fromkeys(machine.named) if name not in HARMLESS]


def tensors(value: Any) -> Iterator[tuple[str, StoredTensor]]:
    """Every tensor within nested dicts, lists and tuples, with its dotted name; each container only once.

    Raises:
        UnreadableFile: they are nested deeper than any checkpoint's.
    """
    pending, seen = [("", 0, value)], set()
    while pending:
        name, depth, node = pending.pop()
        if depth > _DEEPEST:
            raise UnreadableFile(f"values are nested more than {_DEEPEST} deep, which no checkpoint's are.")
        if isinstance(node, StoredTensor):
            yield name, node
        if id(node) in seen or not isinstance(node, dict | list | tuple):
            continue
        seen.add(id(node))
        children = node.items() if isinstance(node, dict) else enumerate(node)
        dot = "." if name else ""
        pending += reversed([(f"{name}{dot}{_shown(key)}", depth + 1, child) for key, child in children])


def _shown(key: object) -> str:
    """A key for people, without what a terminal would obey."""
    text = str(key)[:_LONGEST_NAME]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
