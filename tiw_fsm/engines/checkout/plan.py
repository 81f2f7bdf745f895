"""How a chunk is told to a script: where it begins, how far it goes, and what it will not do as asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from tiw_fsm.engines.checkout.dialect import StageDialect
from tiw_fsm.engines.protocol import TrainRequest


class Plan(NamedTuple):
    """How a chunk is told to a script."""

    first: int
    """Index of the script's first update, as it counts."""
    n_updates: int
    log_interval: int
    offset: int
    """What our count of an update is more than the script's."""

    @classmethod
    def of(cls, request: TrainRequest, able: StageDialect) -> Self:
        """The shortest run of the script that ends with a saved step at or behind ``stop_at``."""
        base = request.start
        if able.absolute_updates and request.resume is not None:
            base = min(request.schedule.start, request.start)  # each schedule is counted from its own beginning
        first, n_updates = request.start - base, request.stop_at - base
        asked = request.tuning.log_interval
        if able.saves_last_step:
            return cls(first, n_updates, min(asked, n_updates - first), base)
        saves = max(1, math.ceil((n_updates - 1) / asked))
        interval = max(1, math.ceil((n_updates - 1) / saves))
        return cls(first, max(saves * interval + 1, n_updates) if n_updates > 1 else 1, interval, base)


def expected_notes(request: TrainRequest, plan: Plan, able: StageDialect) -> list[str]:
    """What this version will not do as asked, known beforehand."""
    notes = []
    beyond = plan.n_updates + plan.offset - request.stop_at
    if beyond:
        notes.append(
            f"this version saves only every log_interval updates, so the chunk is longer than asked, by {beyond}"
        )
    if request.resume is not None and not request.weights_only and not able.restores_optimizer:
        notes.append(
            f"the optimizer began afresh at update {request.start}, and with it warm-up and cosine: "
            "this version restores neither"
        )
    return notes


def undone_rate_notes(rows: Sequence[Mapping[str, Any]], asked: float) -> list[str]:
    """Whether the script's optimizer went above the asked peak."""
    used = max((row["learning_rate"] for row in rows), default=0.0)
    if used <= asked * (1 + 1e-6):
        return []
    return [f"the script's optimizer used learning rates up to {used:g} where {asked:g} was asked: it undid the retune"]


def word(value: Any) -> str:
    """A value as it stands behind ``key=`` for OmegaConf."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
