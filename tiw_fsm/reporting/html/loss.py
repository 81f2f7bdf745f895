"""The drawing of a stage's loss and learning rate, with its gates and retunes: in the page, and beside the Markdown
reports as a file of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tiw_fsm.fsm.chunk_gate import ACCEPTING
from tiw_fsm.reporting.curves import COLOURS, Curve, Floats, rising, thin
from tiw_fsm.reporting.html.scales import Scale, scale
from tiw_fsm.reporting.html.templating import render
from tiw_fsm.stages import Stage
from tiw_fsm.values.plain import JsonObject

HOVERS, STACKED = 60, 2
"""Places of a curve that tell their values under the pointer, and gates above the first of a place."""
WIDTH, LEFT, RIGHT = 760, 58, 744
TOP, END, RATE_TOP, RATE_END, HEIGHT = 40, 212, 230, 262, 296
"""Of the loss, of the learning rate below it, and of both."""


def figure(run: str, curves: Mapping[Stage, Curve], gates: Sequence[JsonObject]) -> str | None:
    """An SVG file with a panel per stage that has updates; None where no update was recorded.

    Args:
        run: its name.
        gates: facts of the stage gates, as the journal has them.
    """
    panels = [
        (stage, loss(stage, curve, marked), [name for name in COLOURS if name in {g["decision"] for g in marked}])
        for stage, curve in curves.items()
        if len(curve.loss)
        for marked in [[gate for gate in gates if gate["stage"] == stage]]
    ]
    return render("curves.svg.j2", run=run, panels=panels, colours=COLOURS) if panels else None


def loss(
    stage: str, curve: Curve, gates: Sequence[JsonObject], retunes: Sequence[tuple[int, int]] = ()
) -> dict[str, Any]:
    """A stage's loss and learning rate over its updates, with its gates and retunes (update, number) marked."""
    rejected = {gate["attempt"] for gate in gates if gate["decision"] not in ACCEPTING}
    repeated = np.isin(curve.attempt, sorted(rejected))
    x = Scale(float(curve.completed.min()) - 1, max(float(curve.completed.max()), 2.0), LEFT, RIGHT)
    pieces = [
        (kind, *thin(piece))
        for kind, part in [("repeated", curve.pick(repeated)), ("kept", curve.pick(~repeated))]
        for attempt in _by_attempt(part, kind)
        for piece in rising(attempt)
    ]
    y = scale(np.concatenate([values for _, _, low, high in pieces for values in (low, high)]), END, TOP)
    rate = Scale(0, float(curve.rate.max()) * 1.1 or 1.0, RATE_END, RATE_TOP)
    lines, hovers = [], []
    for kind, thinned, lows, highs in pieces:
        across = x(thinned.completed)
        if (highs > lows).any():
            there, back = _points(across, y(highs)), _points(across[::-1], y(lows)[::-1])
            lines.append({"shape": "band", "kind": kind, "points": there + back})
        for name, values in (("loss", y(thinned.loss)), ("rate", rate(thinned.rate))):
            points = _points(across, values)
            shape = "dot" if len(points) == 1 else "line"
            lines.append({"shape": shape, "kind": f"{name} {kind}", "points": points})
        hovers += _hovers(thinned, x)
    return {
        "stage": stage,
        "repeated": bool(repeated.any()),
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": RIGHT,
        "top": TOP,
        "end": END,
        "rate_top": RATE_TOP,
        "rate_end": RATE_END,
        "rate_max": f"{float(curve.rate.max()):.2g}",
        "x_ticks": [(x(value), f"{value:g}") for value in x.ticks() if value == int(value)],
        "y_ticks": [(y(value), f"{value:.3g}") for value in y.ticks()],
        "lines": lines,
        "hovers": hovers,
        "gates": _gates(gates, x),
        "retunes": [{"x": x(at), "at": at, "number": number} for at, number in retunes],
    }


def _by_attempt(part: Curve, kind: str) -> list[Curve]:
    """Chunks that were repeated lie over one another, so each is a line of its own."""
    if not len(part.loss):
        return []
    if kind == "kept":
        return [part]
    return [part.pick(part.attempt == number) for number in np.unique(part.attempt)]


def _points(x: Floats, y: Floats) -> list[str]:
    """The points that are finite."""
    finite = np.isfinite(y)
    return [f"{a:.1f},{b:.1f}" for a, b in zip(x[finite], y[finite], strict=True)]


def _hovers(curve: Curve, x: Scale) -> list[dict[str, Any]]:
    """Invisible stripes that tell, under the pointer, what the curve is there."""
    chosen = curve.pick(np.unique(np.linspace(0, len(curve.loss) - 1, min(HOVERS, len(curve.loss))).astype(int)))
    places = x(chosen.completed)
    width = max(3.0, (places[-1] - places[0]) / len(places))
    return [
        {
            "x": place - width / 2,
            "width": width,
            "title": f"update {done:.0f}: loss {loss:.5g}, learning rate {rate:.3g}, chunk attempt {attempt:.0f}",
        }
        for place, (attempt, done, loss, rate) in zip(places, zip(*chosen, strict=True), strict=True)
    ]


def _gates(gates: Sequence[JsonObject], x: Scale) -> list[JsonObject]:
    """Gates with their places; those of one chunk's repetitions stand above one another, so that none is hidden."""
    above: Counter[int] = Counter()
    marks = []
    for gate in gates:
        marks.append({**gate, "x": x(gate["completed"]), "y": TOP - 8 - 9 * min(above[gate["completed"]], STACKED)})
        above[gate["completed"]] += 1
    return marks
