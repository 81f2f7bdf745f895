"""A process gets ready for a run that will want one while the command is still finding out what it is to do."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Tiw, children
from tests.support.simulation import Simulation
from tiw_fsm.engines.native import starting
from tiw_fsm.engines.native.engine import NativeEngine
from tiw_fsm.engines.protocol import HelloRequest
from tiw_fsm.errors import ExitCode
from tiw_fsm.storage.paths import StatePaths

HELLO = HelloRequest(device="cpu", threads=1)


@pytest.fixture
def started() -> Callable[[], set[int]]:
    """Tells which processes this one has started meanwhile, and has not waited for."""
    before = set(children(os.getpid()))
    return lambda: set(children(os.getpid())) - before


Started = Callable[[], set[int]]


def test_the_training_process_is_the_one_that_got_ready(tmp_path: Path, started: Started) -> None:
    with starting.ahead(tmp_path / "state" / "none", {}):
        ready = started()
        engine = NativeEngine(sys.executable, StatePaths(tmp_path), 60)
        engine.hello(HELLO)
        assert started() == ready
    assert engine.hello(HELLO).threads == 1  # another one: what was used once is not at hand again
    assert len(started()) == 1
    assert started() != ready
    engine.close()
    assert not started()


def test_one_that_died_while_it_got_ready_costs_nothing(tmp_path: Path, started: Started) -> None:
    with starting.ahead(tmp_path / "state" / "none", {}):
        os.kill(started().pop(), signal.SIGKILL)
        engine = NativeEngine(sys.executable, StatePaths(tmp_path), 60)
        assert engine.hello(HELLO).threads == 1
        engine.close()


@pytest.mark.parametrize("typed", [{"engine": "simulated"}, {"python_exec": "python"}, {"nproc_per_node": 2}])
def test_none_gets_ready_where_it_might_be_another_one(tmp_path: Path, started: Started, typed: dict[str, Any]) -> None:
    with starting.ahead(tmp_path / "default", {}):
        assert len(started()) == 1
    assert not started()
    with starting.ahead(tmp_path / "default", typed):
        assert not started()


def test_none_gets_ready_where_another_runner_is_at_work_or_nothing_is_left_to_do(
    simulation: Simulation, started: Started
) -> None:
    folder = simulation.store.paths.folder
    with simulation.store.hold(), starting.ahead(folder, {}):
        assert not started()
    assert simulation.run() == ExitCode.PASSED
    with starting.ahead(folder, {"engine": "native"}):
        assert not started()


def test_a_state_that_cannot_be_read_is_told_of_by_the_start_itself(
    simulation: Simulation, started: Started, tiw: Tiw
) -> None:
    assert simulation.run() == ExitCode.PASSED
    for path in (simulation.store.paths.state, simulation.store.paths.previous):
        path.write_text("{")
    with starting.ahead(simulation.store.paths.folder, {}):
        assert not started()
    assert tiw(simulation.root, "run").returncode == ExitCode.DAMAGED
