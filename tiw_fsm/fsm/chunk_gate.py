"""The verdict on a chunk of training: a pure function of its metrics. Thresholds are data in ``loop.yaml``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tiw_fsm.config.loop import Bound, Metric, StageGate, Verdict

MetricRow = Mapping[str, Any]
"""One update's line of a metrics file: update, attempt, loss, learning_rate, grad_norm, and what the stage adds."""
Decision = Verdict | Literal["restart_stage"]
"""What becomes of a chunk; ``restart_stage`` where it left no checkpoint that could be used."""

ORDER: tuple[Verdict, ...] = ("retune", "continue", "watch")
"""The order in which verdicts are tried."""
ACCEPTING: tuple[Decision, ...] = ("continue", "watch")
"""The decisions that accept a chunk; any other has it repeated."""


class StageVerdict(NamedTuple):
    """A stage gate's decision, the figures it rests on, and the bounds that decided it, in words."""

    decision: Decision
    metrics: dict[str, float]
    reason: str

    @property
    def accepted(self) -> bool:
        """Whether the chunk is kept."""
        return self.decision in ACCEPTING


def summarize(rows: Sequence[MetricRow]) -> dict[str, float]:
    """The figures a stage gate looks at.

    ``final`` is the last update's loss; early, mid and late are means over thirds of the rows, ``late_over_mid`` their
    ratio; ``rise`` is the mean of the last tenth less that of the first. Losses are undivided by the accumulation.
    """
    losses = [row["loss"] for row in rows]
    third, tenth = len(losses) // 3, max(1, len(losses) // 10)
    mid, late = (_mean(losses[third : 2 * third]), _mean(losses[2 * third :])) if third else (losses[-1], losses[-1])
    first, last = _mean(losses[:tenth]), _mean(losses[-tenth:])
    summary = {
        "final": losses[-1],
        "early": _mean(losses[:third]) if third else losses[0],
        "mid": mid,
        "late": late,
        "late_over_mid": late / mid if mid else (math.inf if late else 1.0),
        "first_tenth": first,
        "last_tenth": last,
        "rise": last - first,
    }
    summary.update({k: rows[-1][k] for k in ("unique_actions", "action_entropy", "expert_entropy") if k in rows[-1]})
    return summary


def judge_chunk(rows: Sequence[MetricRow], gate: StageGate, completed: int) -> StageVerdict:
    """Decide on one chunk of training.

    Args:
        rows: the chunk's metrics rows, oldest first.
        completed: the stage's updates at the chunk's end.
    """
    if not rows:
        return StageVerdict("retune", {}, "the chunk left no metrics")
    if broken := next((row for row in rows if not _finite(row["loss"])), None):
        return StageVerdict("retune", {}, f"the loss at update {broken['update']} is not finite")
    metrics = summarize(rows)
    if completed <= gate.from_update and metrics["last_tenth"] <= 2 * metrics["first_tenth"]:
        reason = f"finite and not doubled; thresholds hold after update {gate.from_update}"
        return StageVerdict("watch", metrics, reason)
    for decision in ORDER:
        bounds = gate.verdicts.get(decision)
        if bounds and all(bound.holds(metrics.get(name)) for name, bound in bounds.items()):
            return StageVerdict(decision, metrics, _in_words(bounds, metrics))
    missed = gate.verdicts.get("watch") or gate.verdicts.get("continue") or {}
    failing = {name: bound for name, bound in missed.items() if not bound.holds(metrics.get(name))}
    return StageVerdict("retune", metrics, _in_words(failing, metrics))


def _in_words(bounds: Mapping[Metric, Bound], metrics: Mapping[str, float]) -> str:
    parts = []
    for name, bound in bounds.items():
        value = metrics.get(name)
        shown = "unmeasured" if value is None else f"{value:.4g}"
        for limit, inside, outside in ((bound.max, "≤", ">"), (bound.min, "≥", "<")):
            if limit is not None:
                parts.append(f"{name} {shown} {inside if bound.holds(value) else outside} {limit:g}")
    return ", ".join(parts)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
