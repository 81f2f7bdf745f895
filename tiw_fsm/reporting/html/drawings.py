"""The drawings of a run's page, as inline SVG: the machine, a stage's loss, the attempts' MSE. Colours are the page's
style classes, so that light and dark need no second drawing."""

from __future__ import annotations

import html
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tiw_fsm.fsm.chunk_gate import ACCEPTING
from tiw_fsm.fsm.events import Event
from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import TRAINING, State
from tiw_fsm.fsm.table import TABLE
from tiw_fsm.reporting.curves import Curve, Floats, rising, thin
from tiw_fsm.reporting.journal import Way
from tiw_fsm.values.plain import JsonObject

POINTS, HOVERS, STACKED = 300, 60, 2
"""Points of a curve, places of it that tell their values under the pointer, and gates above the first of a place."""


class Html(str):
    """Text that is HTML already. All other text is escaped on its way into ``tag``."""

    __slots__ = ()


def tag(name: str, *content: object, **attributes: object) -> Html:
    """An element. Names of attributes lose a trailing underscore, and have dashes for the others; None is left out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{said}>{join(content)}</{name}>")


def join(content: Iterable[object]) -> Html:
    """Pieces one after the other; what is not HTML is escaped."""
    return Html("".join(piece if isinstance(piece, Html) else html.escape(str(piece)) for piece in content))


def svg(width: int, height: int, *content: object, label: str, class_: str | None = None) -> Html:
    """A drawing as wide as its place allows, but never so narrow that its text could not be read."""
    style = f"min-width:{min(width, round(width * 0.82))}px"
    drawn = tag(
        "svg", *content, viewBox=f"0 0 {width} {height}", role="img", aria_label=label, class_=class_, style=style
    )
    return tag("div", drawn, class_="wide")


def text(x: float, y: float, said: object, class_: str = "", anchor: str | None = None) -> Html:
    return tag("text", said, x=f"{x:.1f}", y=f"{y:.1f}", class_=class_ or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str, *content: Html) -> Html:
    return tag("line", *content, x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=class_)


# --- the machine ------------------------------------------------------------------------------------------------

BOX_W, BOX_H, COLUMN = 118, 44, 146
PLACES: dict[State, tuple[float, float]] = {
    State.ALIGN: (0, 0),
    State.TRAIN_VIDEO: (1, 0),
    State.TRAIN_LATENT: (2, 0),
    State.TRAIN_DYNAMICS: (3, 0),
    State.INFER: (4, 0),
    State.GATE: (5, 0),
    State.RETUNE: (4, 1.15),
    State.REPORT: (6, 0),
    State.PASSED: (7, -0.42),
    State.FAILED: (7, 0.42),
}
"""Column and row of each state."""
SELDOM = (Event.STALLED, Event.REOPENED)
"""Events that almost every state has a row for: drawn only where the run took it."""


def machine(run: RunState, taken: Mapping[Way, int]) -> Html:
    """The table as boxes and arrows: states visited are tinted, ways taken are strong and tell how often."""
    visited = {state for source, _, target in taken for state in (source, target)}
    ways: dict[tuple[State, State], list[Event]] = defaultdict(list)
    for row in TABLE:
        if row.event not in SELDOM or taken.get((row.source, row.event, row.target)):
            ways[row.source, row.target].append(row.event)
    arrows = [_arrow(*way, list(dict.fromkeys(events)), taken) for way, events in ways.items()]
    arrows.sort(key=lambda arrow: "taken" in arrow)  # what was taken lies on top
    boxes = [_box(state, state in visited, run) for state in State]
    heads = [
        tag(
            "marker",
            tag("path", d="M0 0L8 4L0 8z", class_=f"head {kind}"),
            id=f"head-{kind}",
            viewBox="0 0 8 8",
            refX=7,
            refY=4,
            markerWidth=7,
            markerHeight=7,
            orient="auto",
            markerUnits="userSpaceOnUse",
        )
        for kind in ("taken", "possible")
    ]
    return svg(1156, 286, tag("defs", *heads), *arrows, *boxes, label="the state machine", class_="machine")


def _centre(state: State) -> tuple[float, float]:
    column, row = PLACES[state]
    return 66 + column * COLUMN, 128 + row * 100


def _box(state: State, visited: bool, run: RunState) -> Html:
    x, y = _centre(state)
    current = [f"current {state.lower()}"] if state is run.state else []
    kind = " ".join(["state", *(["visited"] if visited else []), *current])
    note = _note(state, run)
    return tag(
        "g",
        tag("rect", x=x - BOX_W / 2, y=y - BOX_H / 2, width=BOX_W, height=BOX_H, rx=9),
        text(x, y + (-2 if note else 4), state, "name", "middle"),
        text(x, y + 13, note, "note", "middle") if note else "",
        class_=kind,
        data_state=state,
    )


def _note(state: State, run: RunState) -> str:
    if stage := TRAINING.get(state):
        progress = run.stages.get(stage)
        return f"{progress.completed} / {progress.target}" if progress else ""
    if state is State.INFER and run.inference.started:
        return f"attempt {run.inference.started}"
    if state is State.RETUNE:
        return f"{run.retunes} of {run.loop.budgets.max_inference_retries}"
    return ""


def _arrow(source: State, target: State, events: Sequence[Event], taken: Mapping[Way, int]) -> Html:
    counts = {event: taken.get((source, event, target), 0) for event in events}
    times = sum(counts.values())
    path, (x, y) = _path(source, target)
    kind = "taken" if times else "possible"
    told = ", ".join(f"{event} ×{n}" if n else event for event, n in counts.items())
    return tag(
        "g",
        tag("title", f"{source} → {target}: {told}"),
        tag("path", d=path, class_=f"way {kind}", marker_end=f"url(#head-{kind})"),
        text(x, y + 4, f"×{times}", "count", "middle") if times else "",
        class_=f"edge {kind}",
    )


def _path(source: State, target: State) -> tuple[str, tuple[float, float]]:
    """An arrow's path, and the place for its count."""
    (x1, y1), (x2, y2) = _centre(source), _centre(target)
    half_w, half_h = BOX_W / 2, BOX_H / 2
    if source == target:
        low = y1 + half_h
        return f"M{x1 - 16} {low}C{x1 - 28} {low + 34} {x1 + 28} {low + 34} {x1 + 16} {low + 2}", (x1, low + 25)
    if State.RETUNE in (source, target):
        if target is State.RETUNE:
            return _curve((x1, y1 + half_h), (x1, y2), (x2 + half_w + 2, y2))
        if y2 < y1 and x2 < x1:
            return _curve((x1 - half_w, y1), (x2 + 44, y1), (x2 + 44, y2 + half_h + 2))
        return _curve((x1 + half_w, y1 + 12), (x2, y1 + 12), (x2, y2 + half_h + 2))
    if source is State.FAILED:
        return _curve((x1, y1 + half_h), ((x1 + x2) / 2, 386), (x2 - 30, y2 + half_h + 2))
    columns = PLACES[target][0] - PLACES[source][0]
    if columns == 1:
        end = x2 - half_w - 2
        return f"M{x1 + half_w} {y1}L{end} {y2}", ((x1 + half_w + end) / 2 - 1, (y1 + y2) / 2 - 11)
    if columns < 0:
        return _curve((x1, y1 + half_h), ((x1 + x2) / 2, y1 + half_h + 30), (x2 + 34, y2 + half_h + 2))
    top = y1 - half_h
    return _curve((x1 + 6 * columns, top), ((x1 + x2) / 2, top - 34 * columns + 10), (x2 + 24 - 9 * columns, top - 2))


