"""The verdict on a world model: what inference measured, the conditions it must meet, and the attempt they make.

``InferenceResult`` is what an engine hands over, ``Attempt`` what the run remembers; both carry the same ``Figures``.
``CONDITIONS`` is the gate: one row a condition. Nothing here reads a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import model_validator

from tiw_fsm.config.loop import InferenceGate
from tiw_fsm.values.frozen import FrozenModel


class Figures(FrozenModel):
    """What is measured in an inference attempt, and stands in verdicts, status and reports. An MSE is in [0, 1] pixel
    units squared, over generated frames only. What could not be measured, or is not finite, is None."""

    mse: float | None = None
    """MSE of generated frames"""
    own_mse: float | None = None
    """MSE by our inference on our clips, where ``mse`` is what a script said; skill and baselines go by it"""
    tokenizer_mse: float | None = None
    """MSE of the tokenizer alone, the floor of any rollout"""
    unique_actions: int | None = None
    """distinct actions inferred"""
    action_entropy: float | None = None
    """entropy of the actions"""
    baselines: dict[str, float] = {}
    """MSE of each trivial prediction, by its name"""


class UsedCheckpoint(FrozenModel):
    """A checkpoint that inference says it used."""

    path: str | None
    update: int | None = None
    sha256: str | None
    """None where it is not the one that was given."""


class InferenceResult(Figures):
    """What an engine's inference came to: the content of an attempt's result file."""

    status: Literal["ok", "error"]
    error: str | None = None
    """What went wrong, if something did."""
    checkpoints: dict[str, UsedCheckpoint] = {}
    """By stage."""
    frames_expected: int = 0
    frames_inferred: int = 0
    """frames inferred"""
    clips: int | None = None
    """held-out clips rolled out"""
    statistics: dict[str, float | None] = {}
    """Of the generated pixels: mean, std, min, max, or what a script printed."""
    mse_per_step: list[float | None] | None = None
    mse_with_context: float | None = None
    """MSE with the context frames, as TinyWorlds itself defines it"""
    mse_random_actions: float | None = None
    """MSE with random actions"""
    baselines_per_step: dict[str, list[float | None]] = {}
    skill_per_step: list[float | None] | None = None
    blur_sigma: float | None = None
    """Standard deviation of the blurred baseline, pixels."""
    png: str | None = None
    """Ground truth against prediction."""
    own_png: str | None = None
    """The same of our own inference, where ``png`` is a script's."""
    seconds: float | None = None
    # What is added when the result is filed:
    number: int | None = None
    path: str | None = None  # of the file
    png_valid: bool = False
    """``png`` is a PNG that decodes to the end."""
    settings: dict[str, Any] = {}
    """What inference was asked for."""

    @model_validator(mode="before")
    @classmethod
    def _only_finite(cls, values: Any) -> Any:
        """A figure that is not finite is none: no comparison with it holds, and JSON cannot say it."""
        if not isinstance(values, dict):
            return values
        found = {key: _finite_or_none(value) for key, value in values.items()}
        if isinstance(baselines := found.get("baselines"), dict):
            found["baselines"] = {name: mse for name, mse in baselines.items() if mse is not None}
        return found

    @property
    def compared_mse(self) -> float | None:
        """The MSE on the clips that the baselines were measured on."""
        return self.own_mse if "own_mse" in self.model_fields_set else self.mse


class Attempt(Figures):
    """One judged inference attempt."""

    number: int
    updates: int
    """Completed dynamics updates of the checkpoint that was judged."""
    max_mse: float
    skill: float | None = None
    conditions: dict[str, bool]
    passed: bool
    png: str | None = None
    result: str | None = None
    """The file with every figure of the attempt."""
    result_sha256: str | None = None


class Judged(NamedTuple):
    """What a condition looks at."""

    result: InferenceResult
    gate: InferenceGate
    named: Mapping[str, str]
    """Digests of the checkpoints the state names, by stage."""


def _checkpoints_as_named(judged: Judged) -> bool:
    used = {stage: checkpoint.sha256 for stage, checkpoint in judged.result.checkpoints.items()}
    return bool(used) and used == dict(judged.named)


def _statistics_present(judged: Judged) -> bool:
    return bool(judged.result.statistics) and None not in judged.result.statistics.values()


def _below(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value < limit


CONDITIONS: dict[str, Callable[[Judged], bool]] = {
    "run_succeeded": lambda judged: judged.result.status == "ok",
    "checkpoints_as_named": _checkpoints_as_named,
    "frames_inferred": lambda judged: 0 < judged.result.frames_expected == judged.result.frames_inferred,
    "statistics_present": _statistics_present,
    "new_picture": lambda judged: judged.result.png_valid,
    "mse_within_max": lambda judged: judged.result.mse is not None and judged.result.mse <= judged.gate.max_mse,
}
"""The conditions of the user's document, each by itself; to these come ``beats_<baseline>`` of the gate's ``beat``."""


def judge_inference(
    result: InferenceResult, named: Mapping[str, str], gate: InferenceGate, *, number: int, updates: int
) -> Attempt:
    """Decide on one inference attempt.

    Args:
        named: digests of the checkpoints the state names, by stage.
        number: of the attempt.
        updates: completed dynamics updates of the checkpoint judged.
    """
    conditions = {name: holds(Judged(result, gate, named)) for name, holds in CONDITIONS.items()}
    if not gate.allow_trivial:
        conditions |= {f"beats_{name}": _below(result.compared_mse, result.baselines.get(name)) for name in gate.beat}
    return Attempt(
        **{name: getattr(result, name) for name in Figures.model_fields},
        number=number,
        updates=updates,
        max_mse=gate.max_mse,
        skill=skill(result.compared_mse, result.baselines),
        conditions=conditions,
        passed=all(conditions.values()),
        png=result.png,
        result=result.path,
    )


def skill(mse: float | None, baselines: Mapping[str, float]) -> float | None:
    """1 − MSE / best baseline: positive when the model knows something that no trivial prediction does."""
    best = min(baselines.values(), default=0.0)
    return 1 - mse / best if mse is not None and best > 0 else None


def _finite_or_none(value: Any) -> Any:
    """``value`` with None in the place of every number in it that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite_or_none(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite_or_none(item) for key, item in value.items()}
    return value
