"""Where the system lacks what everything rests on, one sentence says so, before anything else is tried."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiw_fsm.errors import ExitCode

TAKEN = {
    "file locks (Python's fcntl)": "import sys; sys.modules['fcntl'] = None",
    "the signal SIGHUP": "import signal; del signal.SIGHUP",
}
"""What a module that Python imports at its start takes away."""


def refused(done: subprocess.CompletedProcess[str], what: str) -> bool:
    one_line = done.stderr.count("\n") == 1
    return done.returncode == ExitCode.USAGE and one_line and done.stderr.startswith(f"tiw-fsm needs {what}, which")


@pytest.mark.parametrize("what", TAKEN)
@pytest.mark.parametrize("command", ["run", "status"])
def test_what_is_missing_is_said_in_one_sentence(tmp_path: Path, what: str, command: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(TAKEN[what])
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "tiw_fsm", command, "--repo-root", tmp_path],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert refused(done, what), done.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root takes /proc away")
def test_without_proc_it_says_so(tmp_path: Path) -> None:
    script = f"mount -t tmpfs none /proc && exec {sys.executable} -m tiw_fsm run --repo-root {tmp_path}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    if "permission denied" in done.stderr:
        pytest.skip("this container lets nobody mount")
    assert refused(done, "/proc"), done.stderr
