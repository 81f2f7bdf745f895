"""The state machine: one table, read like a routing table. Guards and effects are pure functions of the run's state.

An activity (``activities.py``) does the work of a state and says what happened: an event. The first row whose source
and event match and whose guard holds gives the effect and the next state; the controller commits the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

from transitions import Machine as TransitionsMachine

from tiw_fsm import retune
from tiw_fsm.config import Schedule
from tiw_fsm.run_state import RunState
from tiw_fsm.stages import Stage
from tiw_fsm.states import TERMINAL, TRAINING, State


class Event(StrEnum):
    """What can happen to a run."""

    ALIGNED = "aligned"
    SAVED = "saved"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    CRASHED = "crashed"
    OUT_OF_MEMORY = "out_of_memory"
    INFERRED = "inferred"
    RESULT_LOST = "result_lost"
    GATE_PASSED = "gate_passed"
    GATE_FAILED = "gate_failed"
    RETUNED = "retuned"
    REPORTED = "reported"
    STALLED = "stalled"
    REOPENED = "reopened"


Guard = Callable[[RunState], bool]
Effect = Callable[[RunState], RunState]

# --- guards -----------------------------------------------------------------------------------------------------


def always(run: RunState) -> bool:
    return True


def unfinished(stage: Stage, run: RunState) -> bool:
    """A stage that is not trained has its target where it stands."""
    return run.stages[stage].completed < run.stages[stage].target


def train_retries_left(run: RunState) -> bool:
    return run.progress().retries < run.loop.budgets.max_train_retries


def crashes_left(run: RunState) -> bool:
    crashes = run.progress().crashes if run.stage else run.inference.crashes
    return crashes < run.loop.budgets.max_crashes


def inference_retries_left(run: RunState) -> bool:
    return run.retunes < run.loop.budgets.max_inference_retries


def failed_in(state: State, run: RunState) -> bool:
    return run.failed_in == state


def passed(run: RunState) -> bool:
    return run.failed_in is None


# --- effects ----------------------------------------------------------------------------------------------------


def unchanged(run: RunState) -> RunState:
    return run


def new_checkpoint(run: RunState) -> RunState:
    """A committed checkpoint is progress: it clears what counts failures without progress."""
    return run.with_stage(_stage(run), crashes=0, crashed_at=None).but(stalled_starts=0)


def accept_chunk(run: RunState) -> RunState:
    progress = run.progress()
    return run.with_stage(
        _stage(run),
        accepted=progress.checkpoint,
        warm_start=False,
        chunk_start=progress.completed,
        attempt=progress.attempt + 1,
        attempt_metrics=progress.metrics,
        retries=0,
    )


def repeat_chunk(run: RunState) -> RunState:
    """Back to the newest accepted checkpoint, one step down the ladder."""
    stage, progress = _stage(run), run.progress()
    tuning = retune.walk_ladder(progress.tuning, run.loop.ladders[stage], run.loop.chunks[stage])
    return run.with_stage(
        stage,
        completed=progress.chunk_start,
        checkpoint=progress.accepted,
        attempt=progress.attempt + 1,
        attempt_metrics=progress.metrics,
        retries=progress.retries + 1,
        tuning=tuning,
    )


def count_crash(run: RunState) -> RunState:
    """The child died: go on from the newest checkpoint; the second death at one place halves the batch."""
    if run.stage is None:
        return run.but(inference=run.inference.but(crashes=run.inference.crashes + 1))
    progress = run.progress()
    if progress.crashed_at == progress.completed:
        return shrink_batch(run)
    return run.with_stage(_stage(run), crashes=progress.crashes + 1, crashed_at=progress.completed)


def shrink_batch(run: RunState) -> RunState:
    stage, progress = _stage(run), run.progress()
    return run.with_stage(
        stage,
        crashes=progress.crashes + 1,
        crashed_at=progress.completed,
        tuning=retune.after_out_of_memory(progress.tuning, run.loop.ladders[stage], run.loop.chunks[stage]),
    )


def begin_attempt(run: RunState) -> RunState:
    """Counted before its work begins, so that a process that dies in it is counted."""
    inference = run.inference.but(started=run.inference.started + 1, crashes=0, pending=None)
    return run.but(inference=inference)


def accept_and_infer(run: RunState) -> RunState:
    return begin_attempt(accept_chunk(run))


def plan_retune(run: RunState) -> RunState:
    """One more retry chunk for dynamics, and for the stage at fault if it is another, from their newest checkpoints;
    with a new warm-up and a lower peak rate."""
    rate = retune.retry_learning_rate(run.loop.retune, run.retunes)
    for stage in {retune.stage_at_fault(run.loop, run.inference.attempts[-1]), Stage.DYNAMICS}:
        progress = run.stages[stage]
        start, target = progress.completed, progress.completed + run.loop.retune.chunk
        run = run.with_stage(
            stage,
            target=target,
            chunk_start=start,
            accepted=progress.checkpoint,
            schedule=Schedule(start=start, end=target),
            tuning=progress.tuning.but(learning_rate=rate),
            retries=0,
        )
    return run.but(retunes=run.retunes + 1)


def out_of(budget: str, run: RunState) -> RunState:
    return run.but(failed_in=run.state, budget_used=budget, reason=f"the budget {budget} is used up in {run.state}")


def conclude_passed(run: RunState) -> RunState:
    return run.but(failed_in=None, budget_used=None, reason="the inference gate passed")


def end_as(outcome: str, run: RunState) -> RunState:
    return run.but(outcome=outcome, runner=None)


def reopen(run: RunState) -> RunState:
    return run.but(outcome=None, reason=None, failed_in=None, budget_used=None, reports=[])


def _stage(run: RunState) -> Stage:
    return TRAINING[run.state]


# --- the table --------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """In ``source``, on ``event``, if ``guard`` holds: ``effect``, then ``target``."""

    source: State
    event: Event
    target: State
    guard: Guard = always
    effect: Effect = unchanged


S, E = State, Event
video_left, latent_left, dynamics_left = (partial(unfinished, stage) for stage in Stage)
train_retries_used, inference_retries_used, crashes_used, starts_used = (
    partial(out_of, budget)
    for budget in ("max_train_retries", "max_inference_retries", "max_crashes", "max_stalled_starts")
)


def training_rows(state: State, *following: tuple[State, Guard]) -> tuple[Row, ...]:
    """A training state loops on itself chunk by chunk; ``following`` are the states it may go on to at its target."""
    return (
        Row(state, E.SAVED, state, effect=new_checkpoint),
        Row(state, E.ACCEPTED, state, partial(unfinished, TRAINING[state]), accept_chunk),
        *(Row(state, E.ACCEPTED, target, guard, accept_chunk) for target, guard in following),
        Row(state, E.ACCEPTED, S.INFER, effect=accept_and_infer),
        Row(state, E.REJECTED, state, train_retries_left, repeat_chunk),
        Row(state, E.REJECTED, S.REPORT, effect=train_retries_used),
        Row(state, E.CRASHED, state, crashes_left, count_crash),
        Row(state, E.CRASHED, S.REPORT, effect=crashes_used),
        Row(state, E.OUT_OF_MEMORY, state, crashes_left, shrink_batch),
        Row(state, E.OUT_OF_MEMORY, S.REPORT, effect=crashes_used),
    )


TABLE: tuple[Row, ...] = (
    Row(S.ALIGN, E.ALIGNED, S.TRAIN_VIDEO, video_left),
    Row(S.ALIGN, E.ALIGNED, S.TRAIN_LATENT, latent_left),
    Row(S.ALIGN, E.ALIGNED, S.TRAIN_DYNAMICS, dynamics_left),
    Row(S.ALIGN, E.ALIGNED, S.INFER, effect=begin_attempt),
    *training_rows(S.TRAIN_VIDEO, (S.TRAIN_LATENT, latent_left), (S.TRAIN_DYNAMICS, dynamics_left)),
    *training_rows(S.TRAIN_LATENT, (S.TRAIN_DYNAMICS, dynamics_left)),
    *training_rows(S.TRAIN_DYNAMICS),
    Row(S.INFER, E.INFERRED, S.GATE),
    Row(S.INFER, E.CRASHED, S.INFER, crashes_left, count_crash),
    Row(S.INFER, E.CRASHED, S.REPORT, effect=crashes_used),
    Row(S.GATE, E.RESULT_LOST, S.INFER),
    Row(S.GATE, E.GATE_PASSED, S.REPORT, effect=conclude_passed),
    Row(S.GATE, E.GATE_FAILED, S.RETUNE, inference_retries_left, plan_retune),
    Row(S.GATE, E.GATE_FAILED, S.REPORT, effect=inference_retries_used),
    Row(S.RETUNE, E.RETUNED, S.TRAIN_VIDEO, video_left),
    Row(S.RETUNE, E.RETUNED, S.TRAIN_LATENT, latent_left),
    Row(S.RETUNE, E.RETUNED, S.TRAIN_DYNAMICS),
    Row(S.REPORT, E.REPORTED, S.PASSED, passed, partial(end_as, "passed")),
    Row(S.REPORT, E.REPORTED, S.FAILED, effect=partial(end_as, "failed")),
    *(Row(state, E.STALLED, S.REPORT, effect=starts_used) for state in S if state not in TERMINAL | {S.REPORT}),
    *(
        Row(S.FAILED, E.REOPENED, state, partial(failed_in, state), reopen)
        for state in S
        if state not in TERMINAL | {S.REPORT}
    ),
)


class _Walker:
    """What ``transitions`` moves: holds the run for the length of one step."""

    state: State
    run: RunState


class Machine:
    """The table, on ``transitions``. It never touches a disk: the controller commits what ``step`` returns."""

    def __init__(self) -> None:
        self._walker = _Walker()
        self._machine = TransitionsMachine(
            model=self._walker,
            states=State,
            transitions=[self._transition(row) for row in TABLE],
            initial=State.ALIGN,
            auto_transitions=False,
        )

    def _transition(self, row: Row) -> dict[str, Any]:
        def guard(event: str) -> bool:
            return row.guard(self._walker.run)

        def effect(event: str) -> None:
            self._walker.run = row.effect(self._walker.run)

        return {
            "trigger": row.event.value,
            "source": row.source,
            "dest": row.target,
            "conditions": [guard],
            "before": [effect],
        }

    def step(self, run: RunState, event: Event) -> RunState:
        """The run's state after ``event``.

        Raises:
            LookupError: no row of the table takes ``event`` in the run's state.
            transitions.MachineError: the table does not know ``event`` in the run's state.
        """
        self._walker.run = run
        self._machine.set_state(run.state, self._walker)
        if not self._walker.trigger(event.value, event.value):  # type: ignore[attr-defined]
            raise LookupError(f"no row of the table takes {event} in {run.state}")
        after = self._walker.run.but(state=self._walker.state)
        return after if after.state == run.state else after.but(stalled_starts=0)


Way = tuple[State, Event, State]


def mermaid(current: State | None = None, taken: Mapping[Way, int] | None = None) -> str:
    """The table as a Mermaid state diagram: the run's state marked, and how often it has ``taken`` each row."""
    counts = taken or {}
    lines = ["stateDiagram-v2", "    [*] --> ALIGN"]
    for row in TABLE:
        times = counts.get((row.source, row.event, row.target))
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
