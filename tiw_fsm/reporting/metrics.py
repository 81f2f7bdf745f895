"""``tiw-fsm metrics``: every committed update of a run as CSV, or in short what there is of them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from tiw_fsm.reporting.rows import Committed, Row
from tiw_fsm.reporting.wording import shown
from tiw_fsm.stages import Stage
from tiw_fsm.values.plain import JsonObject
from tiw_fsm.values.printable import printable

FIRST = ("stage", "update", "attempt", "kept")
"""Columns that every row has."""


class Writable(Protocol):
    """Where text can be written to."""

    def write(self, text: str, /) -> object: ...


def write_csv(committed: Committed, stages: Sequence[Stage], file: Writable) -> int:
    """Write all rows, which are read twice: first to know the columns; returns how many there are.

    A number is written so that reading it gives the very same one; null and NaN are empty.

    Raises:
        DiskRefused, StateDamaged: as ``Committed.rows``.
    """
    more = columns(row for stage in stages for row in committed.rows(stage))
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*FIRST, *map(printable, more)])
    count = 0
    for stage in stages:
        for row in committed.rows(stage):
            first = (stage.value, row.values["update"], row.values["attempt"], row.kept)
            writer.writerow([*map(cell, first), *(cell(row.values.get(column)) for column in more)])
            count += 1
    return count


def columns(rows: Iterable[Row]) -> list[str]:
    """What some of the rows have beside ``FIRST``, in the order in which it first occurs."""
    found: dict[str, None] = {}
    for row in rows:
        found.update(dict.fromkeys(row.values))
    return [name for name in found if name not in FIRST]


def cell(value: Any) -> Any:
    """A value as it stands between two commas."""
    match value:
        case None:
            return ""
        case float() if math.isnan(value):
            return ""
        case str():
            return printable(value)
        case float() if math.isfinite(value):
            return repr(value)
    return json.dumps(value)


def summary(committed: Committed, stages: Sequence[Stage]) -> JsonObject:
    """What there is of each stage: how many rows, how many of them count, and the last one's values.

    Raises:
        DiskRefused, StateDamaged: as ``Committed.rows``.
    """
    return {stage.value: _of_stage(committed, stage) for stage in stages}


def _of_stage(committed: Committed, stage: Stage) -> JsonObject:
    count = kept = 0
    found: dict[str, None] = {}
    last: Row | None = None
    for last in committed.rows(stage):
        count += 1
        kept += last.kept
        found.update(dict.fromkeys(last.values))
    return {"rows": count, "kept": kept, "columns": list(found), "last": last and last.values}


def told(found: JsonObject) -> list[tuple[str, str]]:
    """A summary for people: a stage, and what there is of it."""
    return [(stage, _told(of)) for stage, of in found.items()]


def _told(of: JsonObject) -> str:
    if not of["rows"]:
        return "no update yet"
    undone = of["rows"] - of["kept"]
    taken_back = f", {undone} of them of chunks that were rejected" if undone else ""
    values = (f"{printable(name)} {_short(value)}" for name, value in of["last"].items())
    return f"{of['rows']} updates{taken_back}; the last one: {', '.join(values)}"


def _short(value: Any) -> str:
    return "…" if isinstance(value, list | dict) else printable(shown(value))
