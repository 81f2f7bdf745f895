"""The journal, readable: every step of a run with what it changed, how long it took and what happened in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from tiw_fsm.advice import verdict_line
from tiw_fsm.errors import UsageProblem
from tiw_fsm.machine import Event, Way
from tiw_fsm.state_folder import Json
from tiw_fsm.states import State
from tiw_fsm.store import apply_patch
from tiw_fsm.wording import duration, not_begun

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
COLOURS = {
    "rejected": "yellow",
    "gate_failed": "yellow",
    "crashed": "red",
    "out_of_memory": "red",
    "stalled": "red",
    "interrupted": "cyan",
    "started": "cyan",
    "gate_passed": "green",
}


class Step(NamedTuple):
    """A journal line with the state before and after it."""

    line: Json
    before: Json
    after: Json

    @property
    def event(self) -> str:
        return str(self.line["event"])

    @property
    def facts(self) -> Json:
        facts: Json = self.line["facts"]
        return facts

    @property
    def words(self) -> str:
        """What happened, as a sentence."""
        return WORDS[self.event](self.facts)


def steps(journal: Iterable[Json]) -> Iterator[Step]:
    """The journal, unfolded."""
    before: Json = {}
    for line in journal:
        after = apply_patch(before, line["changes"])
        yield Step(line, before, after)
        before = after


def taken(journal: Iterable[Json]) -> Counter[Way]:
    """How often the run has taken each way of the machine's table."""
    return Counter(
        (State(line["from"] or State.ALIGN), Event(line["event"]), State(line["to"]))
        for line in journal
        if line["event"] in list(Event)
    )


# --- what happened, in words ------------------------------------------------------------------------------------


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def _how_started(facts: Json) -> str:
    died = ["the runner before had died without warning"] if "died" in facts else []
    return "; ".join(["resumed", *died, *(f"changed: {what}" for what in facts.get("changed", []))])


def _saved(facts: Json) -> str:
    saved = f"{facts['stage']}: checkpoint after {facts['completed']} updates, {facts['seconds']:.1f} s in updates"
    return "; ".join([saved, *facts.get("notes", [])])


def _judged(facts: Json) -> str:
    return f"{facts['stage']} gate at update {facts['completed']}: {facts['decision']} ({facts['reason']})"


def _verdict(facts: Json) -> str:
    return verdict_line(facts["attempt"])


def _retuned(facts: Json) -> str:
    goals = (
        f"{stage} to update {plan['target']} with peak learning rate {plan['learning_rate']:g}"
        for stage, plan in facts["stages"].items()
    )
    return f"retune {facts['retune']}: {', then '.join(goals)}"


WORDS: dict[str, Callable[[Json], str]] = {
    "aligned": lambda facts: f"configs aligned, data in order; training on {facts['device']}",
    "saved": _saved,
    "accepted": _judged,
    "rejected": _judged,
    "crashed": lambda facts: f"the process died: {last_line(facts['error'])}",
    "out_of_memory": lambda facts: f"out of memory: {last_line(facts['error'])}",
    "inferred": lambda facts: f"inference attempt {facts['attempt']} ran",
    "result_lost": lambda facts: f"the result of attempt {facts['attempt']} was lost or altered; inferring again",
    "gate_passed": _verdict,
    "gate_failed": _verdict,
    "retuned": _retuned,
    "reported": lambda facts: "the reports are written",
    "stalled": lambda facts: f"{facts['stalled_starts']} starts in a row made no progress",
    "reopened": lambda facts: f"reopened with budgets {facts['budgets']}",
    "started": _how_started,
    "interrupted": lambda facts: "asked to stop; all progress was saved",
}
"""Events of the machine's table, and starts and stops, in words."""


# --- the command ------------------------------------------------------------------------------------------------


def entries(journal: Sequence[Json], *, since: datetime | None = None, state: str | None = None) -> list[Json]:
    """The timeline: one entry per journal line, with the seconds since the line before."""
    found = []
    before: datetime | None = None
    for step in steps(journal):
        at = datetime.fromisoformat(step.line["time"])
        seconds = (at - before).total_seconds() if before else 0.0
        before = at
        if (since is None or at >= since) and state in (None, step.line["from"], step.line["to"]):
            kept = {key: step.line[key] for key in ("generation", "time", "event", "from", "to", "facts")}
            found.append({**kept, "seconds": seconds, "what": step.words})
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


def show(console: Console, found: Sequence[Json]) -> None:
    """The timeline for people."""
    for entry in found:
        way = entry["to"] if entry["from"] in (None, entry["to"]) else f"{entry['from']} → {entry['to']}"
        line = Text(f"{entry['time'].replace('T', ' ').removesuffix('Z')}  ", style="dim")
        line.append(f"{'+' + duration(entry['seconds']):>12}  ", style="dim")
        line.append(f"{way:<32}")
        line.append(entry["what"], style=COLOURS.get(entry["event"], ""))
        console.print(line, soft_wrap=True)


def conclusion(journal: Sequence[Json], found: Sequence[Json], run: str) -> str:
    """One sentence: how much is shown of how much."""
    if not journal:
        return not_begun(run)
    return f"{len(found)} of {len(journal)} steps; `tiw-fsm status --run {run}` says where it is now."
