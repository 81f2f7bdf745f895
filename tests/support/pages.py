"""Runs with pictures, and what their page tells of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.simulation import Simulation
from tiw_fsm.data import pictures
from tiw_fsm.engines.protocol import InferRequest, Progress
from tiw_fsm.engines.simulated import SimulatedEngine
from tiw_fsm.fsm.inference_gate import InferenceResult
from tiw_fsm.reporting.html import writer
from tiw_fsm.reporting.html.page import PageData


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


def seen(simulation: Simulation, *, alive: bool = False) -> PageData:
    found = writer.gather(simulation.store, alive=alive)
    assert found is not None
    return found
