"""A process gets ready for a run that will want one while the command is still finding out what it is to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
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


def started(folder: Path, typed: Mapping[str, Any]) -> int:
    """How many processes got ready, and that none is left."""
    before = children(os.getpid())
    with starting.ahead(folder, typed):
        found = len(children(os.getpid())) - len(before)
    assert children(os.getpid()) == before
    return found


def test_the_training_process_is_the_one_that_got_ready(tmp_path: Path) -> None:
    with starting.ahead(tmp_path / "state" / "none", {}):
        [ready] = children(os.getpid())
        engine = NativeEngine(sys.executable, StatePaths(tmp_path), 60)
        engine.hello(HELLO)
        assert children(os.getpid()) == [ready]
    assert engine.hello(HELLO).threads == 1  # another one: what was used once is not at hand again
    assert len(children(os.getpid())) == 1
    engine.close()
    assert not children(os.getpid())


def test_one_that_died_while_it_got_ready_costs_nothing(tmp_path: Path) -> None:
    with starting.ahead(tmp_path / "state" / "none", {}):
        os.kill(*children(os.getpid()), 9)
        engine = NativeEngine(sys.executable, StatePaths(tmp_path), 60)
        assert engine.hello(HELLO).threads == 1
        engine.close()


@pytest.mark.parametrize("typed", [{"engine": "simulated"}, {"python_exec": "python"}, {"nproc_per_node": 2}])
def test_none_gets_ready_where_it_might_be_another_one(tmp_path: Path, typed: dict[str, Any]) -> None:
    assert started(tmp_path / "default", {}) == 1
    assert started(tmp_path / "default", typed) == 0


def test_none_gets_ready_where_another_runner_is_at_work_or_nothing_is_left_to_do(simulation: Simulation) -> None:
    folder = simulation.store.paths.folder
    with simulation.store.hold():
        assert started(folder, {}) == 0
    assert simulation.run() == ExitCode.PASSED
    assert started(folder, {"engine": "native"}) == 0


def test_a_state_that_cannot_be_read_is_told_of_by_the_start_itself(simulation: Simulation, tiw: Tiw) -> None:
    assert simulation.run() == ExitCode.PASSED
    for path in (simulation.store.paths.state, simulation.store.paths.previous):
        path.write_text("{")
    assert started(simulation.store.paths.folder, {}) == 0
    assert tiw(simulation.root, "run").returncode == ExitCode.DAMAGED
