"""Attempts of every kind: of worlds that are deaf, frozen, told their keys, and those that an older version judged."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from tiw_fsm.engines.protocol import InferRequest, Progress
from tiw_fsm.engines.simulated import SimulatedEngine
from tiw_fsm.fsm.events import GATE_DECIDED
from tiw_fsm.fsm.inference_gate import InferenceResult
from tiw_fsm.values.plain import JsonObject

OLD_FIELDS = (
    *("number", "updates", "max_mse", "mse", "baselines", "own_mse", "skill", "conditions", "passed", "png"),
    *("result", "result_sha256", "tokenizer_mse", "unique_actions", "action_entropy"),
)
"""All that an attempt had before skill, control and motion were conditions."""
NEW_CONDITIONS = ("skill_", "delta_psnr_", "motion_", "beats_blurred_last")


class HintedEngine(SimulatedEngine):
    """Its world was told the recorded keys, and knows what it is asked by heart."""

    def infer(self, request: InferRequest, progress: Progress) -> InferenceResult:
        return super().infer(request, progress).evolve(keys_used=True, key_agreement=0.98, unseen=0.0)


def aged(attempt: JsonObject) -> JsonObject:
    """An attempt as an older version left it."""
    conditions = {
        name: held
        for name, held in attempt["conditions"].items()
        if not name.startswith(NEW_CONDITIONS) and not name.endswith("_first_step")
    }
    return {**{key: attempt.get(key) for key in OLD_FIELDS}, "conditions": conditions}


def aged_journal(journal: Sequence[JsonObject]) -> list[JsonObject]:
    """A journal whose attempts an older version judged. What the lines changed in the state stays as it is."""
    lines: list[dict[str, Any]] = copy.deepcopy(list(journal))
    for line in lines:
        if line["event"] in GATE_DECIDED:
            line["facts"]["attempt"] = aged(line["facts"]["attempt"])
    return lines


def aged_state(state: JsonObject) -> JsonObject:
    """A state whose attempts an older version judged."""
    attempts = [aged(attempt) for attempt in state["inference"]["attempts"]]
    return {**state, "inference": {**state["inference"], "attempts": attempts}}
