"""The drawing of skill and control over the generated frames: how long a world holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.reporting.figures import rounded
from tiw_fsm.reporting.html.loss import LEFT, RIGHT, WIDTH
from tiw_fsm.reporting.html.scales import Scale

TOP, END, GAP = 30, 160, 56
"""Of a panel, and between two beside one another."""
KINDS = ("kept", "other")
"""Styles of the lines: of the first attempt, and of the second."""


class Panel(NamedTuple):
    """What a panel shows, and how it says a value."""

    title: str
    field: str
    decimals: int
    sign: str
    unit: str


PANELS = (Panel("skill", "skill_per_step", 2, "+", ""), Panel("ΔPSNR, dB", "delta_psnr_per_step", 1, "", " dB"))


def per_step(named: Mapping[str, Attempt]) -> dict[str, Any] | None:
    """A panel per figure, a line in it per attempt, by its name; None where no attempt has a figure per step."""
    measured = [
        (panel, {name: values for name, a in named.items() if (values := getattr(a, panel.field))}) for panel in PANELS
    ]
    found = [(panel, lines) for panel, lines in measured if lines]
    if not found:
        return None
    width = (RIGHT - LEFT - GAP * (len(PANELS) - 1)) / len(PANELS)
    lefts = [LEFT + n * (width + GAP) for n in range(len(found))]
    return {
        "width": WIDTH,
        "height": END + 40,
        "end": END,
        "top": TOP,
        "panels": [_panel(panel, lines, left, left + width) for (panel, lines), left in zip(found, lefts, strict=True)],
        "key": [(LEFT + 150 * n, name, kind) for n, name, kind in zip(count(), named, KINDS, strict=False)],
    }


def _panel(panel: Panel, lines: Mapping[str, Sequence[float | None]], left: float, right: float) -> dict[str, Any]:
    values = [value for line in lines.values() for value in line if value is not None]
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.08 * (high - low) or 1.0
    y = Scale(low - margin * (low < 0), high + margin, END, TOP)
    x = Scale(1, max(2, *map(len, lines.values())), left, right - 6)
    return {
        "title": panel.title,
        "left": left,
        "right": right,
        "zero": y(0.0),
        "x_ticks": [(x(value), f"{value:g}") for value in x.ticks() if value == int(value)],
        "y_ticks": [(y(value), f"{value:.3g}") for value in y.ticks()],
        "lines": [
            {
                "kind": kind,
                "dots": [
                    {
                        "x": x(step),
                        "y": y(value),
                        "title": f"{name}, frame {step}: {rounded(value, panel.decimals, panel.sign)}{panel.unit}",
                    }
                    for step, value in enumerate(line, start=1)
                    if value is not None
                ],
            }
            for (name, line), kind in zip(lines.items(), KINDS, strict=False)
        ],
    }
