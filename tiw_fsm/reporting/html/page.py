"""A run as one HTML page that needs nothing else: no network, no other file, no server.

``page`` is a pure function of what is known of a run; ``page_file.py`` finds that out and writes the result.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tiw_fsm.fsm.chunk_gate import ACCEPTING
from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import TERMINAL, TRAINING, State
from tiw_fsm.reporting.advice import next_steps
from tiw_fsm.reporting.curves import COLOURS, Curve
from tiw_fsm.reporting.history import entries
from tiw_fsm.reporting.html import drawings as drawings
from tiw_fsm.reporting.html.drawings import Html, join, tag
from tiw_fsm.reporting.html.style import SCRIPT, STYLE
from tiw_fsm.reporting.journal import Step, chunk_gates, steps, taken, tuning_change
from tiw_fsm.reporting.journal import attempts as journal_attempts
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
SHOWN_STEPS, KEPT_STEPS = 50, 1000
"""Steps of the timeline that are seen at once, and that the page holds at all."""
SHOWN_ATTEMPTS = 30
ENLARGED = 300
"""Height in pixels up to which the rollout in motion is enlarged, by a whole factor."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'unsafe-inline'"
"""What the browser may load: nothing. So the page proves itself that it needs no network."""


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
    journal: Sequence[JsonObject] = ()
    curves: Mapping[Stage, Curve] = field(default_factory=dict)
    config: JsonObject = field(default_factory=dict)
    """The effective configuration."""
    attempts: Mapping[int, Picture] = field(default_factory=dict)
    """By the attempt's number."""
    chunks: Mapping[Stage, Picture] = field(default_factory=dict)
    refused: JsonObject | None = None
    """Why the last start was refused."""
    problems: Sequence[str] = ()
    """What could not be read."""


def page(seen: PageData) -> str:
    """The page."""
    ended = seen.run.state in TERMINAL
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        *([] if ended else [f'<meta http-equiv="refresh" content="{REFRESH}">']),
        '<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">',
    ]
    title = tag("title", f"{seen.run.state} · {seen.name}")
    style, script = Html(f"<style>{STYLE}</style>"), Html(f"<script>{SCRIPT}</script>")
    body = tag("body", *_sections(seen, seen.run), script)
    return "\n".join(['<!doctype html><html lang="en"><head>', *head, title, style, "</head>", body, "</html>", ""])


def _sections(seen: PageData, run: RunState) -> list[Html]:
    history = list(steps(seen.journal))
    main = [
        *_problems(seen, run),
        _stages(run),
        _machine(seen, run),
        _attempts(seen, run),
        _curves(seen, history),
        _budgets(run),
        _changes(seen, run, history),
        _timeline(seen),
        _config(seen.config),
    ]
    return [_header(seen, run), tag("main", *main), _footer(seen, run)]


def _section(title: str, *content: object, note: object = "") -> Html:
    said = tag("p", note, class_="note") if note else ""
    return tag("section", tag("h2", title), said, *content, id=title.lower().replace(" ", "-"))


def _table(headers: Sequence[str], rows: Iterable[Sequence[object]], class_: str = "") -> Html:
    """A table; numbers stand right, under one another."""
    found = [tuple(row) for row in rows]
    columns = list(zip(*found, strict=True)) or [("",)] * len(headers)
    kinds = ["n" if all(map(_is_figure, column)) else None for column in columns]
    body = [tag("tr", *(tag("td", _shown(v), class_=k) for k, v in zip(kinds, row, strict=True))) for row in found]
    head = tag("tr", *(tag("th", name, class_=kind) for kind, name in zip(kinds, headers, strict=True)))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body), class_=class_ or None), class_="wide")


class Figure(str):
    """A number as it shall be shown."""

    __slots__ = ()


def _is_figure(value: object) -> bool:
    return value is None or (isinstance(value, int | float | Figure) and not isinstance(value, bool))


