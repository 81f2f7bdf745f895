"""The drawings of skill and control over the generated frames: how long a world holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.reporting.figures import rounded
from tiw_fsm.reporting.html.scales import Scale

WIDTH, LEFT, RIGHT = 400, 44, 392
TOP, END = 26, 156
KINDS = ("kept", "other")
"""Styles of the lines: of the first attempt, and of the second."""


class Panel(NamedTuple):
    """What a drawing shows, and how it says a value."""

    title: str
    field: str
    decimals: int
    sign: str = ""
    unit: str = ""


PANELS = (
    Panel("skill", "skill_per_step", 2, sign="+"),
    Panel("ΔPSNR, dB", "delta_psnr_per_step", 1, unit=" dB"),
)


def per_step(named: Mapping[str, Attempt]) -> list[dict[str, Any]]:
    """A drawing for each figure that was measured per step, with a line per attempt, by its name."""
    measured = [(panel, {name: getattr(attempt, panel.field) for name, attempt in named.items()}) for panel in PANELS]
    return [_drawing(panel, lines) for panel, lines in measured if any(lines.values())]


def _drawing(panel: Panel, lines: Mapping[str, Sequence[float | None] | None]) -> dict[str, Any]:
    known = {name: [(n, v) for n, v in enumerate(line or [], start=1) if v is not None] for name, line in lines.items()}
    values = [value for line in known.values() for _, value in line]
    low, high = min([0.0, *values]), max([0.0, *values])
    margin = 0.08 * (high - low) or 1.0
    y = Scale(low - margin * (low < 0), high + margin, END, TOP)
    x = Scale(1, max([2, *(len(line or []) for line in lines.values())]), LEFT, RIGHT - 6)
    return {
        "title": panel.title,
        "width": WIDTH,
        "left": LEFT,
        "right": RIGHT,
        "top": TOP,
        "end": END,
        "zero": y(0.0),
        "x_ticks": [(x(value), f"{value:g}") for value in x.ticks() if value == int(value)],
        "y_ticks": [(y(value), f"{value:.3g}") for value in y.ticks()],
        "lines": [
            {
                "name": name,
                "kind": kind,
                "dots": [
                    {"x": x(n), "y": y(v), "title": f"{name}, frame {n}: {_told(panel, v)}"} for n, v in known[name]
                ],
            }
            for name, kind in zip(lines, KINDS, strict=False)
            if known[name]
        ],
    }


def _told(panel: Panel, value: float) -> str:
    return f"{rounded(value, panel.decimals, panel.sign)}{panel.unit}"
