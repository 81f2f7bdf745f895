"""The verdict on a world model: what inference measured, the conditions it must meet, and the attempt they make.

``InferenceResult`` is what an engine hands over, ``Attempt`` what the run remembers; both carry the same ``Figures``.
``CONDITIONS`` is the gate: one row a condition. Nothing here reads a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import model_validator

from tiw_fsm.config.loop import InferenceGate, Least
from tiw_fsm.values.frozen import FrozenModel

Interval = list[float | None]
"""The low and the high end of a confidence interval."""


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
    skill_interval: Interval | None = None
    """95 % interval of the skill over clips, low and high end"""
    skill_per_step: list[float | None] | None = None
    """skill of each generated frame"""
    delta_psnr: float | None = None
    """control, dB: PSNR under inferred actions less that under random ones"""
    delta_psnr_interval: Interval | None = None
    """95 % interval of the control over clips, low and high end"""
    delta_psnr_per_step: list[float | None] | None = None
    """control of each generated frame, dB"""
    motion: float | None = None
    """movement of the generated frames over that of the true ones"""
    tokenizer_motion: float | None = None
    """the same of what the tokenizer alone makes of the true frames"""
    key_agreement: float | None = None
    """agreement of latent actions with recorded keys, from 0 to 1"""
    keys_used: bool | None = None
    """recorded keys were a hint to the latent actions in training"""
    distinct_actions: int | None = None
    """actions that lead to a different next frame"""
    n_actions: int | None = None
    """actions there are"""
    unseen: float | None = None
    """share of judged true frames unlike any that training saw"""


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
    frames: list[str] = []
    """Digests of the frames that were used, as an engine reports them."""
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
    not_finite: list[str] = []
    """Figures that were measured and are no finite number."""

    @model_validator(mode="before")
    @classmethod
    def _only_finite(cls, values: Any) -> Any:
        """A figure that is not finite is none, for JSON cannot say it; but it is remembered as one that failed."""
        if not isinstance(values, dict):
            return values
        found = {key: _finite_or_none(value) for key, value in values.items()}
        found.setdefault("not_finite", [key for key, value in values.items() if found[key] != value])
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

    @property
    def skill(self) -> float | None:
        """On the clips that the baselines were measured on."""
        return skill(self.result.compared_mse, self.result.baselines)


Condition = Callable[[Judged], bool | None]
"""Whether it holds; None where it asks for nothing, or nothing can be measured: then it is no condition."""


def _checkpoints_as_named(judged: Judged) -> bool:
    used = {stage: checkpoint.sha256 for stage, checkpoint in judged.result.checkpoints.items()}
    return bool(used) and used == dict(judged.named)


def _statistics_present(judged: Judged) -> bool:
    return bool(judged.result.statistics) and None not in judged.result.statistics.values()


def _above(judged: Judged, name: str, value: float | None, least: Least) -> bool | None:
    """Whether a figure is above the least the gate wants; judged at the low end of its interval, where it has one."""
    if least == "none":
        return None
    if {name, f"{name}_interval"} & set(judged.result.not_finite):
        return False
    low = getattr(judged.result, f"{name}_interval", None)
    value = low[0] if low is not None else value
    return None if value is None else value > least


def _below(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value < limit


CONDITIONS: dict[str, Condition] = {
    "run_succeeded": lambda judged: judged.result.status == "ok",
    "checkpoints_as_named": _checkpoints_as_named,
    "frames_inferred": lambda judged: 0 < judged.result.frames_expected == judged.result.frames_inferred,
    "statistics_present": _statistics_present,
    "new_picture": lambda judged: judged.result.png_valid,
    "mse_within_max": lambda judged: judged.result.mse is not None and judged.result.mse <= judged.gate.max_mse,
}
"""The conditions of the user's document, each by itself: the plain gate."""

WORLD_CONDITIONS: dict[str, Condition] = {
    "skill_above_min": lambda judged: _above(judged, "skill", judged.skill, judged.gate.min_skill),
    "delta_psnr_above_min": lambda judged: _above(
        judged, "delta_psnr", judged.result.delta_psnr, judged.gate.min_delta_psnr
    ),
    "motion_above_min": lambda judged: _above(judged, "motion", judged.result.motion, judged.gate.min_motion),
}
"""What makes a world of it: it knows more than trivial predictions, obeys, and moves. To these come
``beats_<baseline>`` and ``beats_<baseline>_first_step`` of the gate's ``beat``; ``allow_trivial`` turns all off."""


def _baseline_conditions(judged: Judged) -> dict[str, bool]:
    """Whether the rollout is better than each baseline the gate names: over all steps, and at the first one alone."""
    result, found = judged.result, {}
    for name in judged.gate.beat:
        found[f"beats_{name}"] = _below(result.compared_mse, result.baselines.get(name))
    if judged.gate.beat_first_step and result.mse_per_step:
        for name in judged.gate.beat:
            steps = result.baselines_per_step.get(name) or [None]
            found[f"beats_{name}_first_step"] = _below(result.mse_per_step[0], steps[0])
    return found


def judge_inference(
    result: InferenceResult, named: Mapping[str, str], gate: InferenceGate, *, number: int, updates: int
) -> Attempt:
    """Decide on one inference attempt.

    Args:
        named: digests of the checkpoints the state names, by stage.
        number: of the attempt.
        updates: completed dynamics updates of the checkpoint judged.
    """
    judged = Judged(result, gate, named)
    wanted = CONDITIONS if gate.allow_trivial else CONDITIONS | WORLD_CONDITIONS
    conditions = {name: held for name, holds in wanted.items() if (held := holds(judged)) is not None}
    if not gate.allow_trivial:
        conditions |= _baseline_conditions(judged)
    return Attempt(
        **{name: getattr(result, name) for name in Figures.model_fields},
        number=number,
        updates=updates,
        max_mse=gate.max_mse,
        skill=judged.skill,
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