def _curve(
    start: tuple[float, float], bend: tuple[float, float], end: tuple[float, float]
) -> tuple[str, tuple[float, float]]:
    """A quadratic curve, and its middle."""
    middle = tuple(0.25 * a + 0.5 * b + 0.25 * c for a, b, c in zip(start, bend, end, strict=True))
    path = "M{:.0f} {:.0f}Q{:.0f} {:.0f} {:.0f} {:.0f}".format(*start, *bend, *end)
    return path, (middle[0], middle[1])


# --- scales -----------------------------------------------------------------------------------------------------


class Scale(NamedTuple):
    """Values to pixels, evenly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: Any) -> Any:
        place, low, high = (np.log10(v) if self.logarithmic else v for v in (value, self.low, self.high))
        return self.start + (place - low) / ((high - low) or 1) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [d * 10.0**p for p in powers for d in (1, 2, 5) if self.low <= d * 10.0**p <= self.high]
            return found if len(found) < 7 else [v for v in found if f"{v:e}"[0] == "1"]
        step = 10 ** math.floor(math.log10((self.high - self.low) or 1))
        step = next((s for s in (step / 5, step / 2, step) if (self.high - self.low) / s <= 6), 2 * step)
        return [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def scale(values: Sequence[float] | Floats, start: float, end: float, *, zero: bool = False) -> Scale:
    """A scale for all finite ``values``: logarithmic where they are positive and span more than a factor of 8."""
    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    if not len(found):
        return Scale(0, 1, start, end)
    low, high = float(found.min()), float(found.max())
    if low > 0 and high > 8 * low:
        return Scale(low / 1.15, high * 1.15, start, end, logarithmic=True)
    low = min(low, 0.0) if zero else low
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - (0 if zero and low == 0 else margin), high + margin, start, end)


# --- loss curves ------------------------------------------------------------------------------------------------

WIDTH, LEFT, RIGHT = 760, 58, 744
LOSS_TOP, LOSS_END, RATE_TOP, RATE_END = 40, 212, 230, 262


def loss(stage: str, curve: Curve, gates: Sequence[JsonObject], retunes: Sequence[tuple[int, int]]) -> Html:
    """A stage's loss and learning rate over its updates, with its gates and retunes (update, number) marked."""
    rejected = {gate["attempt"] for gate in gates if gate["decision"] not in ACCEPTING}
    repeated = np.isin(curve.attempt, sorted(rejected))
    x = Scale(float(curve.completed.min()) - 1, max(float(curve.completed.max()), 2.0), LEFT, RIGHT)
    lines, hovers, drawn = [], [], []
    for kind, part in [("repeated", curve.pick(repeated)), ("kept", curve.pick(~repeated))]:
        for piece in (cut for attempt in _by_attempt(part, kind) for cut in rising(attempt)):
            drawn.append((kind, *thin(piece, POINTS)))
    y = scale(np.concatenate([values for _, c, low, high in drawn for values in (low, high)]), LOSS_END, LOSS_TOP)
    rate = Scale(0, float(curve.rate.max()) * 1.1 or 1.0, RATE_END, RATE_TOP)
    for kind, thinned, lows, highs in drawn:
        if (highs > lows).any():
            lines.append(_band(x(thinned.completed), y(lows), y(highs), kind))
        lines += [_line(x(thinned.completed), y(thinned.loss), f"loss {kind}")]
        lines += [_line(x(thinned.completed), rate(thinned.rate), f"rate {kind}")]
        hovers += _hovers(thinned, x)
    above: Counter[int] = Counter()
    marks = []
    for gate in gates:
        marks.append(_gate_mark(gate, x(gate["completed"]), min(above[gate["completed"]], STACKED)))
        above[gate["completed"]] += 1
    marks += [
        join(
            [
                line(x(at), LOSS_TOP - 6, x(at), RATE_END, "retune", tag("title", f"retune {number} after {at}")),
                text(x(at) + 4, LOSS_TOP + 2, f"retune {number}", "retune-name"),
            ]
        )
        for at, number in retunes
    ]
    axes = [
        *_axis_y(y, "loss"),
        *(line(LEFT, RATE_END, RIGHT, RATE_END, "axis"), text(LEFT - 6, RATE_TOP + 8, f"{_top(curve):.2g}", "", "end")),
        text(LEFT - 6, RATE_END, "0", "", "end"),
        text(RIGHT, RATE_TOP + 4, "learning rate", "name", "end"),
        *(text(x(v), RATE_END + 15, f"{v:g}", "", "middle") for v in x.ticks() if v == int(v)),
        text(RIGHT, RATE_END + 28, "updates", "name", "end"),
    ]
    return svg(WIDTH, 296, *axes, *lines, *hovers, *marks, label=f"loss of {stage}", class_="plot")


