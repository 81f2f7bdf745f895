"""A run that an earlier version of the package began is continued by this one, with the numbers of its own kernels."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.amounts import whole_too
from tests.support.configs import LENIENT, write_configs, write_frames
from tests.support.processes import Tiw
from tests.support.run_folder import RunFolder
from tests.support.waiting import wait_for
from tiw_fsm.errors import ExitCode
from tiw_fsm.stages import Stage

BEFORE = "0f1cb3c"
"""The last commit of the flat package, before it was laid out in folders."""
WITHOUT_MATPLOTLIB = "\n\ndef draw(*arguments: object) -> bool:\n    return False\n"
"""It drew its curves by a library that is no longer installed; nothing else depends on them."""
PROJECT = Path(__file__).parents[2]
FLAGS = ("run", "--max-mse", "0.9", "--allow-trivial")


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it was."""
    archive = subprocess.run(["git", "archive", BEFORE, "tiw_fsm"], cwd=PROJECT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"the history of this clone does not reach back to {BEFORE}")
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    with open(folder / "tiw_fsm/curves.py", "a") as curves:
        curves.write(WITHOUT_MATPLOTLIB)
    return folder


def start(older: Path, root: Path) -> subprocess.Popen[bytes]:
    """A run by the older package, in a working root of its own."""
    root.mkdir()
    write_configs(root / "configs", {"loop": LENIENT})
    write_frames(root / "frames.h5")
    return subprocess.Popen(
        [sys.executable, "-m", "tiw_fsm", *FLAGS],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(older)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


Losses = dict[Stage, list[float]]


def losses(root: Path) -> Losses:
    return {stage: [row["loss"] for row in RunFolder(root).rows(stage)] for stage in Stage}


@pytest.fixture(scope="module")
def undisturbed(older: Path, tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """Those of the older package's run when nobody disturbs it."""
    root = tmp_path_factory.mktemp("undisturbed") / "root"
    assert start(older, root).wait(300) == ExitCode.PASSED
    return losses(root)


@pytest.mark.parametrize("generation", [7, *map(whole_too, (2, 13))])
def test_a_run_begun_by_the_flat_package_is_continued(
    older: Path, undisturbed: Losses, tmp_path: Path, tiw: Tiw, generation: int
) -> None:
    """What was computed before stays; what follows differs from what would have followed by rounding alone."""
    root = tmp_path / "root"
    begun = start(older, root)
    state = root / "state/default/state.json"
    wait_for(
        f"generation {generation}",
        lambda: state.exists() and json.loads(state.read_text())["generation"] >= generation,
        120,
        pause=0.002,
    )
    begun.kill()
    assert begun.wait() == -signal.SIGKILL
    done = {stage: progress.completed for stage, progress in RunFolder(root).state.stages.items()}
    refused = tiw(root, "run")
    assert refused.returncode == ExitCode.CHANGED
    assert "the code of tiw_fsm" in refused.stderr
    assert tiw(root, "run", "--accept-changes").returncode == ExitCode.PASSED
    for stage, found in losses(root).items():
        completed = done.get(stage, 0)
        assert found[:completed] == undisturbed[stage][:completed], stage
        assert found == pytest.approx(undisturbed[stage], rel=1e-2), stage
    assert [entry.what for entry in RunFolder(root).state.inexact if "code" not in entry.what] == []
    assert tiw(root, "verify").returncode == ExitCode.PASSED


@pytest.mark.whole
def test_status_history_and_verify_read_a_state_of_the_flat_package(older: Path, tmp_path: Path, tiw: Tiw) -> None:
    root = tmp_path / "root"
    assert start(older, root).wait(300) == ExitCode.PASSED
    for command in ("status", "history", "report", "graph", "verify"):
        done = tiw(root, command)
        assert done.returncode == ExitCode.PASSED, (command, done.stdout, done.stderr)
    assert tiw(root, "run").returncode == ExitCode.PASSED  # it had passed before: nothing to do
