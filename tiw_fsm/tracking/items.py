"""What there is to show of a run, as one stream of items in the order of its commits.

It is derived from what the state vouches for alone: the journal, and the stages' metrics. So it is the same whoever
reads it and however often the run was killed, and an item has its place in it for good: a tracker that has the first n
items lacks all others. What is computed and not committed is no item.

A resume may take back commits of the chunk in hand, where a checkpoint is damaged: then the same updates are computed
once more. They are the same items, and come once.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tiw_fsm.fsm.events import CHUNK_JUDGED, GATE_DECIDED, Event
from tiw_fsm.stages import Stage
from tiw_fsm.storage.paths import RunPaths
from tiw_fsm.storage.state_folder import StateFolder
from tiw_fsm.storage.store import merge
from tiw_fsm.system.append_log import AppendLog
from tiw_fsm.values.plain import JsonObject, LogPosition

Value = float | str
Place = tuple[int, float]
"""Of a row of metrics: its chunk attempt, and how many updates were done after it."""
AXES: dict[str, str] = {**dict.fromkeys(Stage, "update"), "inference": "attempt", "run": "generation"}
"""What a group's steps count: updates that are done, inference attempts from 1, commits."""


class Item(NamedTuple):
    """One thing to show."""

    group: str
    """A stage, `inference` or `run`."""
    step: int
    """On the axis of its group."""
    repeat: int
    """How often there was an item of this kind at this step before: above 0 in a chunk that is repeated, for one."""
    time: float
    """POSIX seconds of the commit."""
    values: dict[str, Value]
    picture: Path | None = None
    moves: bool = False
    """Its picture shows a rollout."""


class Stream:
    """The items of a run, from the first; those that come to be later follow at later looks."""

    def __init__(self, folder: StateFolder, paths: RunPaths) -> None:
        self.generation = 0
        """Whose items have all been given."""
        self._folder, self._paths = folder, paths
        self._read = LogPosition()
        self._held: list[JsonObject] = []
        """Lines that are read, and that tell of rows which are computed again just now."""
        self._state: JsonObject = {}
        self._rows: dict[str, Rows] = {}
        self._given: defaultdict[tuple[str, str], list[int]] = defaultdict(list)

    def look(self) -> Iterator[Item]:
        """What is new since the last look. It must be taken to its end.

        Raises:
            StateDamaged, DiskRefused: the run's files are not what the state vouches for, or cannot be read.
        """
        found = self._folder.document()
        if found is None or found.state["generation"] == self.generation:
            return
        stages = found.state["stages"]
        for stage in stages.keys() - self._rows.keys():
            self._rows[stage] = Rows(self._paths.metrics(Stage(stage)))
        if self._read.bytes:
            self._step_back(self._folder.lines(found, self._read))
        lines = chain(self._held, self._folder.lines(found, self._read))
        self._held, self._read = [], found.journal
        for line in lines:
            told = line["changes"].get("stages") or {}
            if any(_reached({**self._of(s), **changed}) > _reached(stages[s]) for s, changed in told.items()):
                self._held = [line, *lines]
                return
            merge(self._state, line["changes"])
            for stage in told if line["event"] != Event.REOPENED else stages:
                yield from self._trained(stage, line, LogPosition(**stages[stage]["metrics"]))
            yield from self._told(line)
        self.generation = found.state["generation"]

    def _of(self, stage: str) -> JsonObject:
        progress: JsonObject = self._state.get("stages", {}).get(stage, {})
        return progress

    def _step_back(self, lines: Iterator[JsonObject]) -> None:
        """What lies behind a mark that the state has gone back to is written anew."""
        ends = {stage: self._of(stage).get("metrics", {}).get("bytes", 0) for stage in self._rows}
        for line in lines:
            for stage, changed in (line["changes"].get("stages") or {}).items():
                end = changed.get("metrics", {}).get("bytes", ends[stage])
                if end < ends[stage]:
                    self._rows[stage].step_back(end)
                ends[stage] = end

    def _trained(self, stage: str, line: JsonObject, vouched: LogPosition) -> Iterator[Item]:
        """The rows that a commit brought."""
        progress, rows = self._of(stage), self._rows[stage]
        end: Place = _reached(progress)
        if line["event"] == Event.REOPENED:
            rows.begin_at(end)  # updates of an attempt that was given up are done anew
        elif line["event"] in CHUNK_JUDGED and line["facts"]["stage"] == stage:
            end = (line["facts"]["attempt"], float("inf"))  # a chunk whose loss was not finite saved nothing
        for row in rows.up_to(end, vouched):
            yield self._item(stage, "row", row["update"] + 1, line, _numbers(row, leave=("update",)))

    def _told(self, line: JsonObject) -> Iterator[Item]:
        """What a line of the journal itself tells."""
        event, facts = line["event"], line["facts"]
        if event in CHUNK_JUDGED:
            values = {
                "gate": facts["decision"],
                "gate/reason": facts["reason"],
                "gate/accepted": float(event == Event.ACCEPTED),
                **_numbers({"gate": facts["metrics"]}),
            }
            yield self._item(facts["stage"], "gate", facts["completed"], line, values, facts["picture"])
        elif event in GATE_DECIDED:
            attempt = facts["attempt"]
            values = {
                "verdict": "passed" if attempt["passed"] else "failed",
                **_numbers(attempt, leave=("number",)),
            }
            yield self._item("inference", "gate", attempt["number"], line, values, attempt["png"], moves=True)
        elif event == Event.REPORTED:
            told = {key: str(self._state.get(key)) for key in ("outcome", "reason")}
            yield self._item("run", "end", line["generation"], line, told)

    def _item(
        self,
        group: str,
        kind: str,
        step: int,
        line: JsonObject,
        values: Mapping[str, Value],
        picture: str | None = None,
        *,
        moves: bool = False,
    ) -> Item:
        given = self._given[group, kind]
        given.extend([0] * (step + 1 - len(given)))
        repeat, given[step] = given[step], given[step] + 1
        time = datetime.fromisoformat(line["time"]).timestamp()
        return Item(group, step, repeat, time, dict(values), Path(picture) if picture else None, moves)


