"""The journal, read: its steps with the state before and after each, its gates and attempts, the ways it took."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tiw_fsm.fsm.events import CHUNK_JUDGED, GATE_DECIDED, Event
from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.fsm.run_state import InferenceProgress
from tiw_fsm.fsm.states import State
from tiw_fsm.reporting.wording import change
from tiw_fsm.stages import Stage
from tiw_fsm.storage.store import apply_patch
from tiw_fsm.values.plain import JsonObject

Way = tuple[State, Event, State]
"""A row of the machine's table: source, event, target."""
EVENTS = frozenset(Event)


class Step(NamedTuple):
    """A journal line with the state before and after it."""

    line: JsonObject
    before: JsonObject
    after: JsonObject

    @property
    def event(self) -> str:
        return str(self.line["event"])

    @property
    def facts(self) -> JsonObject:
        facts: JsonObject = self.line["facts"]
        return facts


def steps(journal: Iterable[JsonObject]) -> Iterator[Step]:
    """The journal, unfolded."""
    before: JsonObject = {}
    for line in journal:
        after = apply_patch(before, line["changes"])
        yield Step(line, before, after)
        before = after


def way_of(line: JsonObject) -> Way | None:
    """The way that a line tells of; None if it tells of the processes that run the run."""
    if line["event"] not in EVENTS:
        return None
    return State(line["from"] or State.ALIGN), Event(line["event"]), State(line["to"])


def taken(journal: Iterable[JsonObject]) -> Counter[Way]:
    """How often the run has taken each way of the machine's table."""
    return Counter(way for line in journal if (way := way_of(line)))


def chunk_gates(journal: Iterable[JsonObject], stage: Stage | None = None) -> list[JsonObject]:
    """The facts of every stage gate, oldest first."""
    found = [line["facts"] for line in journal if line["event"] in CHUNK_JUDGED]
    return [facts for facts in found if stage is None or facts["stage"] == stage]


def attempts(journal: Iterable[JsonObject]) -> list[Attempt]:
    """Every judged inference attempt, oldest first; an attempt judged again counts once, by its last verdict."""
    judged = [line["facts"]["attempt"] for line in journal if line["event"] in GATE_DECIDED]
    last = {attempt["number"]: attempt for attempt in judged}
    return [Attempt.model_validate_json(json.dumps(attempt)) for attempt in last.values()]


def best_of(judged: Iterable[Attempt]) -> Attempt | None:
    """The best attempt, with all its figures: the state keeps those of the newest alone."""
    return InferenceProgress(attempts=list(judged)).best_attempt


def tuning_change(step: Step, stage: str) -> str:
    """What a step changed in a stage's settings, in words: the config patch applied."""
    old, new = (state.get("stages", {}).get(stage, {}) for state in (step.before, step.after))
    if not old or not new:
        return ""
    pairs = {key: (old["tuning"][key], value) for key, value in new["tuning"].items()}
    pairs["target"] = (old["target"], new["target"])
    return ", ".join(f"{key} {change(*pair)}" for key, pair in pairs.items() if pair[0] != pair[1])
