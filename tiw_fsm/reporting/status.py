"""Where a run is: the object ``tiw-fsm status --json`` prints. Never imports torch.

Read from the state and the end of the journal alone, so that it is as fast after a month as after a minute; nothing is
locked for longer than a look, and a copied state folder tells the same. It reads the state as the JSON that it is, in
which what is null is left out: to import pydantic would take longer than all else.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from tiw_fsm.errors import StateDamaged
from tiw_fsm.fsm.events import Event, RunnerEvent
from tiw_fsm.fsm.states import TERMINAL, TRAINING, State, gate_at
from tiw_fsm.reporting import processes
from tiw_fsm.reporting.figures import GATES, Gate, gate_of
from tiw_fsm.reporting.wording import not_begun
from tiw_fsm.storage.state_folder import StateFolder, runs_in
from tiw_fsm.values.plain import JsonObject

ATTEMPT_KEYS = (
    *("number", "updates", "max_mse", "mse", "baselines", "own_mse"),
    *("skill", "skill_interval", "skill_per_step"),
    *("delta_psnr", "delta_psnr_interval", "delta_psnr_per_step"),
    *("motion", "conditions", "passed", "png", "result", "result_sha256", "tokenizer_mse", "tokenizer_motion"),
    *("unique_actions", "action_entropy", "distinct_actions", "n_actions", "key_agreement", "keys_used", "unseen"),
)
"""Of a judged attempt; one that an older version judged has null where it measured less."""
FINGERPRINT_KEYS = (
    *("config", "data", "content", "code", "torch"),
    *("device", "threads", "processes", "sharded", "dialect"),
)
INEXACT_KEYS = ("stage", "completed", "what")
STAGE_KEYS = ("target", "completed", "checkpoint", "accepted", "retries", "crashes", "tuning", "verdict", "picture")
RECENT = 3
"""Saved checkpoints over which the speed is taken, and interruptions that are told of."""
LOOKS = 5
"""How often it looks for a moment at which nobody began or ended, before what was seen is believed."""
STOPS: dict[str, Callable[[JsonObject], str]] = {
    RunnerEvent.STARTED: lambda facts: "the runner died without warning" if "died" in facts else "",
    RunnerEvent.INTERRUPTED: lambda facts: "asked to stop, all saved",
    RunnerEvent.REFUSED: lambda facts: facts["error"],
}
"""How the journal's lines tell of interruptions."""


def status(folder: StateFolder, now: datetime | None = None) -> JsonObject:
    """The run's status, with the fields that scripts may rely on.

    Raises:
        StateDamaged: neither generation of the state can be read.
    """
    for _ in range(LOOKS):
        alive, (found, damage) = folder.alive(), folder.told()
        if alive == folder.alive():  # else a runner began or ended meanwhile, and the state may be of before
            break
    name = folder.paths.folder.name
    if found is None:
        return _nothing_yet(name, alive, folder.paths.folder.parent)
    refused = None if alive else folder.refused()
    with telling_of(name):
        told = _told(found.state, folder.recent(found), now or datetime.now(UTC), alive, refused)
        return {**told, "damage": damage, "trackers": _trackers(folder, found.state["generation"])}


