"""The drawing of a stage's loss and learning rate, with its gates and retunes: in the page, and beside the Markdown
reports as a file of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tiw_fsm.reporting.curves import COLOURS, Curve, Floats, Losses
from tiw_fsm.reporting.html.scales import Scale, scale
from tiw_fsm.reporting.html.templating import render
from tiw_fsm.stages import Stage
from tiw_fsm.values.plain import JsonObject

HOVERS, STACKED = 60, 2
"""Places of a curve that tell their values under the pointer, and gates above the first of a place."""
WIDTH, LEFT, RIGHT = 760, 58, 744
TOP, END, RATE_TOP, RATE_END, HEIGHT = 40, 212, 230, 262, 296
"""Of the loss, of the learning rate below it, and of both."""


def figure(run: str, losses: Mapping[Stage, Losses], gates: Mapping[Stage, Sequence[JsonObject]]) -> str | None:
    """An SVG file with a panel per stage that has updates; None where no update was recorded.

    Args:
        run: its name.
        gates: facts of the stage gates to mark, as the journal has them.
    """
    panels = [
        (stage, loss(stage, curves, marked), [name for name in COLOURS if name in {g["decision"] for g in marked}])
        for stage, curves in losses.items()
        if curves
        for marked in [gates.get(stage, ())]
    ]
    return render("curves.svg.j2", run=run, panels=panels, colours=COLOURS) if panels else None


def loss(
    stage: str, losses: Losses, gates: Sequence[JsonObject], retunes: Sequence[tuple[int, int]] = ()
) -> dict[str, Any]:
    """A stage's loss and learning rate over its updates, with its gates and retunes (update, number) marked."""
    pieces = losses.pieces()
    curves = [curve for _, curve in pieces]
    x = Scale(min(float(c.completed[0]) for c in curves) - 1, max(2.0, *(c.end for c in curves)), LEFT, RIGHT)
    y = scale(np.concatenate([values for curve in curves for values in (curve.low, curve.high)]), END, TOP)
    highest_rate = max(float(curve.rate.max()) for curve in curves)
    rate = Scale(0, highest_rate * 1.1 or 1.0, RATE_END, RATE_TOP)
    lines, hovers = [], []
    for kind, curve in pieces:
        across = x(curve.completed)
        if (curve.high > curve.low).any():
            there, back = _points(across, y(curve.high)), _points(across[::-1], y(curve.low)[::-1])
            lines.append({"shape": "band", "kind": kind, "points": there + back})
        for name, values in (("loss", y(curve.loss)), ("rate", rate(curve.rate))):
            points = _points(across, values)
            shape = "dot" if len(points) == 1 else "line"
            lines.append({"shape": shape, "kind": f"{name} {kind}", "points": points})
        hovers += _hovers(curve, x)
    return {
        "stage": stage,
        "repeated": bool(losses.repeated),
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": RIGHT,
        "top": TOP,
        "end": END,
        "rate_top": RATE_TOP,
        "rate_end": RATE_END,
        "rate_max": f"{highest_rate:.2g}",
        "x_ticks": [(x(value), f"{value:g}") for value in x.ticks() if value == int(value)],
        "y_ticks": [(y(value), f"{value:.3g}") for value in y.ticks()],
        "lines": lines,
        "hovers": hovers,
        "gates": _gates(gates, x),
        "retunes": [{"x": x(at), "at": at, "number": number} for at, number in retunes],
    }


def _points(x: Floats, y: Floats) -> list[str]:
    """The points that are finite."""
    finite = np.isfinite(y)
    return [f"{a:.1f},{b:.1f}" for a, b in zip(x[finite], y[finite], strict=True)]


def _hovers(curve: Curve, x: Scale) -> list[dict[str, Any]]:
    """Invisible stripes that tell, under the pointer, what the curve is there."""
    chosen = curve.pick(np.unique(np.linspace(0, len(curve.loss) - 1, min(HOVERS, len(curve.loss))).astype(int)))
    places = x(chosen.completed)
    width = max(3.0, (places[-1] - places[0]) / len(places))
    told = zip(places, chosen.completed, chosen.loss, chosen.rate, chosen.attempt, strict=True)
    return [
        {
            "x": place - width / 2,
            "width": width,
            "title": f"update {done:.0f}: loss {loss:.5g}, learning rate {rate:.3g}, chunk attempt {attempt:.0f}",
        }
        for place, done, loss, rate, attempt in told
    ]


def _gates(gates: Sequence[JsonObject], x: Scale) -> list[JsonObject]:
    """Gates with their places; those of one chunk's repetitions stand above one another, so that none is hidden."""
    above: Counter[int] = Counter()
    marks = []
    for gate in gates:
        marks.append({**gate, "x": x(gate["completed"]), "y": TOP - 8 - 9 * min(above[gate["completed"]], STACKED)})
        above[gate["completed"]] += 1
    return marks
