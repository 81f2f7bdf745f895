"""A run as one HTML page that needs nothing else: no network, no other file, no server.

``page`` is a pure function of what is known of a run: it prepares plain data, and ``templates/page.html.j2`` has the
markup. ``writer.py`` finds out what is known, and writes the result.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tiw_fsm.fsm.chunk_gate import ACCEPTING
from tiw_fsm.fsm.events import Event
from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import TERMINAL, TRAINING, State
from tiw_fsm.reporting import processes
from tiw_fsm.reporting.advice import HINTED, next_steps
from tiw_fsm.reporting.curves import COLOURS, Losses
from tiw_fsm.reporting.figures import FIGURES, figures, gate_of
from tiw_fsm.reporting.history import entry, folded
from tiw_fsm.reporting.html.attempts import attempts as attempts_drawing
from tiw_fsm.reporting.html.attempts import baselines_of
from tiw_fsm.reporting.html.loss import loss
from tiw_fsm.reporting.html.machine import machine
from tiw_fsm.reporting.html.per_step import per_step
from tiw_fsm.reporting.html.templating import render
from tiw_fsm.reporting.journal import Step, best_of, tuning_change
from tiw_fsm.reporting.past import LATEST, Past
from tiw_fsm.reporting.status import what_next
from tiw_fsm.reporting.wording import duration
from tiw_fsm.stages import Stage
from tiw_fsm.storage.store import document_of
from tiw_fsm.values.plain import JsonObject

REFRESH = 15
"""Seconds after which an open page looks whether there is news."""
IF_OLD = (
    "A run renews this page after its steps, at most every ten seconds. If it is older than a step takes, the runner "
    "was killed: `tiw-fsm status --run {}` knows."
)
"""A runner that was killed cannot say so."""
SHOWN_LINES = 50
"""Lines of the timeline that are seen at once."""
SHOWN_ATTEMPTS = 30
ENLARGED = 300
"""Height in pixels up to which the rollout in motion is enlarged, by a whole factor."""


@dataclass(frozen=True)
class Picture:
    """A picture that goes into the page, or why it does not."""

    name: str
    png: bytes | None = None
    motion: bytes | None = None
    problem: str | None = None


@dataclass(frozen=True)
class PageData:
    """All that a page tells of."""

    name: str
    now: str
    run: RunState
    alive: bool = False
    past: Past = field(default_factory=Past)
    losses: Mapping[Stage, Losses] = field(default_factory=dict)
    config: JsonObject = field(default_factory=dict)
    """The effective configuration."""
    attempts: Mapping[int, Picture] = field(default_factory=dict)
    """By the attempt's number."""
    chunks: Mapping[Stage, Picture] = field(default_factory=dict)
    refused: JsonObject | None = None
    """Why the last start was refused."""
    problems: Sequence[str] = ()
    """What could not be read."""


def page(data: PageData) -> str:
    """The page."""
    run, history, document = data.run, data.past.steps, document_of(data.run)
    return render(
        "page.html.j2",
        data=data,
        run=run,
        refresh=None if run.state in TERMINAL else REFRESH,
        colours=COLOURS,
        time=_time,
        life="running" if data.alive else "ended" if run.state in TERMINAL else "stopped",
        next=what_next(document, data.alive),
        advice=next_steps(run) if run.state is State.FAILED else [],
        if_old=IF_OLD.format(data.name) if data.alive else "",
        where=processes.where(document),
        shared={stage: processes.shared(document, stage) for stage in run.stages},
        current_stage=TRAINING.get(run.state),
        machine=machine(run, data.past.taken),
        attempts=_attempts(data),
        losses=_losses(data, history),
        budgets=_budgets(run),
        changes=_changes(history),
        timeline=_timeline(data),
        config=_config(data.config),
    )


Table = dict[str, Any]


def _table(headers: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "") -> Table:
    """A table; numbers stand right, under one another. A cell is a value, or a ``Mark``."""
    found = [tuple(row) for row in rows]
    columns = list(zip(*found, strict=True)) or [("",)] * len(headers)
    kinds = ["n" if all(map(_is_figure, column)) else "" for column in columns]
    return {
        "kind": kind,
        "head": list(zip(headers, kinds, strict=True)),
        "rows": [list(zip(map(_shown, row), kinds, strict=True)) for row in found],
    }


class Mark(NamedTuple):
    """A cell that is an element of its own: a moment, or words whose style shows of what kind they are."""

    text: str
    kind: str = ""
    element: str = "span"


class Figure(str):
    """A number as it shall be shown."""

    __slots__ = ()


