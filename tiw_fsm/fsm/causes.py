"""Why a world model failed its inference gate: one table, from the attempt's own figures.

``attempt`` has the fields of ``Attempt``, as the JSON files do. Nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from tiw_fsm.stages import Stage

Attempt = Mapping[str, Any]

BLURRED = 0.5
"""A tokenizer that keeps less of the movement than this blurs what moves."""
COLLAPSED = 0.1
"""Entropy of the actions, nats, below which they are one action in all but name."""
ENTANGLED = 0.2
"""Agreement with recorded keys below which an action means no key."""


class Cause(StrEnum):
    """What can be at fault."""

    TOKENIZER_TOO_COARSE = "tokenizer_too_coarse"
    TOKENIZER_BLURS_MOTION = "tokenizer_blurs_motion"
    ACTIONS_COLLAPSED = "actions_collapsed"
    ACTIONS_ENTANGLED = "actions_entangled"
    DYNAMICS_DEAF = "dynamics_deaf"
    DYNAMICS_FROZEN = "dynamics_frozen"
    DYNAMICS_SHORT = "dynamics_short"


class Fault(NamedTuple):
    """How a cause is told, and what follows from it."""

    shows: Callable[[Attempt], bool]
    stage: Stage
    """Where the mending begins."""
    longer_helps: bool
    """Whether training that stage longer can be expected to mend it."""


def out_of_reach(attempt: Attempt) -> tuple[str, float] | None:
    """What a rollout must be under to pass, if the tokenizer alone is not: then no dynamics can pass.

    That is the maximum, or a baseline that the gate wants beaten: its name, and its MSE. None if the tokenizer will
    do.
    """
    wanted = {name: mse for name, mse in attempt["baselines"].items() if f"beats_{name}" in attempt["conditions"]}
    name, least = min({"the maximum": attempt["max_mse"], **wanted}.items(), key=lambda limit: limit[1])
    floor = attempt["tokenizer_mse"]
    return (name, least) if floor is not None and floor > least else None


def _less(attempt: Attempt, figure: str, limit: float) -> bool:
    value = attempt.get(figure)
    return value is not None and value < limit


def _missed(attempt: Attempt, condition: str) -> bool:
    return attempt["conditions"].get(condition) is False


FAULTS: dict[Cause, Fault] = {
    Cause.TOKENIZER_TOO_COARSE: Fault(lambda attempt: out_of_reach(attempt) is not None, Stage.VIDEO, True),
    Cause.TOKENIZER_BLURS_MOTION: Fault(lambda attempt: _less(attempt, "tokenizer_motion", BLURRED), Stage.VIDEO, True),
    Cause.ACTIONS_COLLAPSED: Fault(
        lambda attempt: attempt.get("unique_actions") == 1 or _less(attempt, "action_entropy", COLLAPSED),
        Stage.LATENT,
        False,
    ),
    Cause.ACTIONS_ENTANGLED: Fault(lambda attempt: _less(attempt, "key_agreement", ENTANGLED), Stage.LATENT, False),
    Cause.DYNAMICS_DEAF: Fault(lambda attempt: _missed(attempt, "delta_psnr_above_min"), Stage.DYNAMICS, True),
    Cause.DYNAMICS_FROZEN: Fault(lambda attempt: _missed(attempt, "motion_above_min"), Stage.DYNAMICS, True),
    Cause.DYNAMICS_SHORT: Fault(
        lambda attempt: any(
            _missed(attempt, name) for name in attempt["conditions"] if name.startswith(("beats_", "skill_", "mse_"))
        ),
        Stage.DYNAMICS,
        True,
    ),
}
"""In the order in which they are to be mended: what a later stage makes of an earlier one's fault is no news."""


def causes(attempt: Attempt) -> list[Cause]:
    """What is at fault, the first thing to mend first; nothing where the attempt passed."""
    return [] if attempt["passed"] else [cause for cause, fault in FAULTS.items() if fault.shows(attempt)]
