"""A run with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.reporting.markdown.test_reports import EVENTFUL
from tests.support.simulation import Simulation
from tiw_fsm.data import pictures
from tiw_fsm.engines.protocol import InferRequest, Progress
from tiw_fsm.engines.simulated import SimulatedEngine
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.inference_gate import InferenceResult


def strips(frames: int = 6, size: int = 16, rows: int = 4) -> list[tuple[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        (("true", "model")[n % 2], rng.integers(0, 255, (frames, size, size, 3)).astype(np.uint8)) for n in range(rows)
    ]


class DrawingEngine(SimulatedEngine):
    """Leaves pictures like those of a real rollout."""

    def infer(self, request: InferRequest, progress: Progress) -> InferenceResult:
        result = super().infer(request, progress)
        pictures.draw_strips(Path(request.picture), "ground truth and prediction", strips())
        return result


@pytest.fixture
def eventful(simulation: Simulation) -> Simulation:
    assert simulation.run_with(DrawingEngine(EVENTFUL)) == ExitCode.PASSED
    return simulation