def _is_figure(value: object) -> bool:
    return value is None or (isinstance(value, int | float | Figure) and not isinstance(value, bool))


def _shown(value: object) -> str | Mark:
    """A cell as the template wants it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    return value if isinstance(value, Mark) else "–" if value is None else str(value)


def _time(moment: str) -> str:
    return moment.replace("T", " ").replace("Z", " UTC")


# --- inference --------------------------------------------------------------------------------------------------


MEANING = (
    "Skill: 1 − MSE / that of the best trivial prediction. ΔPSNR: what is gained by the inferred actions over random "
    "ones. Motion: movement as a share of the true frames'. Actions: how many lead to a different next frame. Keys: "
    "agreement of actions and recorded keys. Unseen: share of the judged frames that training has not seen. In "
    "brackets: 95 % intervals over clips."
)


def _attempts(data: PageData) -> dict[str, Any] | None:
    """None before an attempt was judged."""
    found = data.past.attempts
    if not found:
        return None
    names = baselines_of(found)
    headers = ("attempt", "verdict", "MSE", "at most", *names, "updates", "gate", "not met")
    drawn, best, last = found[-SHOWN_ATTEMPTS:], best_of(found), found[-1]
    titles = {a.number: f"Attempt {a.number}{', the best' if a is best else ''}" for a in found}
    pictured = [attempt for attempt in reversed(found) if attempt.number in data.attempts]
    return {
        "headline": _headline(last),
        "drawing": attempts_drawing(drawn),
        "drawn": len(drawn),
        "all": data.past.judged,
        "told": len(found),
        "table": _table(headers, [_attempt_row(attempt, names) for attempt in reversed(found)]),
        "figures": _figures(found),
        "meaning": MEANING,
        "per_step": per_step({titles[a.number]: a for a in (last, best or last)}),
        "hinted": HINTED if last.keys_used else "",
        "pictures": [
            {
                "number": attempt.number,
                "title": titles[attempt.number],
                **_picture(data.attempts[attempt.number]),
            }
            for attempt in pictured
        ],
    }


def _headline(last: Attempt) -> list[tuple[str, str]]:
    """What the newest attempt is worth, as name and value."""
    told = figures(last.model_dump())
    mse = [] if last.mse is None else [("MSE", f"{last.mse:.4f} (at most {last.max_mse:g})")]
    return [*mse, *((name, told[name]) for name in ("skill",) if name in told)]


def _attempt_row(attempt: Attempt, names: Sequence[str]) -> tuple[object, ...]:
    unmet = ", ".join(name for name, held in attempt.conditions.items() if not held)
    verdict = "passed" if attempt.passed else "failed"
    mark = Mark(verdict, f"verdict {verdict}")
    errors = (attempt.mse, attempt.max_mse, *(attempt.baselines.get(name) for name in names))
    shown = (None if error is None else Figure(f"{error:.4f}") for error in errors)
    return (attempt.number, mark, *shown, attempt.updates, gate_of(attempt.model_dump()), unmet)


def _figures(found: Sequence[Attempt]) -> Table | None:
    """What was measured beside the MSE, the latest first; None where nothing was. No column without a figure."""
    told = {attempt.number: figures(attempt.model_dump()) for attempt in reversed(found)}
    names = [name for name in FIGURES if any(name in texts for texts in told.values())]
    rows = [
        (number, *(Figure(texts[name]) if name in texts else None for name in names)) for number, texts in told.items()
    ]
    return _table(("attempt", *names), rows, "figures") if names else None


def _picture(picture: Picture) -> dict[str, Any]:
    return {
        "name": picture.name,
        "problem": picture.problem,
        "strips": picture.png and _image(picture.png),
        "motion": picture.motion and _image(picture.motion, enlarged=True),
    }


def _image(png: bytes, *, enlarged: bool = False) -> dict[str, Any]:
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    factor = max(1, ENLARGED // height) if enlarged else 1
    return {"base64": base64.b64encode(png).decode(), "width": factor * width, "height": factor * height}


# --- training ---------------------------------------------------------------------------------------------------


def _losses(data: PageData, history: Sequence[Step]) -> list[dict[str, Any]]:
    """The stages of which an update was recorded."""
    parts = []
    for stage in Stage:
        losses = data.losses.get(stage)
        if not losses:
            continue
        retunes = [
            (step.after["stages"][stage]["completed"], step.facts["retune"])
            for step in history
            if step.event == "retuned" and stage in step.facts["stages"]
        ]
        gates, marks = list(data.past.gates(stage)), data.past.marks(stage)
        rows = [
            (gate["completed"], gate["attempt"], Mark(gate["decision"], f"verdict {gate['decision']}"), gate["reason"])
            for gate in reversed(gates)
        ]
        decided = {decision: n for (of, decision), n in data.past.decisions.items() if of == stage}
        parts.append(
            {
                "stage": stage,
                "drawing": loss(stage, losses, marks, retunes),
                "gates": sum(decided.values()),
                "marked": len(marks),
                "told": len(gates),
                "rejected": sum(n for decision, n in decided.items() if decision not in ACCEPTING),
                "table": _table(("updates", "attempt", "decision", "reason"), rows),
                "picture": _picture(data.chunks[stage]) if stage in data.chunks else None,
            }
        )
    return parts


# --- budgets, changes, timeline, config -------------------------------------------------------------------------


def _budgets(run: RunState) -> list[dict[str, Any]]:
    allowed = run.loop.budgets
    used: list[tuple[str, int, int]] = []
    for stage, progress in run.stages.items():
        used.append((f"{stage}: rejected chunks in a row", progress.retries, allowed.max_train_retries))
        used.append((f"{stage}: process deaths in a row", progress.crashes, allowed.max_crashes))
    used += [
        ("inference: process deaths in a row", run.inference.crashes, allowed.max_crashes),
        ("retunes", run.retunes, allowed.max_inference_retries),
        ("starts in a row without progress", run.stalled_starts, allowed.max_stalled_starts),
    ]
    return [
        {
            "name": name,
            "used": count,
            "allowed": limit,
            "share": min(1.0, count / limit) if limit else float(count > 0),
            "kind": "full" if count >= limit and count else "some" if count else "",
        }
        for name, count, limit in used
    ]


def _flat(values: Mapping[str, Any], within: str = "") -> JsonObject:
    found: JsonObject = {}
    for key, value in values.items():
        name = f"{within}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


def _changed_by(step: Step) -> str:
    return "retune" if step.event == Event.GATE_FAILED else step.event


def changes_of(step: Step) -> list[str]:
    """What a step changed in settings: tuning and targets, budgets and thresholds, what a start was told to take."""
    found = [f"{stage}: {patch}" for stage in step.after.get("stages", {}) if (patch := tuning_change(step, stage))]
    old, new = step.before.get("loop"), step.after.get("loop")
    if old and new and old != new:
        before, after = _flat(old), _flat(new)
        found += [
            f"loop: {key} {_shown(before.get(key))} → {_shown(after.get(key))}"
            for key in {**before, **after}
            if before.get(key) != after.get(key)
        ]
    return found + list(step.facts.get("changed", []))


def _changes(history: Sequence[Step]) -> Table | None:
    """None where nothing has changed since the run began."""
    rows = [
        (
            Mark(_time(step.line["time"]), element="time"),
            "retune" if step.event == Event.GATE_FAILED else step.event,
            what,
        )
        for step in history
        for what in changes_of(step)
    ]
    return _table(("time", "by", "what"), rows[: -LATEST - 1 : -1]) if rows else None


def _timeline(data: PageData) -> dict[str, Any]:
    """Latest first: what is seen at once, what is folded away, and how many steps the page does not hold."""
    told = list(folded(entry(*step) for step in data.past.latest))[::-1]
    rows = [
        (
            Mark(_time(each["time"]).removesuffix(" UTC"), element="time"),
            Figure(f"+{duration(each['seconds'])}"),
            each["to"] if each["from"] in (None, each["to"]) else f"{each['from']} → {each['to']}",
            Mark(each["what"], f"event {each['event']}"),
        )
        for each in told
    ]
    headers = ("time, UTC", "after", "state", "what")
    return {
        "latest": _table(headers, rows[:SHOWN_LINES], "timeline"),
        "earlier": _table(headers, rows[SHOWN_LINES:], "timeline"),
        "folded": sum(each["steps"] for each in told[SHOWN_LINES:]),
        "older": data.past.count - len(data.past.latest),
    }


def _config(config: JsonObject) -> list[Table]:
    """Stages side by side; everything else as dotted keys."""
    if not config:
        return []
    rest = {key: value for key, value in config.items() if key not in ("stages", "alignment")}
    stages: Mapping[str, Mapping[str, Any]] = config.get("stages", {})
    keys = list(dict.fromkeys(key for values in stages.values() for key in values))
    side_by_side = [(key, *(values.get(key) for values in stages.values())) for key in keys]
    return [_table(("", *stages), side_by_side, "config"), _table(("key", "value"), _flat(rest).items(), "config")]
