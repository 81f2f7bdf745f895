"""Every state a small run can reach, under every outcome, fault and crash; and long random lives of a large one."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.support.amounts import Amount, whole_too
from tests.support.torture import explorer
from tests.support.torture.explorer import (
    INFERRED,
    TRAINED,
    Explorer,
    Key,
    Killed,
    Size,
    Violation,
    World,
    audit,
    death_in_the_commit,
    happenings,
    world,
)
from tiw_fsm.config.loop import Budgets
from tiw_fsm.fsm import inference_gate, machine, table
from tiw_fsm.fsm.events import Event
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import TERMINAL, State
from tiw_fsm.fsm.table import Row
from tiw_fsm.run import resume
from tiw_fsm.run.session import Context
from tiw_fsm.stages import Stage

BUDGETS = Size(retries=1, crashes=1, retunes=1, starts=1, updates=(1, 1, 1), chunk=1, interval=1)
GIVEN = BUDGETS._replace(retries=0, crashes=0, starts=0, train_stage="none")
ROT = Size(retries=0, crashes=0, retunes=0, starts=0, updates=(2, 1, 1), chunk=2, interval=1, rots=1)
SHORT = {"rot": ROT, "three models given": GIVEN}
LONG = {
    "budgets": BUDGETS,
    "larger budgets": BUDGETS._replace(retries=2, crashes=2, starts=2),
    "two chunks in each stage": BUDGETS._replace(updates=(2, 2, 2)),
    "checkpoints cut short": BUDGETS._replace(updates=(2, 2, 2), chunk=2, interval=2),
    "two retunes by cause": BUDGETS._replace(crashes=0, retunes=2, policy="cause"),
    "rot": BUDGETS._replace(crashes=0, updates=(2, 1, 1), chunk=2, policy="cause", rots=1),
    **{f"two models given, but {stage}": GIVEN._replace(starts=1, crashes=1, train_stage=stage) for stage in Stage},
}
TAKEN: set[tuple[State, Event, State]] = set()
"""Rows of the table that the walks so far took."""


SIZES = [
    *(pytest.param(size, False, id=name) for name, size in SHORT.items()),
    *(whole_too(size, True, id=name) for name, size in LONG.items()),
]


@pytest.mark.parametrize(("size", "slow"), SIZES)
def test_whatever_happens_a_run_ends_within_its_budgets_and_forgets_nothing(
    size: Size, slow: bool, tmp_path: Path, figures: Counter[str]
) -> None:
    """``audit`` says what holds after every commit; that the graph has no cycle says that every schedule ends."""
    with world(size, tmp_path) as place:
        walk = Explorer(place, size)
        walk.explore()
        live_at_random(place, walk, lives=1000 if slow else 60)
    assert {key.state for key, found in walk.successors.items() if not found} == set(TERMINAL)
    TAKEN.update(walk.rows)
    figures["explorer states"] += len(walk.successors)
    figures["explorer edges"] += walk.edges
    figures["explorer lives of a process"] += walk.lives
    figures["explorer schedules"] += walk.schedules[walk.root]


@pytest.mark.whole
def test_the_walks_take_every_row_of_the_table() -> None:
    """But for those that reopen a run, and one for form's sake: a run that never left ALIGN has made no commit."""
    rows = {(row.source, row.event, row.target) for row in table.TABLE if row.event is not Event.REOPENED}
    assert rows - TAKEN == {(State.ALIGN, Event.STALLED, State.REPORT)}