@contextmanager
def telling_of(name: str) -> Iterator[None]:
    """Say of what fails for what a state holds that it is the state: nothing has checked the types in it."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:
        raise StateDamaged(
            f"state.json of run {name!r} is whole, but no state that this version can tell of; "
            f"`tiw-fsm verify --run {name}` says more"
        ) from exc


def _told(
    run: JsonObject, recent: list[JsonObject], now: datetime, alive: bool, refused: JsonObject | None
) -> JsonObject:
    stages = {stage: _fields(progress, STAGE_KEYS) for stage, progress in run["stages"].items()}
    for stage, values in stages.items():
        speed = _speed(recent, stage)
        left = values["target"] - values["completed"]
        values["updates_per_second"] = speed
        values["eta_seconds"] = round(left / speed) if speed and left > 0 else None
        share = processes.share(run, stage)
        values["batch"] = share and {"clips": share.clips, **share._asdict()}
    saved = [line["time"] for line in recent if line["event"] == Event.SAVED]
    inference = run["inference"]
    return {
        "run": run["run"],
        "state": run["state"],
        "outcome": run.get("outcome"),
        "reason": run.get("reason"),
        "alive": alive,
        "runner": _runner(run, alive),
        "stopped": None if alive else _stopped(run, recent),
        "next": what_next(run, alive),
        "command": f"tiw-fsm run --run {run['run']}",
        "refused": refused,
        "stages": stages,
        "inference": {
            "attempts": [_attempt(attempt) for attempt in inference["attempts"]],
            "best": _attempt(_best(inference)),
        },
        "retunes": run["retunes"],
        "budgets": run["loop"]["budgets"],
        "used": _used(run),
        "interruptions": run["interruptions"],
        "recent_interruptions": _interruptions(recent),
        "checkpoint_age_seconds": round((now - datetime.fromisoformat(saved[-1])).total_seconds()) if saved else None,
        "flags": run.get("flags", {}),
        "inexact": [_fields(entry, INEXACT_KEYS) for entry in run["inexact"]],
        "processes": processes.meant_for(run),
        "hosts": run.get("hosts", []),
        "fingerprint": _fields(run.get("fingerprint"), FINGERPRINT_KEYS),
        "reports": run["reports"],
        "generation": run["generation"],
        "created_at": run["created_at"],
        "updated_at": run["updated_at"],
    }


def _fields(document: JsonObject | None, keys: Iterable[str]) -> Any:
    """``document`` with all its fields; None if there is none."""
    return document and {key: document.get(key) for key in keys}


def _best(inference: JsonObject) -> JsonObject | None:
    """The attempt with the least MSE."""
    known = [*inference["attempts"], inference.get("best") or {}]
    measured = [attempt for attempt in known if attempt.get("mse") is not None]
    return min(measured, key=lambda attempt: (attempt["mse"], -attempt["number"]), default=None)


def _attempt(document: JsonObject | None) -> Any:
    """A judged attempt: the fields that every one has, whatever else was measured, and the gate that judged it."""
    if document is None:
        return None
    attempt = {**_fields(document, ATTEMPT_KEYS), **document}
    return {**attempt, "gate": gate_of(attempt)}


def _nothing_yet(name: str, alive: bool, where: Path) -> JsonObject:
    others = runs_in(where)
    elsewhere = "" if others else f" None has begun in {where}; of runs elsewhere --repo-root says where."
    return {
        "run": name,
        "state": None,
        "outcome": None,
        "alive": alive,
        "next": "ALIGN" if alive else not_begun(name, others) + elsewhere,
        "command": f"tiw-fsm run --run {name}",
        "refused": None,
        "stages": {},
        "inference": {"attempts": [], "best": None},
        "budgets": None,
        "interruptions": 0,
        "fingerprint": None,
    }


def _trackers(folder: StateFolder, generation: int) -> JsonObject:
    """How far each tracker is that the last start was to feed."""
    return {
        name: {
            "state": "failed" if word["reason"] else "up to date" if word["generation"] == generation else "behind",
            "reason": word["reason"],
            "items": word["items"],
            "at": word["time"],
        }
        for name, word in folder.trackers().items()
    }


def _runner(run: JsonObject, alive: bool) -> JsonObject | None:
    """The process that runs it, or that died doing so. One that has just begun has not yet said who it is."""
    runner: JsonObject | None = run.get("runner")
    if alive and runner and runner["host"] == socket.gethostname() and not Path(f"/proc/{runner['pid']}").exists():
        return None
    return runner


def _speed(recent: Iterable[JsonObject], stage: str) -> float | None:
    """Updates per second of the stage's last few checkpoints, without what lies between them."""
    lines = [line for line in recent if line["facts"].get("stage") == stage and line["event"] == Event.SAVED]
    done = [line["facts"] for line in lines][-RECENT - 1 :]
    updates = sum(after["completed"] - before["completed"] for before, after in pairwise(done))
    seconds = sum(facts["seconds"] for facts in done[1:])
    return round(updates / seconds, 3) if updates > 0 and seconds > 0 else None


def _stopped(run: JsonObject, recent: list[JsonObject]) -> JsonObject:
    """When and why nothing runs."""
    if run["state"] in TERMINAL:
        why = "the run has ended"
    elif runner := run.get("runner"):
        why = f"process {runner['pid']} on {runner['host']} died without warning"
    elif recent and recent[-1]["event"] == RunnerEvent.INTERRUPTED:
        why = "it was asked to stop, and saved"
    elif recent and recent[-1]["event"] == RunnerEvent.REFUSED:
        why = recent[-1]["facts"]["error"]
    else:
        why = "nobody has started it again"
    return {"at": run["updated_at"], "why": why}


def _used(run: JsonObject) -> JsonObject:
    """What of each budget is used up, in the order of ``budgets``."""
    progress = run["stages"].get(TRAINING.get(run["state"]))
    return {
        "max_train_retries": progress["retries"] if progress else 0,
        "max_inference_retries": run["retunes"],
        "max_crashes": (progress or run["inference"])["crashes"],
        "max_stalled_starts": run["stalled_starts"],
    }


def _interruptions(recent: Iterable[JsonObject]) -> list[JsonObject]:
    interruptions = [
        {"at": line["time"], "why": STOPS[line["event"]](line["facts"])} for line in recent if line["event"] in STOPS
    ]
    return [entry for entry in interruptions if entry["why"]][-RECENT:]


def what_next(run: JsonObject, alive: bool) -> str:
    """One sentence: what happens next, or what to do. ``run`` is a state's JSON."""
    state = run["state"]
    if state == State.PASSED:
        return f"nothing: the world model passed {_gate_passed(run)}"
    if state == State.FAILED:
        return f"{run['reason']}; raise it and run again, or read the reports"
    doing = f"{state}"
    if stage := TRAINING.get(state):
        progress = run["stages"][stage]
        gate = gate_at(progress["chunk_start"], run["loop"]["chunks"][stage], progress["target"])
        doing = f"{stage} goes on from update {progress['completed']}; gate at {gate} of {progress['target']}"
    return doing if alive else f"{doing}, as soon as `tiw-fsm run` is started again"


def _gate_passed(run: JsonObject) -> str:
    """The gate that let the last attempt through, in words; that of a world is a matter of course."""
    passed: Gate | None = _attempt(run["inference"]["attempts"][-1])["gate"]
    return {**GATES, Gate.WORLD: "its gate"}[passed or Gate.PLAIN]
