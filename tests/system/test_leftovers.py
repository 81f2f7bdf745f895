"""Processes that an earlier one left behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.processes import process_state
from tests.support.waiting import wait_for
from tiw_fsm.system import leftovers

MARK = "TIW_FSM_TEST_LEFTOVERS"
IMMORTAL = f"""
import subprocess, sys
while True:
    process = subprocess.Popen(["sleep", "60"], env={{"{MARK}": sys.argv[1], "PATH": "/usr/bin:/bin"}})
    print("there", flush=True)
    process.wait()
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the environment of processes is in /proc")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "PATIENCE", 0.2)


def test_one_is_ended_and_others_are_not() -> None:
    mine, other = (
        subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: value}) for value in (f"{os.getpid()}", "another")
    )
    try:
        wait_for("both", lambda: _has(mine.pid) and _has(other.pid), 10)
        leftovers.end(MARK, f"{os.getpid()}")
        assert process_state(mine.pid) in (None, "Z")
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()


def test_what_goes_on_though_it_is_killed_is_given_up() -> None:
    """As often as it is ended, another takes its place."""
    with subprocess.Popen([sys.executable, "-c", IMMORTAL, f"{os.getpid()}"], stdout=subprocess.PIPE) as keeper:
        try:
            assert keeper.stdout is not None
            keeper.stdout.readline()
            with pytest.raises(TimeoutError, match=r"process \d+ goes on though it was killed"):
                leftovers.end(MARK, f"{os.getpid()}")
        finally:
            keeper.kill()
            keeper.wait()
            leftovers.end(MARK, f"{os.getpid()}")


def _has(pid: int) -> bool:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return MARK.encode() in file.read()