def live_at_random(place: World, walk: Explorer, lives: int) -> None:
    """Whole lives of real processes, through commit after commit, stay on the edges that were walked one by one.

    This is what shows that going on from the files of a commit is what a process that is still alive does, and that
    nothing which decides was left out of the key.
    """
    dice = random.Random(0)
    place.restore({})
    at = walk.root
    run: RunState | None = None
    left = 0

    def choose() -> Iterator[str]:
        while True:
            yield dice.choice(happenings(run))

    def witness(before: RunState | None, after: RunState) -> None:
        nonlocal at, run, left
        run, left = after, left - 1
        if after.runner or after.state in TERMINAL:
            found = walk.key(after, walk.size.rots)
            assert found in walk.successors[at].values(), f"{at} → {found} was not walked"
            at = found
        if left == 0:
            raise Killed

    for _ in range(lives):
        if at.state in TERMINAL:
            place.restore({})
            at, run = walk.root, None
        left = dice.choice([1, 2, 3, 5, 8, 100])
        with death_in_the_commit() if dice.random() < 0.2 else nullcontext():
            place.live(choose(), witness, stop=run is not None and dice.random() < 0.1)


# --- the explorer sees what is broken ---------------------------------------------------------------------------

Break = Callable[[pytest.MonkeyPatch], None]


