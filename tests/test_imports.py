"""Which folder of the package may import which: the contracts of pyproject.toml hold, and they would be missed."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from tests.support.lint import lint_imports

PROJECT = Path(__file__).parent.parent


def test_imports_point_downward_only() -> None:
    """The machine, the engines and the command line are never imported from below."""
    done = lint_imports(PROJECT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("system/locking.py", "from tiw_fsm.stages import STAGES\nfrom tiw_fsm.fsm import states"),
        ("storage/paths.py", "def late():\n    from tiw_fsm import engines"),
        ("engines/protocol.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tiw_fsm.run.launch"),
        ("reporting/status.py", "import tiw_fsm.scheduling"),
        ("fsm/table.py", "from tiw_fsm.system import durable"),
        ("fsm/retune.py", "from tiw_fsm.errors import UsageProblem"),
        ("tinyworlds/clips.py", "from tiw_fsm.errors import UsageProblem"),
        ("values/plain.py", "from tiw_fsm.stages import Stage"),
        ("newcomer.py", ""),
    ],
    ids=lambda value: value if value.endswith(".py") else "",
)
def test_an_import_that_breaks_a_rule_is_found(tmp_path: Path, module: str, line: str) -> None:
    """At the top, in a function, or for type checkers; a module that no rule places is found, too."""
    shutil.copytree(PROJECT / "tiw_fsm", tmp_path / "tiw_fsm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    changed = tmp_path / "tiw_fsm" / module
    changed.write_text((changed.read_text() if changed.exists() else "") + f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert module.removesuffix(".py").replace("/", ".") in done.stdout


def test_the_package_itself_imports_nothing_but_its_version() -> None:
    """The names it offers are looked up when they are first used."""
    source = ast.parse((PROJECT / "tiw_fsm/__init__.py").read_text())
    imported = [node.module for node in source.body if isinstance(node, ast.ImportFrom)]
    imported += [alias.name for node in source.body if isinstance(node, ast.Import) for alias in node.names]
    assert {name for name in imported if name and name.startswith("tiw_fsm")} == {"tiw_fsm.version"}
