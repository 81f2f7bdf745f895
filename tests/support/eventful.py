"""Runs on the simulated engine to which much happens."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.simulation import Simulation
from tiw_fsm.engines.protocol import Progress, TrainRequest, TrainResult
from tiw_fsm.engines.simulated import Script, SimulatedEngine
from tiw_fsm.stages import Stage

REJECTED, GOOD = 0.5, 0.005
EVENTFUL = Script(
    losses={Stage.VIDEO: [GOOD, REJECTED, GOOD], Stage.DYNAMICS: [2.0, 2.0, 1.75, 1.5]},
    mse=[0.25, 0.0625, 0.0123456],
    crashes={Stage.LATENT: 1},
    out_of_memory={Stage.DYNAMICS: 1},
)
"""One rejected video chunk, a crash, a batch that does not fit, and two retunes before the gate is passed."""


def die_in_dynamics(simulation: Simulation, script: Script | None = None, **flags: Any) -> None:
    """A start whose runner dies without a word at the first chunk of dynamics."""
    engine = SimulatedEngine(script)
    train = engine.train

    def dying(request: TrainRequest, progress: Progress) -> TrainResult:
        if request.stage is Stage.DYNAMICS:
            raise KeyboardInterrupt
        return train(request, progress)

    engine.train = dying  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        simulation.run_with(engine, **flags)
