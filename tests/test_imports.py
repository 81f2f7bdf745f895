"""Which folder of the package may import which: one order, from top to bottom, and nothing imports upward."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import tiw_fsm

PACKAGE = Path(tiw_fsm.__path__[0])
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
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
            {"values", "stages", "errors", "version"},
        ),
    )
)
"""The floors, top to bottom: each imports itself and those below it."""
ALONE = {"fsm": {"fsm", "values", "stages", "config"}, "tinyworlds": {"tinyworlds", "values", "stages"}}
"""Floors that may import less than lies below them."""


def floor(module: str) -> str:
    """The folder, or the module of the top, that a module ``tiw_fsm.…`` lies in."""
    return module.split(".")[1]


def imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The floors that are imported by ``nodes``."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (floor(alias.name) for alias in node.names if alias.name.split(".")[0] == "tiw_fsm")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tiw_fsm":
            yield from (floor(f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward_only(path: Path) -> None:
    """The machine, the engines and the command line are never imported from below, not even for a type checker."""
    mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    (place,) = (place for place, names in enumerate(ORDER) if mine in names)
    allowed = ALONE.get(mine, {mine}.union(*ORDER[place + 1 :]))
    assert set(imports(ast.walk(ast.parse(path.read_text())))) <= allowed


def test_the_package_itself_imports_nothing_but_its_version() -> None:
    """The names it offers are looked up when they are first used."""
    source = ast.parse((PACKAGE / "__init__.py").read_text())
    assert set(imports(source.body)) == {"version"}
