"""The death of a child: what is said and counted of it, and how long to wait before the next one is started."""

from __future__ import annotations

import time
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from tiw_fsm.errors import EngineCrashed, Interrupted, MemoryRefused, TiwFsmError, UsageProblem
from tiw_fsm.fsm.events import DEATHS, Died
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import TRAINING, State
from tiw_fsm.run.outcome import Outcome
from tiw_fsm.system import killer
from tiw_fsm.values.death import Killer

PAUSES = (1.0, 5.0, 20.0, 60.0, 300.0)
"""Seconds to wait after each death in a row without progress; the last holds for all that follow. A shortage of a few
minutes shall cost time, not the run."""
LOOKS = 0.1
"""Seconds between two looks, while waiting, at whether the run was asked to stop."""
UNCOUNTED = 3
"""Deaths, where no budget counts them, after which a start is given up: before a run has begun, while it reports."""
COUNTED = frozenset({*TRAINING, State.INFER})
"""States with a budget for deaths."""
LONGEST_ERROR = 2000
"""Letters of a child's error that the journal keeps: its first line, and the last ones."""


def told(log: FilteringBoundLogger, run: RunState, death: EngineCrashed) -> Outcome:
    """The death of a child in a state that counts it."""
    say(log, run, death)
    facts = Died(error=_shortened(str(death)), killed_by=Killer(death.killed_by).value)
    if run.stage:
        facts["stage"], facts["completed"] = run.stage, run.progress().completed
    else:
        facts["attempt"] = run.inference.started
    return Outcome(DEATHS[Killer(death.killed_by)], run, facts)


def say(log: FilteringBoundLogger, run: RunState | None, death: EngineCrashed) -> None:
    """Tell people of it, and of a shortage of memory what helps."""
    what = "the training process died before its work began"
    if run is not None and run.stage:
        what = f"{run.stage}: the training process died at or after update {run.progress().completed}"
    elif run is not None and run.state in COUNTED:
        what = f"inference attempt {run.inference.started}: the process died"
    helps = f" Memory did not suffice: {killer.REMEDY}." if death.killed_by == Killer.MEMORY else ""
    log.warning(f"{what}: {death}{helps}")


def say_what_changed(log: FilteringBoundLogger, before: RunState, after: RunState) -> None:
    """A death that changes what is trained with is not the same run any more."""
    if before.stage is None:
        return
    old, new = (run.stages[before.stage].tuning.model_dump() for run in (before, after))
    for key in old:
        if old[key] != new[key]:
            log.warning(
                f"{before.stage}: {key} {old[key]} → {new[key]} from here on, after {after.deaths} deaths in a row"
            )


def wait(log: FilteringBoundLogger, deaths: int, stopping: Callable[[], bool]) -> None:
    """Let what killed the child pass; asked to stop, no longer."""
    seconds = PAUSES[min(deaths, len(PAUSES)) - 1]
    log.warning(f"waiting {seconds:g} s before the next training process is started: death {deaths} without progress")
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stopping():
        time.sleep(min(LOOKS, left))


def refusal(death: EngineCrashed) -> TiwFsmError:
    """How a start ends whose child dies whenever it is started, where no budget counts that."""
    said = f"the training process died {UNCOUNTED} times before its work began: {death}"
    if death.killed_by == Killer.MEMORY:
        return MemoryRefused(f"{said}\nMemory does not suffice: {killer.REMEDY}; then run again. Nothing was lost.")
    if death.killed_by == Killer.OWN:
        return UsageProblem(f"{said}\nMend that, or name another interpreter with --python-exec.")
    return Interrupted(f"{said}\nNothing was lost; the same command goes on from here, when it is let live.")


def _shortened(error: str) -> str:
    first, _, rest = error.partition("\n")
    return (
        f"{first[:LONGEST_ERROR]}\n{rest[-max(1, LONGEST_ERROR - len(first)) :]}"
        if len(error) > LONGEST_ERROR
        else error
    )
