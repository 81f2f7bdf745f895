"""Where a run is: the object ``tiw-fsm status --json`` prints, and the same for people. Never imports torch."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.text import Text

from tiw_fsm import advice
from tiw_fsm.run_state import TRAINING, Attempt, RunState, State
from tiw_fsm.store import Store


def status(store: Store) -> dict[str, Any]:
    """The run's status, with the fields that scripts may rely on."""
    run, name = store.load(), store.paths.folder.name
    if run is None:
        alive = store.alive()
        return {
            "run": name,
            "state": None,
            "outcome": None,
            "alive": alive,
            "next": "ALIGN" if alive else "`tiw-fsm run` begins it",
            "refused": None,
            "stages": {},
            "inference": {"attempts": [], "best": None},
            "budgets": None,
            "interruptions": 0,
            "fingerprint": None,
        }
    document = run.model_dump(mode="json")
    keys = ("target", "completed", "checkpoint", "retries", "crashes", "tuning", "verdict", "picture")
    alive = store.alive()
    return {
        "run": run.run,
        "state": run.state,
        "outcome": run.outcome,
        "reason": run.reason,
        "alive": alive,
        "next": what_next(run, alive),
        "refused": None if alive else store.refused(),
        "stages": {stage: {key: values[key] for key in keys} for stage, values in document["stages"].items()},
        "inference": {"attempts": document["inference"]["attempts"], "best": document["inference"]["best"]},
        "retunes": run.retunes,
        "budgets": document["loop"]["budgets"],
        "interruptions": run.interruptions,
        "inexact": document["inexact"],
        "fingerprint": document["fingerprint"],
        "reports": run.reports,
        "generation": run.generation,
        "updated_at": run.updated_at,
    }


def what_next(run: RunState, alive: bool) -> str:
    """One sentence: what happens next, or what to do."""
    if run.state is State.PASSED:
        return "nothing: the world model passed its gate"
    if run.state is State.FAILED:
        return f"{run.reason}; raise it and run again, or read the reports"
    doing = f"{run.state}"
    if stage := TRAINING.get(run.state):
        progress = run.stages[stage]
        doing = f"{stage} goes on from update {progress.completed}; gate at {run.chunk_end(stage)} of {progress.target}"
    return doing if alive else f"{doing}, as soon as `tiw-fsm run` is started again"


def show(console: Console, found: dict[str, Any]) -> None:
    """Print a status for people."""
    rows: list[tuple[str, Any]] = [
        ("run", found["run"]),
        ("state", f"{found['state'] or 'not begun'}{' (running)' if found['alive'] else ''}"),
    ]
    for stage, progress in found.get("stages", {}).items():
        checkpoint = progress["checkpoint"]
        at = f", checkpoint {near(checkpoint['path'])}" if checkpoint else ""
        gate = f", last gate: {progress['verdict']}" if progress["verdict"] else ""
        rows.append((stage, f"{progress['completed']} of {progress['target']} updates{gate}{at}"))
    attempts = found.get("inference", {}).get("attempts", [])
    rows += [("inference", advice.verdict_line(Attempt.model_validate(a))) for a in attempts[-1:]]
    rows += [("picture", near(attempts[-1]["png"]))] if attempts else []
    rows += [("report", near(path)) for path in found.get("reports", [])]
    rows += [
        ("not bitwise", f"{i['stage']} from update {i['completed']}: {i['what']}") for i in found.get("inexact", [])
    ]
    if refused := found["refused"]:
        rows.append(("refused", f"the start at {refused['time']} (exit {refused['exit_code']}): {refused['message']}"))
    rows.append(("interruptions", found.get("interruptions")))
    rows.append(("next", found["next"]))
    print_rows(console, rows)


def near(path: str | None) -> str | None:
    """``path`` as seen from the working directory, if it lies below."""
    return path and path.removeprefix(f"{os.getcwd()}{os.sep}")


def print_rows(console: Console, rows: list[tuple[str, Any]]) -> None:
    """Two aligned columns; rows without a value are left out."""
    shown = [(name, str(value)) for name, value in rows if value not in (None, "")]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        console.print(Text(f"{name:<{width}}  {value}"), soft_wrap=True)