def _shown(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    return "–" if value is None else value


# --- top --------------------------------------------------------------------------------------------------------


def _header(seen: PageData, run: RunState) -> Html:
    kind = "running" if seen.alive else "ended" if run.state in TERMINAL else "stopped"
    life = {"running": f"running, as of {_time(seen.now)}", "ended": "ended", "stopped": "not running"}[kind]
    facts = [f"began {_time(run.created_at)}", f"last step {_time(run.updated_at)}"]
    facts += [f"interrupted {run.interruptions} ×"] if run.interruptions else []
    facts += [f"on {run.fingerprint.device}"] if run.fingerprint else []
    steps_to_try = next_steps(run) if run.state is State.FAILED else []
    written = tag("span", f"page written {_time(seen.now)}", id="written", data_at=seen.now)
    doubt = tag("p", IF_OLD.format(seen.name), class_="note") if seen.alive else ""
    return tag(
        "header",
        tag("h1", seen.name),
        tag(
            "p",
            tag("span", run.state, class_=f"badge {run.state.lower()}"),
            tag("span", life, class_=f"life {kind}"),
            class_="state-line",
        ),
        tag("p", tag("b", "Next: "), what_next(document_of(run), seen.alive), class_="next"),
        tag("ul", *(tag("li", step) for step in steps_to_try), class_="advice") if steps_to_try else "",
        tag("p", *(tag("span", fact) for fact in facts), written, class_="facts"),
        doubt,
    )


def _time(moment: str) -> str:
    return moment.replace("T", " ").replace("Z", " UTC")


def _problems(seen: PageData, run: RunState) -> list[Html]:
    told = list(seen.problems)
    if seen.refused:
        told.append(
            f"The start at {seen.refused.get('time')} was refused (exit {seen.refused.get('exit_code')}): "
            f"{seen.refused.get('message')}"
        )
    told += [f"Not bitwise from update {i.completed} of {i.stage or 'no stage'} on: {i.what}" for i in run.inexact]
    return [tag("p", problem, class_="problem") for problem in told]


def _stages(run: RunState) -> Html:
    cards = []
    for stage, progress in run.stages.items():
        share = min(1.0, progress.completed / (progress.target or 1))
        now = TRAINING.get(run.state) is stage
        gate = [tag("span", progress.verdict, class_=f"verdict {progress.verdict}")] if progress.verdict else []
        cards.append(
            tag(
                "div",
                tag("h3", stage, *gate),
                tag("p", tag("b", f"{progress.completed:,}"), f" of {progress.target:,} updates", class_="figure"),
                tag("div", tag("i", style=f"width:{100 * share:.1f}%"), class_="meter"),
                tag(
                    "p",
                    f"learning rate {progress.tuning.learning_rate:.3g} · batch {progress.tuning.batch_size_per_gpu}"
                    f" × {progress.tuning.gradient_accumulation_steps}",
                    class_="note",
                ),
                class_="card now" if now else "card",
            )
        )
    return tag("section", tag("div", *cards, class_="cards"), id="stages") if cards else Html("")


def _machine(seen: PageData, run: RunState) -> Html:
    drawn = drawings.machine(run, taken(seen.journal))
    return _section(
        "Machine", drawn, note="States visited are tinted, the present one is filled; ×n: ways taken so often."
    )


# --- inference --------------------------------------------------------------------------------------------------


def _attempts(seen: PageData, run: RunState) -> Html:
    found = journal_attempts(seen.journal)
    if not found:
        return _section("Inference attempts", note="None has been judged yet.")
    names = list(dict.fromkeys(name for attempt in found for name in attempt.baselines))
    headers = ("attempt", "updates", "MSE", "at most", *names, "skill", "verdict", "not met")
    rows = [_attempt_row(attempt, names) for attempt in reversed(found)]
    shown = found[-SHOWN_ATTEMPTS:]
    note = f"The last {len(shown)} of {len(found)} attempts are drawn." if len(found) > len(shown) else ""
    pictured = [attempt for attempt in reversed(found) if attempt.number in seen.attempts]
    pictures = [_rollout(a, seen.attempts[a.number], run, first=a is pictured[0]) for a in pictured]
    return _section("Inference attempts", drawings.attempts(shown), _table(headers, rows), *pictures, note=note)


def _attempt_row(attempt: Attempt, names: Sequence[str]) -> tuple[object, ...]:
    unmet = ", ".join(name for name, held in attempt.conditions.items() if not held)
    verdict = "passed" if attempt.passed else "failed"
    skill = None if attempt.skill is None else Figure(f"{attempt.skill:+.3f}")
    mark = tag("span", verdict, class_=f"verdict {verdict}")
    errors = (attempt.mse, attempt.max_mse, *(attempt.baselines.get(name) for name in names))
    shown = (None if error is None else Figure(f"{error:.4f}") for error in errors)
    return (attempt.number, attempt.updates, *shown, skill, mark, unmet)


def _rollout(attempt: Attempt, picture: Picture, run: RunState, *, first: bool) -> Html:
    """An attempt's pictures; the newest are seen at once."""
    best = run.inference.best
    title = f"Attempt {attempt.number}{', the best' if best and best.number == attempt.number else ''}"
    moving = []
    if picture.motion:
        caption = "above: the true clip; below: what the model made of its first frames and the inferred actions"
        still = tag("p", "The animation is hidden, because this device asks for less motion.", class_="still note")
        image = _image(picture.motion, f"{title}: the rollout in motion", enlarged=True)
        moving = [tag("figure", image, still, tag("figcaption", caption), class_="motion")]
    if first:
        return tag("div", tag("h3", title), *moving, _strips(picture, title))
    return tag("details", tag("summary", title), *moving, _strips(picture, title), id=f"attempt-{attempt.number}")


def _strips(picture: Picture, title: str) -> Html:
    if picture.png is None:
        return tag("p", f"{picture.name}: {picture.problem}", class_="note gone")
    image = tag("div", _image(picture.png, f"{title}: ground truth and prediction"), class_="wide")
    return tag("figure", image, tag("figcaption", picture.name))


def _image(png: bytes, alt: str, *, enlarged: bool = False) -> Html:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    factor = max(1, ENLARGED // height) if enlarged else 1
    image = tag("img", src=source, alt=alt, width=factor * width, height=factor * height)
    return Html(image.removesuffix("</img>"))


# --- training ---------------------------------------------------------------------------------------------------


def _curves(seen: PageData, history: Sequence[Step]) -> Html:
    parts = []
    for stage in Stage:
        curve, marked = seen.curves.get(stage), chunk_gates(seen.journal, stage)
        if curve is None or not len(curve.loss):
            continue
        retunes = [
            (step.after["stages"][stage]["completed"], step.facts["retune"])
            for step in history
            if step.event == "retuned" and stage in step.facts["stages"]
        ]
        parts += [tag("h3", stage), drawings.loss(stage, curve, marked, retunes), _gate_list(marked)]
        if stage in seen.chunks:
            picture = tag("summary", "picture of the last chunk"), _strips(seen.chunks[stage], f"{stage}, last chunk")
            parts.append(tag("details", *picture, id=f"picture-{stage}"))
    key = [tag("span", decision, class_=f"verdict {decision}") for decision in COLOURS]
    note = join(["Gates: ", *key, " Pale: chunks that were rejected and repeated."])
    return _section("Loss", *parts, note=note) if parts else _section("Loss", note="No update has been recorded yet.")


def _gate_list(marked: Sequence[JsonObject]) -> Html:
    """All gates of a stage, the latest first."""
    rows = [
        (g["completed"], g["attempt"], tag("span", g["decision"], class_=f"verdict {g['decision']}"), g["reason"])
        for g in reversed(marked)
    ]
    if not rows:
        return Html("")
    rejected = sum(gate["decision"] not in ACCEPTING for gate in marked)
    said = f"{len(rows)} gate{'s' * (len(rows) > 1)}, {rejected} rejected"
    table = _table(("updates", "attempt", "decision", "reason"), rows[:KEPT_STEPS])
    return tag("details", tag("summary", said), table, id=f"gates-{marked[0]['stage']}")


# --- budgets, changes, timeline, config -------------------------------------------------------------------------


def _budgets(run: RunState) -> Html:
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
    rows = [_budget(*entry) for entry in used]
    note = f"{run.interruptions} interruption{'s' * (run.interruptions != 1)}; they are free."
    return _section("Budgets", tag("div", *rows, class_="budgets"), note=note)


def _budget(name: str, used: int, allowed: int) -> Html:
    share = min(1.0, used / allowed) if allowed else float(used > 0)
    kind = "full" if used >= allowed and used else "some" if used else ""
    bar = tag("div", tag("i", style=f"width:{100 * share:.0f}%"), class_=f"meter {kind}")
    return tag("div", tag("span", name), bar, tag("span", f"{used} / {allowed}", class_="n"), class_="budget")


def _flat(values: Mapping[str, Any], within: str = "") -> JsonObject:
    found: JsonObject = {}
    for key, value in values.items():
        name = f"{within}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


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


def _changes(seen: PageData, run: RunState, history: Sequence[Step]) -> Html:
    rows = [
        (tag("time", _time(step.line["time"])), "retune" if step.event == "gate_failed" else step.event, what)
        for step in history[1:]
        for what in changes_of(step)
    ]
    typed = ", ".join(f"--{key.replace('_', '-')} {value}" for key, value in run.flags.items())
    note = f"Flags given: {typed}." if typed else "No flags were given."
    if not rows:
        return _section("What changed", note=f"{note} Nothing has changed since the run began.")
    return _section("What changed", _table(("time", "by", "what"), rows[: -KEPT_STEPS - 1 : -1]), note=note)


def _timeline(seen: PageData) -> Html:
    found = entries(seen.journal)[: -KEPT_STEPS - 1 : -1]
    rows = [
        (
            tag("time", _time(e["time"]).removesuffix(" UTC")),
            Figure(f"+{duration(e['seconds'])}"),
            e["to"] if e["from"] in (None, e["to"]) else f"{e['from']} → {e['to']}",
            tag("span", e["what"], class_=f"event {e['event']}"),
        )
        for e in found
    ]
    headers = ("time, UTC", "after", "state", "what")
    parts = [_table(headers, rows[:SHOWN_STEPS], "timeline")]
    if len(rows) > SHOWN_STEPS:
        summary = tag("summary", f"{len(rows) - SHOWN_STEPS} steps before these")
        parts.append(tag("details", summary, _table(headers, rows[SHOWN_STEPS:], "timeline"), id="earlier"))
    if len(seen.journal) > len(rows):
        more = f"{len(seen.journal) - len(rows)} older steps: tiw-fsm history --run {seen.name}"
        parts.append(tag("p", more, class_="note"))
    return _section("Timeline", *parts, note="Latest first.")


def _config(config: JsonObject) -> Html:
    """Stages side by side; everything else as dotted keys."""
    if not config:
        return _section("Config", note="The effective configuration cannot be read.")
    rest = {key: value for key, value in config.items() if key not in ("stages", "alignment")}
    stages: Mapping[str, Mapping[str, Any]] = config.get("stages", {})
    keys = list(dict.fromkeys(key for values in stages.values() for key in values))
    side_by_side = [(key, *(values.get(key) for values in stages.values())) for key in keys]
    others = _flat(rest).items()
    inner = [_table(("", *stages), side_by_side, "config"), _table(("key", "value"), others, "config")]
    return _section("Config", tag("details", tag("summary", "effective configuration"), *inner, id="effective"))


def _footer(seen: PageData, run: RunState) -> Html:
    reports = [tag("li", path) for path in run.reports]
    return tag(
        "footer",
        *([tag("p", "Markdown reports:"), tag("ul", *reports)] if reports else []),
        tag(
            "p",
            f"Run {run.run_id}, generation {run.generation}. `tiw-fsm run` keeps this page current, "
            "`tiw-fsm report` writes it anew.",
        ),
    )
