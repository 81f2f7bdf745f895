"""A run that was trained, opened to be played."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiw_fsm.api import open_run
from tiw_fsm.play.opening import Opened, open_game


@pytest.fixture(scope="session")
def opened(passed_root: Path) -> Opened:
    """That which has passed, opened in this process."""
    return open_game(open_run(repo_root=passed_root), "cpu")