class Rows:
    """A stage's metrics, row by row."""

    def __init__(self, path: Path) -> None:
        self._log = AppendLog(path)
        self._offset = 0
        self._at: Place = (0, 0)
        """Of the row before the offset."""
        self._given: Place = (0, 0)

    def step_back(self, offset: int) -> None:
        """The file is written anew from there on; what was given of it is not given again."""
        if offset < self._offset:
            self._offset, self._at = offset, (0, 0)

    def begin_at(self, place: Place) -> None:
        """The rows that follow begin behind ``place``, though there were such before."""
        self._at = self._given = place

    def up_to(self, end: Place, vouched: LogPosition) -> Iterator[JsonObject]:
        """The next rows, up to the place ``end``, of the part of the file that is ``vouched`` for."""
        for line in self._log.lines(LogPosition(self._offset), vouched):
            row: JsonObject = json.loads(line)
            place = (row["attempt"], row["update"] + 1)
            if not self._at < place <= end:
                return
            self._offset, self._at = self._offset + len(line), place
            if place > self._given:
                self._given = place
                yield row


def _reached(progress: JsonObject) -> Place:
    return progress.get("attempt", 1), progress.get("completed", 0)


def _numbers(document: JsonObject, leave: tuple[str, ...] = ()) -> dict[str, float]:
    """The numbers of a document by their keys, those within a key behind a slash; of intervals the low and high end."""
    found: dict[str, float] = {}
    for key, value in document.items():
        if key in leave:
            continue
        if key.endswith("_interval") and isinstance(value, list) and len(value) == 2:
            value = dict(zip(("low", "high"), value, strict=True))
        if isinstance(value, dict):
            found |= {f"{key}/{below}": number for below, number in _numbers(value).items()}
        elif isinstance(value, bool | int | float):
            found[key] = float(value)
    return found