def _top(curve: Curve) -> float:
    return float(curve.rate.max())


def _by_attempt(part: Curve, kind: str) -> list[Curve]:
    """Chunks that were repeated lie over one another, so each is a line of its own."""
    if not len(part.loss):
        return []
    if kind == "kept":
        return [part]
    return [part.pick(part.attempt == number) for number in np.unique(part.attempt)]


def _line(x: Floats, y: Floats, kind: str) -> Html:
    seen = np.isfinite(y)
    if seen.sum() == 1:
        return tag("circle", cx=f"{x[seen][0]:.1f}", cy=f"{y[seen][0]:.1f}", r=2, class_=f"dot {kind}")
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[seen], y[seen], strict=True))
    return tag("polyline", points=points, class_=f"line {kind}")


def _band(x: Floats, low: Floats, high: Floats, kind: str) -> Html:
    seen = np.isfinite(low) & np.isfinite(high)
    there, back = zip(x[seen], high[seen], strict=True), zip(x[seen][::-1], low[seen][::-1], strict=True)
    points = " ".join(f"{a:.1f},{b:.1f}" for way in (there, back) for a, b in way)
    return tag("polygon", points=points, class_=f"band {kind}")


def _hovers(curve: Curve, x: Scale) -> list[Html]:
    """Invisible stripes that tell, under the pointer, what the curve is there."""
    chosen = curve.pick(np.unique(np.linspace(0, len(curve.loss) - 1, min(HOVERS, len(curve.loss))).astype(int)))
    places = x(chosen.completed)
    wide = max(3.0, (places[-1] - places[0]) / len(places))
    return [
        tag(
            "rect",
            tag("title", f"update {done:.0f}: loss {loss:.5g}, learning rate {rate:.3g}, chunk attempt {attempt:.0f}"),
            x=f"{place - wide / 2:.1f}",
            y=LOSS_TOP,
            width=f"{wide:.1f}",
            height=RATE_END - LOSS_TOP,
            class_="hover",
        )
        for place, (attempt, done, loss, rate) in zip(places, zip(*chosen, strict=True), strict=True)
    ]


