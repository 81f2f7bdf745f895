"""What an inference attempt measured, and which gate judged it, as people read them. Never imports pydantic.

``attempt`` has the fields of ``Attempt``, as the JSON files do; one that an older version judged lacks the newer ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from typing import Any

Attempt = Mapping[str, Any]


class Gate(StrEnum):
    """What an attempt had to show, the most first."""

    WORLD = "world"
    BASELINES = "baselines"
    PLAIN = "plain"


GATES = {
    Gate.WORLD: "the gate of a world",
    Gate.BASELINES: "the gate of MSE and baselines",
    Gate.PLAIN: "the plain gate",
}
"""In words."""
DEMANDS = {Gate.WORLD: "skill_above_min", Gate.BASELINES: "beats_"}
"""How the condition begins by which a gate is told from those below it."""


def gate_of(attempt: Attempt) -> Gate | None:
    """The gate that judged an attempt, by the conditions it was held to; None where nothing was measured to judge."""
    if attempt["mse"] is None:
        return None
    asked = attempt["conditions"]
    return next((g for g, begins in DEMANDS.items() if any(name.startswith(begins) for name in asked)), Gate.PLAIN)


def is_trivial(attempt: Attempt) -> bool:
    """Whether a trivial prediction is as good."""
    return attempt["skill"] is not None and attempt["skill"] <= 0


# --- one figure -------------------------------------------------------------------------------------------------


def rounded(value: float | None, decimals: int, sign: str = "") -> str:
    """A number for people, with one decimal more where little of it would be left."""
    if value is None:
        return "–"
    return f"{value:{sign}.{decimals + (abs(value) < 10 ** (1 - decimals))}f}"


def interval(attempt: Attempt, key: str, decimals: int, sign: str = "") -> str | None:
    """The confidence interval of a figure; None where none was measured."""
    ends = attempt.get(f"{key}_interval")
    return ends and f"[{', '.join(rounded(end, decimals, sign) for end in ends)}]"


def _number(attempt: Attempt, key: str, decimals: int, *, sign: str = "", unit: str = "") -> str | None:
    if attempt.get(key) is None:
        return None
    within = interval(attempt, key, decimals, sign)
    return f"{rounded(attempt[key], decimals, sign)}{unit}{f' {within}' if within else ''}"


def _actions(attempt: Attempt) -> str | None:
    if attempt.get("distinct_actions") is None:
        return None
    return f"{attempt['distinct_actions']} of {attempt['n_actions']}"


def _unseen(attempt: Attempt) -> str | None:
    return None if attempt.get("unseen") is None else f"{100 * attempt['unseen']:.0f} %"


FIGURES: dict[str, Callable[[Attempt], str | None]] = {
    "skill": partial(_number, key="skill", decimals=2, sign="+"),
    "ΔPSNR": partial(_number, key="delta_psnr", decimals=1, unit=" dB"),
    "motion": partial(_number, key="motion", decimals=2),
    "actions": _actions,
    "keys": partial(_number, key="key_agreement", decimals=2),
    "unseen": _unseen,
}
"""What is told of a world beside its MSE; docs/gates.md says what each is."""


def figures(attempt: Attempt) -> dict[str, str]:
    """Those that were measured, by their names."""
    return {name: text for name, tell in FIGURES.items() if (text := tell(attempt)) is not None}
