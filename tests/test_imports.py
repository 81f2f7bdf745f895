"""Which folder of the package may import which: one order, from top to bottom, and nothing imports upward."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tiw_fsm

PACKAGE = Path(tiw_fsm.__path__[0])
MODULES = sorted(PACKAGE.rglob("*.py"))
ORDER: tuple[frozenset[str], ...] = tuple(
    map(
        frozenset,
        (
            {"__main__"},
            {"cli"},
            {"api"},
            {"run"},
            {"reporting", "scheduling"},
            {"engines"},
            {"storage"},
            {"fsm"},
            {"config"},
            {"data"},
            {"tinyworlds"},
            {"system"},
            {"values", "stages", "errors"},
        ),
    )
)
"""The floors, top to bottom: each imports itself and those below it."""
ALONE = {"fsm": {"fsm", "values", "stages", "config"}, "tinyworlds": {"tinyworlds", "values", "stages"}}
"""Floors that may import less than lies below them."""


def floor(module: str) -> str:
    """The folder, or the module of the top, that a module ``tiw_fsm.…`` lies in."""
    return module.split(".")[1]


def imports(path: Path) -> Iterator[str]:
    """The floors that a module imports, within functions and for type checkers, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (floor(alias.name) for alias in node.names if alias.name.split(".")[0] == "tiw_fsm")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tiw_fsm":
            names = (
                [f"tiw_fsm.{alias.name}" for alias in node.names] if node.module == "tiw_fsm" else [node.module or ""]
            )
            yield from (floor(name) for name in names if name != "tiw_fsm.__version__")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward_only(path: Path) -> None:
    """The machine, the engines and the command line are never imported from below."""
    mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if mine == "__init__":
        assert set(imports(path)) <= {"api"}
        return
    (place,) = (place for place, names in enumerate(ORDER) if mine in names)
    allowed = ALONE.get(mine, {mine}.union(*ORDER[place + 1 :]))
    assert set(imports(path)) <= allowed
