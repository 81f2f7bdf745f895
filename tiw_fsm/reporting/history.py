"""The journal, readable: every step of a run with what it changed, how long it took and what happened in words."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby

from rich.console import Console
from rich.text import Text

from tiw_fsm.errors import UsageProblem
from tiw_fsm.fsm.events import Event, RunnerEvent
from tiw_fsm.reporting.advice import verdict_line
from tiw_fsm.reporting.processes import listed
from tiw_fsm.reporting.wording import duration, not_begun, seconds_between
from tiw_fsm.storage.state_folder import StateFolder
from tiw_fsm.values.plain import JsonObject

EVENTS: dict[str, Event | RunnerEvent] = {event.value: event for event in (*Event, *RunnerEvent)}
SHOWN = 200
"""Steps that are shown where not all are asked for, the last ones."""
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
COLOURS: dict[str, str] = {
    Event.REJECTED: "yellow",
    Event.GATE_FAILED: "bold yellow",
    Event.CRASHED: "red",
    Event.KILLED: "red",
    Event.OUT_OF_MEMORY: "red",
    Event.STALLED: "red",
    RunnerEvent.INTERRUPTED: "cyan",
    RunnerEvent.REFUSED: "yellow",
    RunnerEvent.STARTED: "cyan",
    RunnerEvent.CHANGED: "yellow",
    Event.GATE_PASSED: "bold green",
    Event.SAVED: "dim",
}


# --- what happened, in words ------------------------------------------------------------------------------------


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def gist(error: str) -> str:
    """An error's last line, and before it whose it is, where one of several processes left its traceback."""
    whose, traceback, _ = error.partition("\n")[0].partition("Traceback (most recent call last):")
    return f"{whose if traceback else ''}{last_line(error)}"


def _aligned(facts: JsonObject) -> str:
    where = f"in processes: {listed(facts['hosts'])}" if "hosts" in facts else f"on {facts['device']}"
    return f"configs aligned, data in order; training {where}"


def _how_started(facts: JsonObject) -> str:
    hosts = [f"processes: {listed(facts['hosts'])}"] if "hosts" in facts else []
    died = ["the runner before had died without warning"] if "died" in facts else []
    return "; ".join(["resumed", *hosts, *died, *(f"changed: {what}" for what in facts.get("changed", []))])


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
    Event.ALIGNED: _aligned,
    Event.SAVED: _saved,
    Event.ACCEPTED: _judged,
    Event.REJECTED: _judged,
    Event.CRASHED: lambda facts: f"the process died: {gist(facts['error'])}",
    Event.KILLED: lambda facts: f"the process was killed: {facts['error'].partition(chr(10))[0]}",
    Event.OUT_OF_MEMORY: lambda facts: f"out of memory: {gist(facts['error'])}",
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


def words(line: JsonObject) -> str:
    """What happened, as a sentence. ``line`` is of the journal."""
    return WORDS[EVENTS[line["event"]]](line["facts"])


# --- the command ------------------------------------------------------------------------------------------------


def entry(line: JsonObject, seconds: float) -> JsonObject:
    """A journal line in the timeline, so many seconds after the one before."""
    kept = {key: line[key] for key in ("generation", "time", "event", "from", "to", "facts")}
    return {**kept, "seconds": seconds, "what": words(line)}


def entries(
    journal: Iterable[JsonObject], *, since: datetime | None = None, state: str | None = None
) -> Iterator[JsonObject]:
    """The timeline: one entry per journal line, with the seconds since the line before."""
    before: str | None = None
    for line in journal:
        time = line["time"]
        seconds = seconds_between(before or time, time)
        before = time
        if state in (None, line["from"], line["to"]) and (since is None or datetime.fromisoformat(time) >= since):
            yield entry(line, seconds)


def folded(found: Iterable[JsonObject]) -> Iterator[JsonObject]:
    """The timeline with a stage's checkpoints in a row as one entry; ``steps`` says how many an entry holds."""
    for _, same in groupby(found, lambda each: _plain_checkpoint(each) or each["generation"]):
        group = list(same)
        first, last = group[0], group[-1]
        one = last | {"from": first["from"], "seconds": sum(each["seconds"] for each in group), "steps": len(group)}
        if len(group) > 1:
            facts, training = last["facts"], sum(each["facts"]["seconds"] for each in group)
            one["what"] = (
                f"{facts['stage']}: {len(group)} checkpoints, the last after {facts['completed']} updates, "
                f"{training:.1f} s in updates"
            )
        yield one


def _plain_checkpoint(entry: JsonObject) -> str | None:
    """The stage that saved a checkpoint, and nothing else is to be said of it."""
    facts = entry["facts"]
    return facts["stage"] if entry["event"] == Event.SAVED and not facts.get("notes") else None


def latest(folder: StateFolder, *, since: datetime | None = None, state: str | None = None) -> list[JsonObject]:
    """The last ``SHOWN`` entries of the timeline. Where all count, no line before them is parsed.

    Raises:
        StateDamaged, DiskRefused: as ``StateFolder.lines``.
    """
    every = since is None and state is None
    lines = folder.lines(last=SHOWN + 1 if every else None)  # of the one before them, the time is wanted
    return list(deque(entries(lines, since=since, state=state), maxlen=SHOWN))


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


def write_json(found: Iterable[JsonObject], write: Callable[[str], object]) -> None:
    """The timeline for scripts: a JSON array, an entry per line, written as it is read."""
    write("[")
    for number, each in enumerate(found):
        write(f"{',' if number else ''}\n{json.dumps(each)}")
    write("\n]\n")


def show(console: Console, found: Iterable[JsonObject]) -> int:
    """The timeline for people; how many steps it had."""
    shown = 0
    for each in found:
        shown += each.get("steps", 1)
        way = each["to"] if each["from"] in (None, each["to"]) else f"{each['from']} → {each['to']}"
        line = Text(f"{each['time'].replace('T', ' ').removesuffix('Z')}  ", style="dim")
        line.append(f"{'+' + duration(each['seconds']):>12}  ", style="dim")
        line.append(f"{way:<32}")
        line.append(each["what"], style=COLOURS.get(each["event"], ""))
        console.print(line, soft_wrap=True)
    return shown


def conclusion(steps: int, shown: int, run: str) -> str:
    """One sentence: how much is shown of how much."""
    if not steps:
        return not_begun(run)
    rest = f" (the last {SHOWN} at most; --all shows all)" if SHOWN == shown < steps else ""
    return f"{shown} of {steps} steps{rest}; `tiw-fsm status --run {run}` says where it is now."
