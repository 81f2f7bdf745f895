"""Runs of the native engine as real processes, that a test interrupts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.configs import LENIENT, write_configs, write_frames
from tests.support.processes import Tiw
from tests.support.waiting import wait_for

PASSING = ("--max-mse", "0.9", "--allow-trivial")

LIVELY = {
    "latent_actions": {"film_init_std": 1.0},
    "dynamics": {"film_init_std": 3.0, "n_updates": 60, "masking": "next_frame"},
}
"""So that even a model trained for seconds goes another way by every action."""


def make_root(root: Path, **training: bool | str) -> Path:
    """A working root whose runs pass in seconds, with ``training`` in training.yaml."""
    root.mkdir()
    write_configs(root / "configs", {"training": training, "loop": LENIENT})
    write_frames(root / "frames.h5")
    return root


def make_passed(root: Path) -> Path:
    """The working root of a run that has passed, and whose world obeys."""
    make_root(root)
    write_configs(root / "configs", {"loop": LENIENT, **LIVELY})
    command = [sys.executable, "-m", "tiw_fsm", "run", *PASSING]
    subprocess.run(command, cwd=root, check=True, capture_output=True, env=os.environ, timeout=300)
    return root


def digests(tiw: Tiw, root: Path) -> dict[str, str]:
    found = json.loads(tiw(root, "status", "--json").stdout)
    return {stage: progress["checkpoint"]["sha256"] for stage, progress in found["stages"].items()}


def start(root: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tiw_fsm", "run", *flags],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_generation(root: Path, generation: int, process: subprocess.Popen[str]) -> None:
    """Until the state has reached ``generation``; the run must still be going on then."""

    def reached() -> bool:
        assert process.poll() is None, process.communicate()
        try:
            found: int = json.loads((root / "state/default/state.json").read_text())["generation"]
        except FileNotFoundError:
            return False
        return found >= generation

    wait_for(f"generation {generation}", reached, 120, pause=0.002)
