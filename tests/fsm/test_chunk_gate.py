"""The verdict on a chunk: each bound of the user's document, from both sides."""

from __future__ import annotations

from typing import Any

import pytest

from tiw_fsm.config.loop import LoopConfig
from tiw_fsm.fsm import chunk_gate
from tiw_fsm.stages import Stage


def chunk(*losses: float, **extras: Any) -> list[dict[str, Any]]:
    return [{"update": i, "loss": loss, **extras} for i, loss in enumerate(losses)]


ACTIVE = {"unique_actions": 3, "action_entropy": 0.9}


@pytest.mark.parametrize(
    ("stage", "rows", "decision"),
    [
        (Stage.VIDEO, chunk(0.03, 0.02, 0.01), "continue"),
        (Stage.VIDEO, chunk(0.03, 0.009, 0.0099), "watch"),
        (Stage.VIDEO, chunk(0.03, 0.02, 0.02), "watch"),
        (Stage.VIDEO, chunk(0.03, 0.02, 0.0201), "retune"),
        (Stage.LATENT, chunk(0.2, 0.1, 0.06, **ACTIVE), "continue"),
        (Stage.LATENT, chunk(0.2, 0.1, 0.06, **{**ACTIVE, "action_entropy": 0.39}), "watch"),
        (Stage.LATENT, chunk(0.2, 0.1, 0.061, **ACTIVE), "watch"),
        (Stage.LATENT, chunk(0.2, 0.1, 0.01, **{**ACTIVE, "unique_actions": 1}), "retune"),
        (Stage.LATENT, chunk(0.2, 0.2, 0.11, **ACTIVE), "retune"),
        (Stage.DYNAMICS, chunk(5.0, 4.5, 4.0), "continue"),
        (Stage.DYNAMICS, chunk(5.0, 4.0, 4.2), "watch"),
        (Stage.DYNAMICS, chunk(5.5, 5.3, 5.2), "watch"),
        (Stage.DYNAMICS, chunk(6.0, 6.1, 6.1), "retune"),
        (Stage.DYNAMICS, chunk(3.0, 3.0, 3.4), "retune"),
        (Stage.DYNAMICS, [], "retune"),
    ],
)
def test_a_stage_verdict_is_the_documented_one(stage: Stage, rows: list[dict[str, Any]], decision: str) -> None:
    assert chunk_gate.judge_chunk(rows, LoopConfig().gates[stage], 10_000).decision == decision


@pytest.mark.parametrize("stage", Stage)
def test_before_from_update_a_chunk_passes_that_is_finite_and_has_not_doubled(stage: Stage) -> None:
    gate = LoopConfig().gates[stage].evolve(from_update=200)
    assert chunk_gate.judge_chunk(chunk(9.0, 9.0, 18.0), gate, 200).decision == "watch"
    assert chunk_gate.judge_chunk(chunk(9.0, 9.0, 18.1), gate, 200).decision == "retune"
    assert chunk_gate.judge_chunk([*chunk(9.0), {"update": 1, "loss": None}], gate, 200).decision == "retune"
    assert chunk_gate.judge_chunk(chunk(9.0, 9.0, 18.0), gate, 201).decision == "retune"
