"""A run that was trained, to be played."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.configs import LENIENT, write_configs
from tests.support.native_runs import PASSING, make_root
from tiw_fsm.api import open_run
from tiw_fsm.play.opening import Opened, open_game

LIVELY = {
    "latent_actions": {"film_init_std": 1.0},
    "dynamics": {"film_init_std": 3.0, "n_updates": 60, "masking": "next_frame"},
}
"""So that even a model trained for seconds goes another way by every action."""


@pytest.fixture(scope="session")
def played_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working root of a run that has passed; tests must leave it as it is."""
    root = make_root(tmp_path_factory.mktemp("played") / "root")
    write_configs(root / "configs", {"loop": LENIENT, **LIVELY})
    command = [sys.executable, "-m", "tiw_fsm", "run", *PASSING]
    subprocess.run(command, cwd=root, check=True, capture_output=True, env=os.environ, timeout=300)
    return root


@pytest.fixture(scope="session")
def opened(played_root: Path) -> Opened:
    """The same run, opened in this process."""
    return open_game(open_run(repo_root=played_root), "cpu")
