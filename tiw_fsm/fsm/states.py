"""The states a run can be in, and the version of the file that says in which."""

from __future__ import annotations

from enum import StrEnum

from tiw_fsm.stages import STAGES, Stage

SCHEMA_VERSION = 4


class State(StrEnum):
    """Where a run is."""

    ALIGN = "ALIGN"
    TRAIN_VIDEO = "TRAIN_VIDEO"
    TRAIN_LATENT = "TRAIN_LATENT"
    TRAIN_DYNAMICS = "TRAIN_DYNAMICS"
    INFER = "INFER"
    GATE = "GATE"
    RETUNE = "RETUNE"
    REPORT = "REPORT"
    PASSED = "PASSED"
    FAILED = "FAILED"


TRAINING: dict[State, Stage] = {State[f"TRAIN_{spec.flag.upper()}"]: stage for stage, spec in STAGES.items()}
"""The state that trains each stage, in training order."""
TERMINAL = frozenset({State.PASSED, State.FAILED})


def gate_at(chunk_start: int, chunk: int, target: int) -> int:
    """Completed updates at which a chunk of ``chunk`` updates is judged."""
    return min(chunk_start + chunk, target)
