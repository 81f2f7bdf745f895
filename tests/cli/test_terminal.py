"""What commands do with their output: a full disk behind it is no bug, and a path may look like markup."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.processes import Tiw
from tests.support.simulation import Simulation
from tiw_fsm.errors import ExitCode

PRINTING = [
    ["--help"],
    ["runs", "--help"],
    ["--version"],
    ["init"],
    ["status"],
    ["status", "--json"],
    ["history", "--json"],
    ["check", "--json"],
    ["runs", "--json"],
    ["schedule", "cron"],
]


def with_full_disk(root: Path, stream: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "tiw_fsm", *arguments]
        return subprocess.run(command, cwd=root, text=True, **streams | {stream: full})


def test_a_full_disk_behind_standard_output_is_said_in_one_sentence(simulation: Simulation) -> None:
    simulation.run()
    for arguments in PRINTING:
        done = with_full_disk(simulation.root, "stdout", *arguments, *(["new"] if arguments == ["init"] else []))
        assert (done.returncode, done.stderr.count("\n")) == (ExitCode.DISK, 1), (arguments, done.stderr)
        assert "writing standard output failed: No space left on device" in done.stderr


def test_a_full_disk_behind_standard_error_costs_no_answer(tmp_path: Path) -> None:
    done = with_full_disk(tmp_path, "stderr", "schedule", "cron")
    assert (done.returncode, "tiw-fsm" in done.stdout or "tiw_fsm" in done.stdout) == (ExitCode.PASSED, True)
    assert with_full_disk(tmp_path, "stderr", "status", "--run", "a/b").returncode == ExitCode.USAGE


def test_what_looks_like_markup_in_a_path_is_shown_as_it_is(tmp_path: Path, tiw: Tiw) -> None:
    name = "[bold]/a[/red].h5"
    done = tiw(tmp_path, "record", name, "--frames", "40")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert f"to {name}; `tiw-fsm run --dataset '{name}'` trains on them" in done.stdout
    assert f"{name} is already there" in tiw(tmp_path, "record", name).stdout


def test_a_command_that_is_shown_is_about_the_same_run(simulation: Simulation, tmp_path: Path, tiw: Tiw) -> None:
    simulation.run()
    told = tiw(tmp_path.parent, "metrics", "--repo-root", str(simulation.root)).stdout
    assert f"`tiw-fsm metrics default --repo-root {simulation.root} --csv -o metrics.csv`" in told
