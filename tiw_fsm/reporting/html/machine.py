"""The drawing of the machine: places of the boxes and paths of the arrows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tiw_fsm.fsm.events import Event
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import TERMINAL, TRAINING, State
from tiw_fsm.fsm.table import TABLE
from tiw_fsm.reporting.journal import Way

BOX_W, BOX_H, COLUMN, LEFT = 130, 44, 158, 72
MAIN = [state for state in State if state not in TERMINAL and state is not State.RETUNE]
"""States on the way to the end, from left to right."""
PLACES: dict[State, tuple[float, float]] = {
    **{state: (column, 0) for column, state in enumerate(MAIN)},
    State.RETUNE: (MAIN.index(State.INFER), 1.15),
    State.PASSED: (len(MAIN), -0.42),
    State.FAILED: (len(MAIN), 0.42),
}
"""Column and row of each state."""
SELDOM = (Event.STALLED, Event.REOPENED)
"""Events that almost every state has a row for: drawn only where the run took it."""


def machine(run: RunState, taken: Mapping[Way, int]) -> dict[str, Any]:
    """The table as boxes and arrows: states visited are tinted, ways taken are strong and tell how often."""
    visited = {state for source, _, target in taken for state in (source, target)}
    ways: dict[tuple[State, State], list[Event]] = defaultdict(list)
    for row in TABLE:
        if row.event not in SELDOM or taken.get((row.source, row.event, row.target)):
            ways[row.source, row.target].append(row.event)
    arrows = [_arrow(*way, list(dict.fromkeys(events)), taken) for way, events in ways.items()]
    return {
        "width": LEFT + COLUMN * len(MAIN) + BOX_W // 2 + 9,
        "box": (BOX_W, BOX_H),
        "arrows": sorted(arrows, key=lambda arrow: arrow["times"] > 0),  # what was taken lies on top
        "states": [_box(state, state in visited, run) for state in State],
    }


def _centre(state: State) -> tuple[float, float]:
    column, row = PLACES[state]
    return LEFT + column * COLUMN, 128 + row * 100


def _box(state: State, visited: bool, run: RunState) -> dict[str, Any]:
    x, y = _centre(state)
    current = [f"current {state.lower()}"] if state is run.state else []
    kind = " ".join(["state", *(["visited"] if visited else []), *current])
    return {"name": state, "x": x, "y": y, "kind": kind, "note": _note(state, run)}


def _note(state: State, run: RunState) -> str:
    if stage := TRAINING.get(state):
        progress = run.stages.get(stage)
        return f"{progress.completed} / {progress.target}" if progress else ""
    if state is State.INFER and run.inference.started:
        return f"attempt {run.inference.started}"
    if state is State.RETUNE:
        return f"{run.retunes} of {run.loop.budgets.max_inference_retries}"
    return ""


def _arrow(source: State, target: State, events: Sequence[Event], taken: Mapping[Way, int]) -> dict[str, Any]:
    counts = {event: taken.get((source, event, target), 0) for event in events}
    path, (x, y) = _path(source, target)
    names = ", ".join(f"{event} ×{n}" if n else event for event, n in counts.items())
    return {"times": sum(counts.values()), "title": f"{source} → {target}: {names}", "path": path, "x": x, "y": y}


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
