"""Where a run is, on one screen, for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tiw_fsm.config.flags import as_typed
from tiw_fsm.fsm.states import TERMINAL, State
from tiw_fsm.reporting import advice, processes
from tiw_fsm.reporting.status import telling_of
from tiw_fsm.reporting.wording import duration, near, passed_over
from tiw_fsm.stages import Stage
from tiw_fsm.values.plain import JsonObject

BAR = 24
"""Letters of a stage's bar."""
PICTURE = [(state, state.removeprefix("TRAIN_")) for state in State]
"""The machine in one line, in the order of its states."""


DISPENSABLE = ("report", "picture", "checkpoint", "flags", "tuning", "processes", "interruptions", "machine")
"""Rows that a screen which is too small for all does without, the first first."""


def show(console: Console, found: JsonObject) -> None:
    """Print a status for people."""
    console.print(screen(found), soft_wrap=True)


def watch(console: Console, look: Callable[[], JsonObject], every: float) -> None:
    """Show the status again and again, in place, until the run has ended. All of it is on the screen, however small."""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            found = look()
            with telling_of(found["run"]):
                live.update(_fitted(_rows(found), console), refresh=True)
            if found["outcome"]:
                return
            time.sleep(every)


def _fitted(rows: list[tuple[str, Any]], console: Console) -> Group:
    """The rows, those that matter less cut or left out until the rest is no higher than the screen."""
    kept = [row for row in rows if row[1] not in (None, "")]
    for name in DISPENSABLE:
        if _height(kept, console) < console.height:
            return _columns(kept)
        kept = [row for row in kept if row[0] != name]
    column = max(len(name) for name, _ in kept) + 2
    whole = console.height - 1 - len(kept)
    cut: list[tuple[str, Any]] = []
    for name, value in reversed(kept):  # what comes next, and the command, are the last
        text = value.copy() if isinstance(value, Text) else Text(str(value))
        more = _height([(name.ljust(column - 2), text)], console) - 1
        if more > whole:
            text.truncate(max(1, (1 + max(0, whole)) * (console.width - column)), overflow="ellipsis")
        whole -= min(more, max(0, whole))
        cut.insert(0, (name, text))
    return _columns(cut)


def _height(rows: list[tuple[str, Any]], console: Console) -> int:
    return len(console.render_lines(_columns(rows), pad=False))


def screen(found: JsonObject) -> Group:
    """One screen, readable in five seconds.

    Raises:
        StateDamaged: as ``status``.
    """
    with telling_of(found["run"]):
        return _columns(_rows(found))


def _rows(found: JsonObject) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [("run", found["run"]), ("state", _state_line(found))]
    if found["state"]:
        rows.append(("machine", _machine(found["state"])))
    rows.append(("damage", passed_over(found.get("damage", ()))))
    rows.append(("processes", processes.where(found)))
    rows += [
        (stage, _stage_line(progress, processes.shared(found, stage))) for stage, progress in found["stages"].items()
    ]
    attempts = found["inference"]["attempts"]
    rows += _verdict(attempts[-1]) if attempts else []
    rows += [("picture", near(attempts[-1]["png"]))] if attempts else []
    rows += [("tuning", change) for change in _tuning_changes(found)]
    rows += [("report", near(path)) for path in found.get("reports", [])]
    rows += [
        ("not bitwise", f"{i['stage']} from update {i['completed']}: {i['what']}") for i in found.get("inexact", [])
    ]
    if found["budgets"]:
        rows.append(("budgets", _budgets(found["used"], found["budgets"])))
    rows.append(("flags", as_typed(found.get("flags", {}))))
    rows.append(("interruptions", _interruption_line(found)))
    if trackers := found.get("trackers"):
        rows.append(("trackers", "; ".join(_tracker_line(name, said) for name, said in trackers.items())))
    if refused := found["refused"]:
        rows.append(("refused", f"the start at {refused['time']} (exit {refused['exit_code']}): {refused['message']}"))
    if age := found.get("checkpoint_age_seconds"):
        rows.append(("checkpoint", f"the newest was saved {duration(age)} ago"))
    rows.append(("next", found["next"]))
    if not found["alive"] and not found["outcome"]:
        rows.append(("command", found["command"]))
    return rows


