"""A run's past in a size that does not grow with it: what its page and its reports tell.

The journal of a long run has a hundred thousand lines and more, and its page is written again and again while it runs.
So what has been read is kept as counts and as the newest steps of each kind, and only what is new is read.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Self

from tiw_fsm.fsm.events import CHUNK_JUDGED, DEATHS, GATE_DECIDED, Event
from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.reporting.journal import Step, Way, best_of, way_of
from tiw_fsm.reporting.wording import seconds_between
from tiw_fsm.stages import Stage
from tiw_fsm.storage.state_folder import StateFolder, Vouching
from tiw_fsm.storage.store import apply_patch
from tiw_fsm.values.plain import JsonObject, LogPosition

LATEST, KEPT = 500, 200
"""Steps of the timeline, and steps that are kept of each kind: of an event, and of the stage it happened to."""
MARKS = 64
"""Gates of a stage that are marked of each decision, at least; up to twice as many, spread evenly."""
ATTEMPTS = 50
"""Inference attempts that are told of, the newest, beside the best."""
SETTINGS = ("stages", "loop")
"""Of the states before and after a step that is kept."""


class Spread:
    """Some of many things, spread evenly over them."""

    def __init__(self) -> None:
        self.some: list[Any] = []
        self._count, self._every = 0, 1

    def add(self, thing: object) -> None:
        if self._count % self._every == 0:
            self.some.append(thing)
        self._count += 1
        if len(self.some) > 2 * MARKS:
            self.some, self._every = self.some[::2], 2 * self._every


class Past:
    """What happened to a run, up to a line of its journal.

    Attributes:
        count: lines read.
        taken: how often the run has taken each way of the machine's table.
        latest: the newest lines, each with the seconds since the one before.
        decisions: how often the gate of a stage has decided so.
        rejected: by stage, the numbers of chunk attempts that were repeated.
        judged: inference attempts.
        older: steps that were dropped; those in which a checkpoint was saved are counted alone, and none is kept.
    """

    def __init__(self, lines: Iterable[JsonObject] = ()) -> None:
        self.count = self.judged = self.older = 0
        self.taken: Counter[Way] = Counter()
        self.latest: deque[tuple[JsonObject, float]] = deque(maxlen=LATEST)
        self.decisions: Counter[tuple[str, str]] = Counter()
        self.rejected: dict[str, array[int]] = defaultdict(lambda: array("Q"))
        self._read = LogPosition()
        self._state: JsonObject = {}
        self._steps: dict[tuple[str, str | None], deque[Step]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._marks: dict[tuple[str, str], Spread] = defaultdict(Spread)
        self._calls: dict[tuple[str, int], JsonObject] = {}
        self._attempts: dict[int, Attempt] = {}
        self._best: Attempt | None = None
        for line in lines:
            self.take(line)

    def follow(self, folder: StateFolder, found: Vouching) -> Self:
        """Read on in the journal, up to what a state vouches for.

        Raises:
            StateDamaged, DiskRefused: as ``StateFolder.lines``; what was read is of no use then.
        """
        for line in folder.lines(found, self._read):
            self.take(line)
        self._read = found.journal
        return self

    def take(self, line: JsonObject) -> None:
        """The journal's next line."""
        step = Step(line, self._state, apply_patch(self._state, line["changes"]))
        self._state = step.after
        self.count += 1
        kept = {key: value for key, value in line.items() if key != "changes"}
        before = self.latest[-1][0]["time"] if self.latest else line["time"]
        self.latest.append((kept, seconds_between(before, line["time"])))
        if way := way_of(line):
            self.taken[way] += 1
        if step.event != Event.SAVED:
            same = self._steps[step.event, step.facts.get("stage")]
            self.older += len(same) == KEPT
            same.append(Step(kept, _settings(step.before), _settings(step.after)))
        if step.event in CHUNK_JUDGED:
            self._gate(step.facts, rejected=step.event == Event.REJECTED)
        if step.event in (Event.SAVED, *CHUNK_JUDGED, *DEATHS.values()) and "stage" in step.facts:
            self._call(step)
        if step.event in GATE_DECIDED:
            self._attempt(Attempt.model_validate_json(json.dumps(step.facts["attempt"])))

    # --- what is told -------------------------------------------------------------------------------------------

    @property
    def steps(self) -> list[Step]:
        """The newest steps of each kind, oldest first; of the states before and after them the settings alone."""
        return sorted(chain(*self._steps.values()), key=lambda step: int(step.line["generation"]))

    @property
    def attempts(self) -> list[Attempt]:
        """The newest judged inference attempts and the best, oldest first; one judged again, by its last verdict."""
        best = [self._best] if self._best and self._best.number not in self._attempts else []
        return [*best, *self._attempts.values()]

    @property
    def calls(self) -> Iterable[JsonObject]:
        """The newest chunk attempts: where each began, what it saved, how it was judged."""
        return self._calls.values()

    def gates(self, stage: Stage) -> Iterator[JsonObject]:
        """Facts of the newest gates of a stage, oldest first."""
        return (step.facts for step in self.steps if step.event in CHUNK_JUDGED and step.facts["stage"] == stage)

    def marks(self, stage: Stage) -> list[JsonObject]:
        """Facts of some gates of a stage from its beginning on: of all, if they are few."""
        found = [mark for (of, _), spread in self._marks.items() if of == stage for mark in spread.some]
        return sorted(found, key=lambda facts: int(facts["attempt"]))

    # --- reading ------------------------------------------------------------------------------------------------

    def _gate(self, facts: JsonObject, *, rejected: bool) -> None:
        stage, decision = facts["stage"], facts["decision"]
        self.decisions[stage, decision] += 1
        self._marks[stage, decision].add(facts)
        if rejected:
            self.rejected[stage].append(facts["attempt"])

    def _attempt(self, attempt: Attempt) -> None:
        self.judged += attempt.number not in self._attempts
        self._attempts[attempt.number] = attempt
        self._best = best_of([*self._attempts.values(), *([self._best] if self._best else [])])
        if len(self._attempts) > ATTEMPTS:
            del self._attempts[next(iter(self._attempts))]

    def _call(self, step: Step) -> None:
        stage = step.facts["stage"]
        before = step.before["stages"][stage]
        begun = {"stage": stage, "attempt": before["attempt"], "from": before["completed"], "to": before["completed"]}
        rest = {"saved": 0, "seconds": 0.0, "deaths": 0, "decision": "not judged"}
        call = self._calls.setdefault((stage, before["attempt"]), begun | rest)
        call["to"] = max(call["to"], step.facts["completed"])
        call["saved"] += step.event == Event.SAVED
        call["seconds"] = round(call["seconds"] + step.facts.get("seconds", 0.0), 3)
        call["deaths"] += step.event in DEATHS.values()
        call["decision"] = step.facts.get("decision", call["decision"])
        if len(self._calls) > KEPT:
            del self._calls[next(iter(self._calls))]


def _settings(state: JsonObject) -> JsonObject:
    return {key: state[key] for key in SETTINGS if key in state}
