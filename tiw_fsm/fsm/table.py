"""The state machine: one table, read like a routing table. Guards and effects are pure functions of the run's state.

An activity (``activities.py``) does the work of a state and says what happened: an event. The first row whose source
and event match and whose guard holds gives the effect and the next state; the controller commits the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from tiw_fsm.fsm import retune
from tiw_fsm.fsm.events import Event
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import TERMINAL, TRAINING, State
from tiw_fsm.stages import Stage
from tiw_fsm.values.frozen import LearningRateSchedule

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
    return run.deaths < run.loop.budgets.max_crashes


def crashes_nearly_used_up(run: RunState) -> bool:
    """After this death one more ends the run; and it is not one of the first two, which say little."""
    return run.deaths >= 2 and run.deaths + 1 == run.loop.budgets.max_crashes


def crashed_here_before(run: RunState) -> bool:
    return crashes_left(run) and run.progress().crashed_at == run.progress().completed


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
    return run.with_stage(_stage(run), crashes=0, crashed_at=None).evolve(stalled_starts=0)


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
        made=None,
        attempt=progress.attempt + 1,
        attempt_metrics=progress.metrics,
        retries=progress.retries + 1,
        tuning=tuning,
    )


def count_death(run: RunState) -> RunState:
    """The child died: go on from the newest checkpoint."""
    if run.stage is None:
        return run.evolve(inference=run.inference.evolve(crashes=run.inference.crashes + 1))
    return run.with_stage(_stage(run), crashes=run.deaths + 1)


def count_crash(run: RunState) -> RunState:
    """The same, remembering where: it was the child's own doing."""
    return count_death(run).with_stage(_stage(run), crashed_at=run.progress().completed)


def shrink_batch(run: RunState) -> RunState:
    """The same, with half the batch."""
    stage, progress = _stage(run), run.progress()
    smaller = retune.after_out_of_memory(progress.tuning, run.loop.ladders[stage], run.loop.chunks[stage])
    return count_crash(run).with_stage(stage, tuning=smaller)


def begin_attempt(run: RunState) -> RunState:
    """Counted before its work begins, so that a process that dies in it is counted."""
    inference = run.inference.evolve(started=run.inference.started + 1, crashes=0, pending=None)
    return run.evolve(inference=inference)


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
            schedule=LearningRateSchedule(start=start, end=target),
            tuning=progress.tuning.evolve(learning_rate=rate),
            retries=0,
        )
    return run.evolve(retunes=run.retunes + 1)


def out_of(budget: str, run: RunState, because: str | None = None) -> RunState:
    reason = f"the budget {budget} is used up in {run.state}" + (f": {because}" if because else "")
    return run.evolve(failed_in=run.state, budget_used=budget, reason=reason)


def conclude_passed(run: RunState) -> RunState:
    return run.evolve(failed_in=None, budget_used=None, reason="the inference gate passed")


def end_as(outcome: str, run: RunState) -> RunState:
    return run.evolve(outcome=outcome, runner=None)


def reopen(run: RunState) -> RunState:
    return run.evolve(outcome=None, reason=None, failed_in=None, budget_used=None, reports=[])


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
LACKED = "memory did not suffice; lower batch_size_per_gpu, or preload_ratio so that fewer frames are held"
train_retries_used, inference_retries_used, crashes_used, starts_used = (
    partial(out_of, budget)
    for budget in ("max_train_retries", "max_inference_retries", "max_crashes", "max_stalled_starts")
)
memory_used = partial(out_of, "max_crashes", because=LACKED)
WORKING = tuple(state for state in S if state not in TERMINAL | {S.REPORT})


def to_training(source: State, event: Event, states: Iterable[State], effect: Effect = unchanged) -> tuple[Row, ...]:
    """A row to each training state, in training order: the first whose stage has updates left is taken."""
    return tuple(Row(source, event, state, partial(unfinished, TRAINING[state]), effect) for state in states)


def training_rows(state: State) -> tuple[Row, ...]:
    """A training state loops on itself chunk by chunk, and at its target goes on to a later one, or to INFER."""
    this_and_later = list(TRAINING)[list(TRAINING).index(state) :]
    return (
        Row(state, E.SAVED, state, effect=new_checkpoint),
        *to_training(state, E.ACCEPTED, this_and_later, accept_chunk),
        Row(state, E.ACCEPTED, S.INFER, effect=accept_and_infer),
        Row(state, E.REJECTED, state, train_retries_left, repeat_chunk),
        Row(state, E.REJECTED, S.REPORT, effect=train_retries_used),
        Row(state, E.CRASHED, state, crashed_here_before, shrink_batch),
        Row(state, E.CRASHED, state, crashes_left, count_crash),
        Row(state, E.CRASHED, S.REPORT, effect=crashes_used),
        Row(state, E.KILLED, state, crashes_nearly_used_up, shrink_batch),
        Row(state, E.KILLED, state, crashes_left, count_death),
        Row(state, E.KILLED, S.REPORT, effect=crashes_used),
        Row(state, E.OUT_OF_MEMORY, state, crashes_left, shrink_batch),
        Row(state, E.OUT_OF_MEMORY, S.REPORT, effect=memory_used),
    )


TABLE: tuple[Row, ...] = (
    *to_training(S.ALIGN, E.ALIGNED, TRAINING),
    Row(S.ALIGN, E.ALIGNED, S.INFER, effect=begin_attempt),
    *(row for state in TRAINING for row in training_rows(state)),
    Row(S.INFER, E.INFERRED, S.GATE),
    *(Row(S.INFER, death, S.INFER, crashes_left, count_death) for death in (E.CRASHED, E.KILLED, E.OUT_OF_MEMORY)),
    *(Row(S.INFER, death, S.REPORT, effect=crashes_used) for death in (E.CRASHED, E.KILLED)),
    Row(S.INFER, E.OUT_OF_MEMORY, S.REPORT, effect=memory_used),
    Row(S.GATE, E.RESULT_LOST, S.INFER),
    Row(S.GATE, E.GATE_PASSED, S.REPORT, effect=conclude_passed),
    Row(S.GATE, E.GATE_FAILED, S.RETUNE, inference_retries_left, plan_retune),
    Row(S.GATE, E.GATE_FAILED, S.REPORT, effect=inference_retries_used),
    *to_training(S.RETUNE, E.RETUNED, list(TRAINING)[:-1]),
    Row(S.RETUNE, E.RETUNED, list(TRAINING)[-1]),
    Row(S.REPORT, E.REPORTED, S.PASSED, passed, partial(end_as, "passed")),
    Row(S.REPORT, E.REPORTED, S.FAILED, effect=partial(end_as, "failed")),
    *(Row(state, E.STALLED, S.REPORT, effect=starts_used) for state in WORKING),
    *(Row(S.FAILED, E.REOPENED, state, partial(failed_in, state), reopen) for state in WORKING),
)