def _gate_mark(gate: JsonObject, x: float, above: int) -> Html:
    """A gate; those of one chunk's repetitions stand above one another, so that none is hidden."""
    told = f"gate at update {gate['completed']}, attempt {gate['attempt']}: {gate['decision']} ({gate['reason']})"
    return tag(
        "g",
        tag("title", told),
        line(x, LOSS_TOP - 6, x, LOSS_END, "stem"),
        tag("circle", cx=f"{x:.1f}", cy=LOSS_TOP - 8 - 9 * above, r=4),
        class_=f"gate {gate['decision']}",
        data_gate=f"{gate['stage']}:{gate['completed']}:{gate['attempt']}",
    )


def _axis_y(y: Scale, name: str) -> list[Html]:
    ticks = y.ticks()
    return [
        *(line(LEFT, y(v), RIGHT, y(v), "grid") for v in ticks),
        *(text(LEFT - 6, y(v) + 4, f"{v:.3g}", "", "end") for v in ticks),
        line(LEFT, LOSS_END, RIGHT, LOSS_END, "axis"),
        text(LEFT + 4, LOSS_END - 6, name, "name"),
    ]


# --- MSE of the attempts ----------------------------------------------------------------------------------------

SHAPES: dict[str, Callable[[float, float], str]] = {
    "copy_last": lambda x, y: f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
    "mean_frame": lambda x, y: f"M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
    "blurred_last": lambda x, y: f"M{x:.1f} {y - 5:.1f}l5.5 9h-11z",
}
"""How a baseline is drawn."""
ROW = 30


def attempts(judged: Sequence[Attempt]) -> Html:
    """One row per attempt: its MSE as a dot, the largest that passes as a bar across, the baselines as small shapes."""
    values = [v for a in judged for v in (a.mse, a.max_mse, *a.baselines.values()) if v is not None]
    x = scale(values, LEFT + 36, RIGHT - 20, zero=True)
    end = 12 + ROW * len(judged)
    ticks = x.ticks()
    drawn = [
        *(line(x(v), 6, x(v), end, "grid") for v in ticks),
        *(text(x(v), end + 16, f"{v:.3g}", "", "middle") for v in ticks),
        text(RIGHT, end + 31, "MSE of generated frames", "name", "end"),
    ]
    for index, attempt in enumerate(judged):
        drawn += _attempt_row(attempt, 12 + ROW * (index + 0.5), x)
    key, place = [], float(LEFT + 36)
    entries = [("● MSE", "passed"), ("┃ largest that passes", "threshold-name"), ("■ copy_last", "copy_last")]
    entries += [("◆ mean_frame", "mean_frame"), ("▲ blurred_last", "blurred_last")]
    for said, kind in entries:
        key.append(text(place, end + 31, said, f"key {kind}"))
        place += 7.4 * len(said) + 14
    return svg(WIDTH, end + 40, *drawn, *key, label="MSE of each inference attempt", class_="plot")


def _attempt_row(attempt: Attempt, y: float, x: Scale) -> list[Html]:
    kind = "passed" if attempt.passed else "failed"
    low, high = x.start, x.end
    marks = [line(low, y, high, y, "row"), text(low - 10, y + 4, f"attempt {attempt.number}", kind, "end")]
    threshold = tag("title", f"largest MSE that passes: {attempt.max_mse:g}")
    marks.append(line(x(attempt.max_mse), y - 11, x(attempt.max_mse), y + 11, "threshold", threshold))
    if attempt.mse is not None and (attempt.mse > 0 or not x.logarithmic):
        told = tag("title", f"attempt {attempt.number}: MSE {attempt.mse:.5g}")
        marks.append(tag("circle", told, cx=f"{x(attempt.mse):.1f}", cy=f"{y:.1f}", r=6, class_=f"mse {kind}"))
    for name, value in attempt.baselines.items():
        if value > 0 or not x.logarithmic:
            shape = SHAPES.get(name, SHAPES["copy_last"])
            marks.append(tag("path", tag("title", f"{name} {value:.5g}"), d=shape(x(value), y), class_=f"base {name}"))
    return marks
