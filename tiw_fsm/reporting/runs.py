"""Every run under a state folder, a line each. Never imports torch; a folder that is none stops no other's line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tiw_fsm.errors import TiwFsmError
from tiw_fsm.reporting.status import status, telling_of
from tiw_fsm.reporting.wording import aligned, duration, passed_over
from tiw_fsm.storage.state_folder import StateFolder, folders_in
from tiw_fsm.system import durable
from tiw_fsm.values.plain import JsonObject
from tiw_fsm.values.printable import excerpt, printable

NO_RUN = "no run: none of a run's files lies in it"


def overview(state_dir: Path, now: datetime | None = None) -> list[JsonObject]:
    """What there is to say of each run, by name, with the fields that scripts may rely on.

    Raises:
        DiskRefused: the folder itself cannot be read.
    """
    return [_line(state_dir / name, now or datetime.now(UTC)) for name in folders_in(state_dir)]


def _line(path: Path, now: datetime) -> JsonObject:
    try:
        with telling_of(path.name):
            found = _found(StateFolder(path), now)
            _cells(found)  # or it is told that they cannot be
            return found
    except TiwFsmError as exc:
        return {**_fields(path.name, {}), "problem": " ".join(str(exc).split("\n"))}


def _found(folder: StateFolder, now: datetime) -> JsonObject:
    files = (folder.paths.state, folder.paths.previous, folder.paths.journal, folder.paths.lock)
    if not any(map(durable.is_there, files)):
        return {**_fields(folder.paths.folder.name, {}), "problem": NO_RUN}
    found = _fields(folder.paths.folder.name, status(folder, now))
    if at := found["updated_at"]:
        found["age_seconds"] = round((now - datetime.fromisoformat(at)).total_seconds())
    return found


def _fields(name: str, found: JsonObject) -> JsonObject:
    stages = found.get("stages", {}).values()
    verdict = found.get("inference", {}).get("attempts", [])[-1:]
    last = verdict[0] if verdict else {}
    return {
        "run": name,
        "state": found.get("state"),
        "outcome": found.get("outcome"),
        "alive": found.get("alive", False),
        "completed": sum(stage["completed"] for stage in stages),
        "target": sum(stage["target"] for stage in stages),
        "attempt": last.get("number"),
        "passed": last.get("passed"),
        "mse": last.get("mse"),
        "skill": last.get("skill"),
        "updated_at": found.get("updated_at"),
        "age_seconds": None,
        "damage": found.get("damage", []),
        "problem": None,
    }


FIGURES = (("MSE", "mse", ".4f"), ("skill", "skill", "+.2f"))


# --- for people -------------------------------------------------------------------------------------------------


def table(found: Sequence[JsonObject]) -> list[str]:
    """A heading, and a line for each run; of one that there is nothing to tell of, what is wrong."""
    return aligned([["run", "state", "updates", "verdict", "last commit"], *map(_cells, found)])


def _cells(run: JsonObject) -> list[str]:
    if run["problem"]:
        return [printable(run["run"]), excerpt(run["problem"])]
    last = "; ".join(filter(None, (_age(run), passed_over(run["damage"]))))
    return [printable(run["run"]), _state(run), _updates(run), _verdict(run), printable(last)]


def _state(run: JsonObject) -> str:
    return (run["state"] or "not begun") + (" (running)" if run["alive"] else "")


def _updates(run: JsonObject) -> str:
    return f"{run['completed']} of {run['target']}" if run["target"] else ""


def _verdict(run: JsonObject) -> str:
    if run["passed"] is None:
        return ""
    figures = [f"{name} {run[key]:{form}}" for name, key, form in FIGURES if run[key] is not None]
    return ", ".join(["passed" if run["passed"] else "failed", *figures])


def _age(run: JsonObject) -> str:
    return f"{duration(max(0, run['age_seconds']))} ago" if run["age_seconds"] is not None else ""
