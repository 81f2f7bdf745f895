"""A run with pictures."""

from __future__ import annotations

import pytest

from tests.support.eventful import EVENTFUL
from tests.support.pages import DrawingEngine
from tests.support.simulation import Simulation
from tiw_fsm.errors import ExitCode


@pytest.fixture
def eventful(simulation: Simulation) -> Simulation:
    assert simulation.run_with(DrawingEngine(EVENTFUL)) == ExitCode.PASSED
    return simulation
