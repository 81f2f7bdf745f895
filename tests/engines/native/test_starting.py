"""A process gets ready for a run that will want one while the command is still finding out what it is to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.native_runs import make_root, wait_for_generation
from tests.support.processes import Tiw, children
from tests.support.simulation import Simulation
from tests.support.waiting import wait_for
from tiw_fsm.engines.native import starting
from tiw_fsm.engines.native.engine import NativeEngine
from tiw_fsm.engines.native.settings import NativeSettings
from tiw_fsm.engines.protocol import HelloRequest
from tiw_fsm.errors import ExitCode
from tiw_fsm.storage.paths import StatePaths

HELLO = HelloRequest(device="cpu", threads=1)


@pytest.fixture
def started() -> Iterator[Callable[[], set[int]]]:
    """Tells which processes this one has started meanwhile, and has not waited for."""
    before = set(children(os.getpid()))
    yield lambda: set(children(os.getpid())) - before
    starting.taken(fits=False)


Started = Callable[[], set[int]]


def test_the_training_process_is_the_one_that_got_ready(tmp_path: Path, started: Started) -> None:
    starting.get_ready()
    ready = started()
    starting.end_unless_wanted(tmp_path / "state" / "none", {})
    engine = NativeEngine(sys.executable, StatePaths(tmp_path), 60)
    engine.hello(HELLO)
    assert started() == ready
    assert engine.hello(HELLO).threads == 1  # another one: what was used once is not at hand again
    assert len(started()) == 1
    assert started() != ready
    engine.close()
    assert not started()


def test_one_that_died_while_it_got_ready_costs_nothing(tmp_path: Path, started: Started) -> None:
    starting.get_ready()
    os.kill(started().pop(), signal.SIGKILL)
    engine = NativeEngine(sys.executable, StatePaths(tmp_path), 60)
    assert engine.hello(HELLO).threads == 1
    engine.close()


def test_one_of_another_interpreter_is_not_the_one_that_got_ready_which_ends(tmp_path: Path, started: Started) -> None:
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    starting.get_ready()
    ready = started()
    engine = NativeEngine(str(other), StatePaths(tmp_path), 60)
    assert engine.hello(HELLO).threads == 1
    assert len(started()) == 1
    assert started() != ready
    engine.close()


def test_of_several_processes_none_is_the_one_that_got_ready_which_ends(tmp_path: Path, started: Started) -> None:
    starting.get_ready()
    (ready,) = started()
    engine = NativeEngine(sys.executable, StatePaths(tmp_path), 60, NativeSettings(per_node=2, by_flag=True))
    assert engine.hello(HELLO.evolve(counts=[1, 2])).processes == 2
    assert ready not in started()
    engine.close()


def test_it_ends_where_another_engine_trains(tmp_path: Path, started: Started) -> None:
    starting.get_ready()
    starting.end_unless_wanted(tmp_path / "default", {})
    assert len(started()) == 1
    starting.end_unless_wanted(tmp_path / "default", {"engine": "simulated"})
    assert not started()


def test_it_ends_where_another_runner_is_at_work_or_nothing_is_left_to_do(
    simulation: Simulation, started: Started
) -> None:
    folder = simulation.store.paths.folder
    starting.get_ready()
    with simulation.store.hold():
        starting.end_unless_wanted(folder, {})
    assert not started()
    assert simulation.run() == ExitCode.PASSED
    starting.get_ready()
    starting.end_unless_wanted(folder, {"engine": "native"})
    assert not started()


def test_a_state_that_cannot_be_read_is_told_of_by_the_start_itself(
    simulation: Simulation, started: Started, tiw: Tiw
) -> None:
    assert simulation.run() == ExitCode.PASSED
    for path in (simulation.store.paths.state, simulation.store.paths.previous):
        path.write_text("{")
    starting.get_ready()
    starting.end_unless_wanted(simulation.store.paths.folder, {})
    assert not started()
    assert tiw(simulation.root, "run").returncode == ExitCode.DAMAGED


def alike(mark: str) -> list[bytes]:
    """The commands of all processes that have ``mark`` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes())
    return found


def test_a_run_is_trained_by_one_that_got_ready_and_no_command_leaves_one(tmp_path: Path) -> None:
    root, mark = make_root(tmp_path / "root"), f"TIW_FSM_TEST={tmp_path}"
    command, environment = [sys.executable, "-m", "tiw_fsm", "run"], os.environ | dict([mark.split("=", 1)])
    with subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.DEVNULL) as run:
        wait_for_generation(root, 2, run)
        assert any(b"starter.py\0-\0" in each for each in alike(mark))
        run.kill()
    wait_for("its end", lambda: not alike(mark), 30)
    for words in (["--help"], ["--bogus"], ["--config-dir", "none"]):
        subprocess.run([*command, *words], cwd=root, env=environment, capture_output=True)
        wait_for("its end", lambda: not alike(mark), 30)
