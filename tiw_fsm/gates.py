"""Verdicts: pure functions from what was measured to a decision. Thresholds are data in ``loop.yaml``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tiw_fsm.config import Bound, InferenceGate, Metric, StageGate, Verdict
from tiw_fsm.run_state import Attempt

MetricRow = Mapping[str, Any]
"""One update's line of a metrics file: update, attempt, loss, learning_rate, grad_norm, and what the stage adds."""

ORDER: tuple[Verdict, ...] = ("retune", "continue", "watch")
"""The order in which verdicts are tried."""


class StageVerdict(NamedTuple):
    """A stage gate's decision, the figures it rests on, and the bounds that decided it, in words."""

    decision: Verdict | Literal["restart_stage"]
    metrics: dict[str, float]
    reason: str

    @property
    def accepted(self) -> bool:
        return self.decision in ("continue", "watch")


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
    summary.update({k: rows[-1][k] for k in ("unique_actions", "action_entropy") if k in rows[-1]})
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


def judge_inference(
    result: Mapping[str, Any], named: Mapping[str, str], gate: InferenceGate, *, number: int, updates: int
) -> Attempt:
    """Decide on one inference attempt by the conditions of the user's document, each by itself.

    Args:
        result: the engine's inference result, as its file holds it.
        named: digests of the three checkpoints the state names, by stage.
        number: of the attempt.
        updates: completed dynamics updates of the checkpoint judged.
    """
    mse: Any = result.get("mse")
    baselines = result.get("baselines", {})
    used = {stage: checkpoint["sha256"] for stage, checkpoint in result.get("checkpoints", {}).items()}
    mse = mse if _finite(mse) else math.nan  # no comparison with it holds
    own: Any = result.get("own_mse", mse)  # on the clips that the baselines were measured on
    own = own if _finite(own) else math.nan
    conditions = {
        "run_succeeded": result.get("status") == "ok",
        "checkpoints_as_named": bool(used) and used == dict(named),
        "frames_inferred": 0 < result.get("frames_expected", 0) == result.get("frames_inferred"),
        "statistics_present": bool(result.get("statistics")) and all(map(_finite, result["statistics"].values())),
        "new_picture": bool(result.get("png_valid")),
        "mse_within_max": mse <= gate.max_mse,
    }
    if not gate.allow_trivial:
        for name in gate.beat:
            conditions[f"beats_{name}"] = own < baselines.get(name, -math.inf)
    return Attempt(
        number=number,
        updates=updates,
        max_mse=gate.max_mse,
        mse=mse if _finite(mse) else None,
        baselines=baselines,
        own_mse=result.get("own_mse") if _finite(result.get("own_mse")) else None,
        skill=skill(own, baselines) if _finite(own) else None,
        conditions=conditions,
        passed=all(conditions.values()),
        png=result.get("png"),
        result=result.get("path"),
        tokenizer_mse=result["tokenizer_mse"] if _finite(result.get("tokenizer_mse")) else None,
        unique_actions=result.get("unique_actions"),
        action_entropy=result.get("action_entropy"),
    )


def skill(mse: float, baselines: Mapping[str, float]) -> float | None:
    """1 − MSE / best baseline: positive when the model knows something that no trivial prediction does."""
    best = min(baselines.values(), default=0.0)
    return 1 - mse / best if best > 0 else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
