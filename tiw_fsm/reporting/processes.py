"""Which processes compute a run, where, and how they share its updates. Never imports torch or pydantic.

``run`` is a state's JSON, or its status; what an older version wrote says nothing of processes, and had one.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from tiw_fsm.tinyworlds import division
from tiw_fsm.tinyworlds.division import Share
from tiw_fsm.values.plain import JsonObject


def computing(run: JsonObject) -> int:
    """How many compute it."""
    return (run.get("fingerprint") or {}).get("processes") or 1


def meant_for(run: JsonObject) -> int:
    """How many its batch sizes are meant for."""
    return run.get("processes") or 1


def several(run: JsonObject) -> bool:
    """Whether there is anything to tell: more than one computes, or did when the run began."""
    return max(computing(run), meant_for(run)) > 1


def listed(hosts: Sequence[JsonObject]) -> str:
    """Machines, and what of them takes part."""
    return ", ".join(f"{host['processes']} on {host['name']} ({host['device']})" for host in hosts)


def where(run: JsonObject) -> str | None:
    """Who computes, in words; None where it is one process, as ever."""
    if not several(run):
        return None
    told = [listed(run["hosts"])]
    if computing(run) > 1:
        told.append("sharded" if run["fingerprint"].get("sharded") else "replicated")
    if computing(run) != meant_for(run):
        told.append(f"with batch sizes meant for {meant_for(run)}")
    return ", ".join(told)


def share(run: JsonObject, stage: str) -> Share | None:
    """How an update of a stage is shared; None where it cannot be, as may be of one that was done by another number."""
    tuning: Any = SimpleNamespace(**run["stages"][stage]["tuning"])
    if not division.can_share(tuning, meant_for(run), computing(run)):
        return None
    return division.share(tuning, meant_for(run), computing(run))


def shared(run: JsonObject, stage: str) -> str | None:
    """The same in words, of a stage that is not done; None where it is one process, as ever."""
    is_open = run["stages"][stage]["completed"] < run["stages"][stage]["target"]
    found = share(run, stage) if is_open and several(run) else None
    if found is None:
        return None
    counts = ((found.processes, "process", "es"), (found.passes, "pass", "es"), (found.each, "clip", "s"))
    product = " × ".join(f"{n} {one}{many if n > 1 else ''}" for n, one, many in counts)
    return f"{found.clips} clips an update: {product}"