def _tracker_line(name: str, said: JsonObject) -> str:
    return f"{name} {said['state']}" + (f": {said['reason']}" if said["reason"] else "")


def _verdict(attempt: JsonObject) -> list[tuple[str, Any]]:
    told = advice.verdict(attempt)
    return [("inference", told.headline), ("figures", told.figures), *(("", note) for note in told.notes)]


def _state_line(found: JsonObject) -> Text:
    if not found["state"]:
        return Text("not begun")
    line = Text(found["state"], style="bold")
    if found["alive"]:
        runner = found["runner"]
        since = f"since {runner['started_at']}: process {runner['pid']} on {runner['host']}" if runner else "again"
        line.append(f" (running {since})", "green")
    elif found["stopped"] and not found["outcome"]:
        line.append(f" (not running since {found['stopped']['at']}: {found['stopped']['why']})", "yellow")
    return line


def _machine(state: str) -> Text:
    """The states in order, the present one marked; of the two ends only the one that was reached, or the good one."""
    ends = {State.PASSED, State.FAILED} - {State.FAILED if state != State.FAILED else State.PASSED}
    shown = [(s, name) for s, name in PICTURE if s not in TERMINAL or s in ends]
    line = Text()
    for n, (each, name) in enumerate(shown):
        line.append(" → " if n else "", "dim")
        line.append(f"[{name}]" if each == state else name, "bold reverse" if each == state else "dim")
    return line


def _stage_line(progress: Mapping[str, Any], shared: str | None) -> Text:
    share = min(1.0, progress["completed"] / progress["target"]) if progress["target"] else 1.0
    full = int(share * BAR)
    line = Text("█" * full, "green" if share == 1.0 else "cyan") + Text("░" * (BAR - full), "dim")
    line.append(f"  {progress['completed']} of {progress['target']} updates")
    if progress["eta_seconds"] is not None:
        line.append(f", {progress['updates_per_second']:.1f}/s, {duration(progress['eta_seconds'])} to go", "cyan")
    if shared:
        line.append(f", {shared}")
    if progress["verdict"]:
        line.append(f", last gate: {progress['verdict']}")
    if checkpoint := progress["checkpoint"]:
        line.append(f", checkpoint {near(checkpoint['path'])}", "dim")
    return line


def _tuning_changes(found: JsonObject) -> list[str]:
    """Settings in force that are not the configured ones, and what changed them."""
    config = (found.get("fingerprint") or {}).get("config", {})
    changes = []
    for stage, progress in found["stages"].items():
        moved = [
            f"{key} {config[f'{stage}.{key}']:g} → {value:g}"
            for key, value in progress["tuning"].items()
            if key != "log_interval" and config.get(f"{stage}.{key}", value) != value
        ]
        if moved:
            retuned = stage == Stage.DYNAMICS and found["retunes"]
            cause = f"retune {found['retunes']}" if retuned else "rejected chunks or deaths of the training process"
            changes.append(f"{stage}: {', '.join(moved)} (by {cause})")
    return changes


def _budgets(used: Mapping[str, int], allowed: Mapping[str, int]) -> str:
    names = {"max_train_retries": "chunk retries", "max_inference_retries": "retunes", "max_crashes": "deaths"}
    names["max_stalled_starts"] = "starts without progress"
    return ", ".join(f"{name} {used[key]}/{allowed[key]}" for key, name in names.items())


def _interruption_line(found: JsonObject) -> str:
    recent = found.get("recent_interruptions") or []
    latest = "; ".join(f"{entry['at']} {entry['why']}" for entry in reversed(recent))
    return f"{found['interruptions']}" + (f", last: {latest}" if latest else "")


def print_rows(console: Console, rows: list[tuple[str, Any]]) -> None:
    """Two aligned columns; rows without a value are left out."""
    console.print(_columns(rows), soft_wrap=True)


def _columns(rows: list[tuple[str, Any]]) -> Group:
    shown = [(name, value) for name, value in rows if value not in (None, "")]
    width = max(len(name) for name, _ in shown)
    lines = (
        Text(f"{name:<{width}}  ") + (value if isinstance(value, Text) else Text(str(value))) for name, value in shown
    )
    return Group(*lines)
