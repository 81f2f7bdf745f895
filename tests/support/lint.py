"""The rules of import, as ``make check`` looks at them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """``lint-imports`` on the package that lies in ``root``, by the contracts in its ``pyproject.toml``."""
    command = [sys.executable, "-P", "-c", LINT, "--config", str(root / "pyproject.toml"), "--no-cache"]
    return subprocess.run(command, cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True)
