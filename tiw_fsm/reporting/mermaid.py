"""The table as a Mermaid diagram."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from tiw_fsm.fsm.events import Event
from tiw_fsm.fsm.states import TERMINAL, State
from tiw_fsm.fsm.table import TABLE, Effect, Guard, always, unchanged
from tiw_fsm.reporting.journal import Way


def mermaid(current: State | None = None, taken: Mapping[Way, int] | None = None) -> str:
    """The table as a Mermaid state diagram: the run's state marked, and how often it has ``taken`` each row."""
    counts = taken or {}
    untold = dict(counts)
    lines = ["stateDiagram-v2", "    [*] --> ALIGN"]
    for row in TABLE:
        times = untold.pop((row.source, row.event, row.target), None)  # rows that differ in their guard are one way
        if row.event in (Event.STALLED, Event.REOPENED) and not times:
            continue
        guard = "" if row.guard is always else f" [{_name(row.guard)}]"
        effect = "" if row.effect is unchanged else f" / {_name(row.effect)}"
        count = f" ×{times}" if times else ""
        lines.append(f"    {row.source} --> {row.target}: {row.event}{guard}{effect}{count}")
    lines += [f"    {state} --> [*]" for state in sorted(TERMINAL)]
    lines.append("    note right of ALIGN : stalled leads from any working state to REPORT, reopened from FAILED back")
    visited = {state for source, _, target in counts for state in (source, target)} - {current}
    if visited:
        lines += ["    classDef visited fill:#cde,stroke:#369", f"    class {','.join(sorted(visited))} visited"]
    if current is not None:
        lines += ["    classDef current fill:#fd6,stroke:#333,stroke-width:3px", f"    class {current} current"]
    return "\n".join(lines)


def _name(function: Guard | Effect) -> str:
    if isinstance(function, partial):
        return " ".join([function.func.__name__, *map(str, function.args)])
    return function.__name__