def rows(which: Callable[[Row], bool], **changes: Any) -> Break:
    """Other guards, effects or targets in some rows of the table."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        assert any(map(which, table.TABLE))
        changed = tuple(row._replace(**changes) if which(row) else row for row in table.TABLE)
        patch.setattr(machine, "TABLE", changed)

    return apply


def on(event: Event, *, guarded: bool = False) -> Callable[[Row], bool]:
    return lambda row: row.event is event and (not guarded or row.guard is not table.always)


def on_start(change: Callable[[RunState], RunState]) -> Break:
    """A start that changes the run it finds."""
    resumed = resume.resumed

    def changed(context: Context, before: RunState, config_sha256: str) -> Any:
        return resumed(context, change(before), config_sha256)

    return lambda patch: patch.setattr(resume, "resumed", changed)


def all_stages(**changes: Any) -> Callable[[RunState], RunState]:
    return lambda run: run.evolve(stages={stage: p.evolve(**changes) for stage, p in run.stages.items()})


def then(effect: table.Effect, change: Callable[[RunState], RunState]) -> table.Effect:
    return lambda run: change(effect(run))


def stage_with(run: RunState, **changes: Any) -> RunState:
    assert run.stage
    return run.with_stage(run.stage, **changes)


def count_attempt(run: RunState) -> RunState:
    return run.evolve(inference=run.inference.evolve(started=run.inference.started + 1))


def lose_accepted(self: RunState) -> set[str]:
    return {p.checkpoint.path for p in self.stages.values() if p.checkpoint}


def attempt_after_its_work(patch: pytest.MonkeyPatch) -> None:
    rows(lambda row: row.effect is table.begin_attempt, effect=table.unchanged)(patch)
    rows(on(Event.INFERRED), effect=count_attempt)(patch)


def every_attempt_passes(patch: pytest.MonkeyPatch) -> None:
    judge = inference_gate.judge_inference
    patch.setattr(inference_gate, "judge_inference", lambda *a, **k: judge(*a, **k).evolve(passed=True))


class Broken(NamedTuple):
    """How a machine is broken, what the explorer says of it, and a size at which that takes an instant."""

    change: Break
    seen: str
    size: Size = BUDGETS._replace(starts=0)


BROKEN = {
    "one rejected chunk too many": Broken(
        rows(on(Event.REJECTED, guarded=True), guard=lambda run: run.progress().retries <= 1),
        "max_train_retries is not exact",
    ),
    "one rejected chunk too few": Broken(
        rows(on(Event.REJECTED, guarded=True), guard=lambda run: run.progress().retries < 0),
        "max_train_retries is not exact",
    ),
    "one crash too many": Broken(
        rows(on(Event.CRASHED, guarded=True), guard=lambda run: True),
        "max_crashes is not exact",
    ),
    "out of memory is free": Broken(
        rows(on(Event.OUT_OF_MEMORY, guarded=True), effect=table.unchanged),
        "the state says 0, the journal 1|can go on for ever",
    ),
    "one retune too many": Broken(
        rows(on(Event.GATE_FAILED, guarded=True), guard=lambda run: run.retunes <= 1),
        "max_inference_retries is not exact",
        GIVEN,
    ),
    "the wrong budget is blamed": Broken(
        rows(lambda row: row.effect is table.crashes_used, effect=table.train_retries_used),
        "the wrong budget is blamed",
    ),
    "a crash costs a retry": Broken(
        rows(
            on(Event.OUT_OF_MEMORY, guarded=True),
            effect=then(table.shrink_batch, lambda run: stage_with(run, retries=run.progress().retries + 1)),
        ),
        r"max_train_retries TRAIN_.*: the state says \d, the journal \d",
    ),
    "a checkpoint does not clear crashes": Broken(rows(on(Event.SAVED), effect=table.unchanged), "the journal 0"),
    "an attempt is counted after its work": Broken(attempt_after_its_work, "not counted before its work", GIVEN),
    "a start clears the crashes": Broken(on_start(all_stages(crashes=0)), "started changed .*stages"),
    "an interruption costs a retry": Broken(on_start(all_stages(retries=1)), "the state says 1, the journal 0"),
    "starts are never counted": Broken(on_start(lambda run: run.evolve(stalled_starts=-1)), "max_stalled_starts"),
    "one start too many": Broken(
        on_start(lambda run: run.evolve(stalled_starts=max(run.stalled_starts, 1) - 1)),
        "max_stalled_starts",
    ),
    "a start goes back to the accepted checkpoint": Broken(
        on_start(lambda run: stage_with(run, **dict(run.progress().rewound())) if run.stage else run),
        r"started took \d back to \d",
    ),
    "an accepted checkpoint is forgotten": Broken(
        rows(
            lambda row: row.effect is table.accept_chunk,
            effect=lambda run: stage_with(
                run, chunk_start=run.progress().completed, attempt=run.progress().attempt + 1, retries=0
            ),
        ),
        "accepted were|not what was accepted",
    ),
    "a rejected chunk goes back to nothing": Broken(
        rows(
            on(Event.REJECTED, guarded=True),
            effect=then(table.repeat_chunk, lambda run: stage_with(run, completed=0, checkpoint=None, accepted=None)),
        ),
        "accepted were|forgotten",
    ),
    "a rejected chunk is kept": Broken(
        rows(
            on(Event.REJECTED, guarded=True),
            effect=lambda run: stage_with(
                run,
                retries=run.progress().retries + 1,
                attempt=run.progress().attempt + 1,
                attempt_metrics=run.progress().metrics,
            ),
        ),
        "repeated from elsewhere",
    ),
    "a retune begins dynamics anew": Broken(
        rows(
            on(Event.GATE_FAILED, guarded=True),
            effect=then(
                table.plan_retune,
                lambda run: run.with_stage(Stage.DYNAMICS, completed=0, chunk_start=0, checkpoint=None),
            ),
        ),
        r"took \d+ back to 0",
        GIVEN,
    ),
    "accepted checkpoints are swept": Broken(
        lambda patch: patch.setattr(RunState, "named_checkpoints", lose_accepted),
        "is gone|is missing",
    ),
    "whatever is reported has passed": Broken(rows(on(Event.REPORTED), guard=table.always), "PASSED after", GIVEN),
    "every attempt passes": Broken(every_attempt_passes, "gate: ", GIVEN),
    "a failed gate ends as passed": Broken(
        rows(on(Event.GATE_FAILED), effect=table.conclude_passed, guard=table.always, target=State.REPORT),
        "max_inference_retries is not exact",
        GIVEN,
    ),
}


def found_out(broken: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken.change(monkeypatch)
    with world(broken.size, tmp_path) as place, pytest.raises(Violation, match=broken.seen):
        Explorer(place, broken.size).explore()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_machine_is_found_out(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found_out(BROKEN[name], tmp_path, monkeypatch)


class Forgetful(Explorer):
    """It merges attempts whatever their gate will find."""

    def key(self, run: RunState, rots_left: int) -> Key:
        key = super().key(run, rots_left)
        return key._replace(played=key.played and "anything")


BY_THE_GRAPH = {
    "starts are never counted": BROKEN["starts are never counted"]._replace(seen="can go on for ever"),
    "rejected chunks are never counted": Broken(
        rows(on(Event.REJECTED, guarded=True), effect=then(table.repeat_chunk, all_stages(retries=0))),
        "a cycle over",
    ),
    "nothing passes": Broken(
        rows(on(Event.REPORTED), target=State.FAILED), "nothing that can happen lets the run pass", GIVEN
    ),
}


@pytest.mark.parametrize("name", BY_THE_GRAPH)
def test_the_graph_alone_shows_a_run_that_may_never_end_or_never_pass(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer, "audit", lambda *arguments: None)
    found_out(BY_THE_GRAPH[name], tmp_path, monkeypatch)


@pytest.mark.whole
def test_nodes_merged_by_too_little_are_found_out(tmp_path: Path) -> None:
    with world(GIVEN, tmp_path) as place, pytest.raises(Violation, match="merged nodes differ"):
        Forgetful(place, GIVEN, twins=1).explore()


# --- long lives with large budgets ------------------------------------------------------------------------------

LARGE = Size(retries=5, crashes=5, retunes=2, starts=50, updates=(4, 2, 4), chunk=2, interval=1)


class Lives(RuleBasedStateMachine):
    """One run with the default budgets: what happens is gathered by some rules, and lived through by the others."""

    place: World
    lived: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.place.restore({})
        self.to_come: list[str] = []

    @rule(name=st.sampled_from(sorted({*TRAINED, *INFERRED})), times=st.integers(1, 7))
    def meets(self, name: str, times: int) -> None:
        self.to_come += [name] * times

    @rule()
    def is_killed_at_work(self) -> None:
        self.live()

    @rule(survived=st.integers(0, 9))
    def is_killed_in_a_commit(self, survived: int) -> None:
        with death_in_the_commit(survived):
            self.live()

    @rule()
    def is_stopped_at_work(self) -> None:
        self.to_come += ["stopped"]
        self.live()

    @rule(times=st.sampled_from([1, 2, 4, 8, 51]))
    def is_killed_at_each_start(self, times: int) -> None:
        for _ in range(times):
            self.live(commits=1)

    def teardown(self) -> None:
        self.live(itertools.repeat("good"))
        run = self.place.store.load()
        assert run is not None
        assert run.state in TERMINAL, "left alone, a run ends"
        self.lived[run.outcome or ""] += 1

    def live(self, meets: Iterable[str] | None = None, commits: int | None = None) -> None:
        """One life, every commit audited; without ``meets`` it is killed when nothing is left to come."""
        left = itertools.repeat(1) if commits is None else iter(range(commits - 1))

        def witness(before: RunState | None, after: RunState) -> None:
            self.lived["commits"] += 1
            audit(before, after, self.place.store)
            if next(left, None) is None:
                raise Killed

        def until_killed() -> Iterator[str]:
            yield from self.to_come
            raise Killed

        self.lived["lives"] += 1
        self.place.live(until_killed() if meets is None else iter(meets), witness)
        self.to_come = []


@pytest.mark.whole
def test_long_lives_keep_every_promise_with_the_default_budgets(
    tmp_path: Path, figures: Counter[str], amount: Amount
) -> None:
    assert LARGE.configs["loop"]["budgets"] == Budgets().model_dump()
    with world(LARGE, tmp_path) as Lives.place:
        Lives.lived = Counter()
        run_state_machine_as_test(
            Lives,
            settings=settings(max_examples=amount(12, 6), stateful_step_count=25, deadline=None),
        )
    figures["random lives with the default budgets"] += Lives.lived["lives"]
