"""The journal, readable: every step of a run with what it changed, how long it took and what happened in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.text import Text

from tiw_fsm.errors import UsageProblem
from tiw_fsm.fsm.events import Event, RunnerEvent
from tiw_fsm.reporting.advice import verdict_line
from tiw_fsm.reporting.journal import Step, steps
from tiw_fsm.reporting.wording import duration, not_begun
from tiw_fsm.values.plain import JsonObject

EVENTS: dict[str, Event | RunnerEvent] = {event.value: event for event in (*Event, *RunnerEvent)}
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
COLOURS: dict[str, str] = {
    Event.REJECTED: "yellow",
    Event.GATE_FAILED: "yellow",
    Event.CRASHED: "red",
    Event.KILLED: "red",
    Event.OUT_OF_MEMORY: "red",
    Event.STALLED: "red",
    RunnerEvent.INTERRUPTED: "cyan",
    RunnerEvent.REFUSED: "yellow",
    RunnerEvent.STARTED: "cyan",
    RunnerEvent.CHANGED: "yellow",
    Event.GATE_PASSED: "green",
}


# --- what happened, in words ------------------------------------------------------------------------------------


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def _how_started(facts: JsonObject) -> str:
    died = ["the runner before had died without warning"] if "died" in facts else []
    return "; ".join(["resumed", *died, *(f"changed: {what}" for what in facts.get("changed", []))])


def _saved(facts: JsonObject) -> str:
    saved = f"{facts['stage']}: checkpoint after {facts['completed']} updates, {facts['seconds']:.1f} s in updates"
    return "; ".join([saved, *facts.get("notes", [])])


def _judged(facts: JsonObject) -> str:
    return f"{facts['stage']} gate at update {facts['completed']}: {facts['decision']} ({facts['reason']})"


def _verdict(facts: JsonObject) -> str:
    return verdict_line(facts["attempt"])


def _retuned(facts: JsonObject) -> str:
    goals = (
        f"{stage} to update {plan['target']} with peak learning rate {plan['learning_rate']:g}"
        for stage, plan in facts["stages"].items()
    )
    return f"retune {facts['retune']}: {', then '.join(goals)}"


WORDS: dict[Event | RunnerEvent, Callable[[JsonObject], str]] = {
    Event.ALIGNED: lambda facts: f"configs aligned, data in order; training on {facts['device']}",
    Event.SAVED: _saved,
    Event.ACCEPTED: _judged,
    Event.REJECTED: _judged,
    Event.CRASHED: lambda facts: f"the process died: {last_line(facts['error'])}",
    Event.KILLED: lambda facts: f"the process was killed: {facts['error'].partition(chr(10))[0]}",
    Event.OUT_OF_MEMORY: lambda facts: f"out of memory: {last_line(facts['error'])}",
    Event.INFERRED: lambda facts: f"inference attempt {facts['attempt']} ran",
    Event.RESULT_LOST: lambda facts: f"the result of attempt {facts['attempt']} was lost or altered; inferring again",
    Event.GATE_PASSED: _verdict,
    Event.GATE_FAILED: _verdict,
    Event.RETUNED: _retuned,
    Event.REPORTED: lambda facts: "the reports are written",
    Event.STALLED: lambda facts: f"{facts['stalled_starts']} starts in a row made no progress",
    Event.REOPENED: lambda facts: f"reopened with budgets {facts['budgets']}",
    RunnerEvent.STARTED: _how_started,
    RunnerEvent.INTERRUPTED: lambda facts: "asked to stop; all progress was saved",
    RunnerEvent.CHANGED: lambda facts: f"a new process computes otherwise: {'; '.join(facts['changed'])}",
    RunnerEvent.REFUSED: lambda facts: f"ended, and this start does not count: {last_line(facts['error'])}",
}
"""Events of the machine's table, and starts and stops, in words."""


def words(step: Step) -> str:
    """What happened, as a sentence."""
    return WORDS[EVENTS[step.event]](step.facts)


# --- the command ------------------------------------------------------------------------------------------------


def entries(
    journal: Sequence[JsonObject], *, since: datetime | None = None, state: str | None = None
) -> list[JsonObject]:
    """The timeline: one entry per journal line, with the seconds since the line before."""
    found = []
    before: datetime | None = None
    for step in steps(journal):
        at = datetime.fromisoformat(step.line["time"])
        seconds = (at - before).total_seconds() if before else 0.0
        before = at
        if (since is None or at >= since) and state in (None, step.line["from"], step.line["to"]):
            kept = {key: step.line[key] for key in ("generation", "time", "event", "from", "to", "facts")}
            found.append({**kept, "seconds": seconds, "what": words(step)})
    return found


def moment(text: str) -> datetime:
    """A point in time: ISO 8601 (UTC where it names no zone), or how long ago, as in 90s, 30m, 2h or 1d.

    Raises:
        UsageProblem: it is neither.
    """
    if ago := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
    try:
        given = datetime.fromisoformat(text)
    except ValueError as exc:
        raise UsageProblem(f"--since {text!r} is no time; give 2026-01-31T12:00, or 2h for two hours ago") from exc
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def show(console: Console, found: Sequence[JsonObject]) -> None:
    """The timeline for people."""
    for entry in found:
        way = entry["to"] if entry["from"] in (None, entry["to"]) else f"{entry['from']} → {entry['to']}"
        line = Text(f"{entry['time'].replace('T', ' ').removesuffix('Z')}  ", style="dim")
        line.append(f"{'+' + duration(entry['seconds']):>12}  ", style="dim")
        line.append(f"{way:<32}")
        line.append(entry["what"], style=COLOURS.get(entry["event"], ""))
        console.print(line, soft_wrap=True)


def conclusion(journal: Sequence[JsonObject], found: Sequence[JsonObject], run: str) -> str:
    """One sentence: how much is shown of how much."""
    if not journal:
        return not_begun(run)
    return f"{len(found)} of {len(journal)} steps; `tiw-fsm status --run {run}` says where it is now."
