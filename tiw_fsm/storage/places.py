"""Where a run's files are, told so that the run may be moved: below its working root, paths are kept relative to it.

In memory every path is absolute; on the disk (state, journal, results, configuration) one below the working root is
relative to that root, and the state says where the root lies as seen from its own folder. So a run that is moved,
copied or mounted elsewhere, root and all, names its own files. What lies outside the root stands there as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiw_fsm.values.plain import JsonObject

PATHS = frozenset(
    [
        *("path", "png", "result", "picture", "checkpoint", "accepted", "reports"),
        *("run_root", "repo_root", "python_exec", "torchrun"),
    ]
)
"""Keys of a document whose value, if it is a string or a list of them, are paths."""
PATHS_BY_NAME = frozenset({"warm_starts", "configs"})
"""Keys whose value holds paths by name."""
AS_TYPED = frozenset({"flags"})
"""Keys below which nothing is touched: what somebody typed is read relative to the working root anyway."""


def root_of(state: JsonObject, folder: Path) -> Path | None:
    """The working root of the run whose state, as it stands in its file, lies in ``folder``; None if it tells none."""
    root = state.get("root")
    return Path(os.path.normpath(os.path.join(folder.resolve(), root))) if isinstance(root, str) and root else None


def root_seen_from(folder: Path, root: Path) -> str:
    """How a state in ``folder`` names its working root: relative if it lies below it, so that both can be moved."""
    folder = folder.resolve()
    return os.path.relpath(root, folder) if folder.is_relative_to(root) else str(root)


def portable(document: JsonObject, root: Path) -> JsonObject:
    """``document`` for the disk: paths below ``root`` relative to it."""
    return _mapped(document, lambda path: relative(path, root))


def absolute(document: JsonObject, root: Path) -> JsonObject:
    """``document`` as it is worked with: every path absolute."""
    return _mapped(document, lambda path: os.path.normpath(root / path))


def moved(document: JsonObject, before: Path, now: Path) -> JsonObject:
    """``document`` with what lay below the folder ``before`` below ``now``."""
    return _mapped(document, lambda path: str(now / relative(path, before)))


def relative(path: str, root: Path) -> str:
    """``path`` as seen from ``root``, if it lies below it; else as it is."""
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path


def _mapped(document: JsonObject, change: Callable[[str], str]) -> JsonObject:
    return {key: _value(key, value, change) for key, value in document.items()}


def _value(key: str, value: Any, change: Callable[[str], str]) -> Any:
    match value:
        case dict() if key in PATHS_BY_NAME:
            return {name: change(path) for name, path in value.items()}
        case dict() if key not in AS_TYPED:
            return _mapped(value, change)
        case str() if key in PATHS and value:
            return change(value)
        case list():
            return [_value(key, each, change) for each in value]
    return value
