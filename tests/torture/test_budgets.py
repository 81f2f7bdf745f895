"""Budgets are exact whatever interrupts their counting, and interruptions cost nothing while there is progress."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.support.amounts import Amount
from tests.support.torture.bench import SIMULATED, Bench, Setup
from tests.support.torture.disk import Tree
from tests.support.torture.launch import Fault, Launcher
from tiw_fsm.config.loop import Budgets
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.run_state import RunState

TOO_MANY = 200
"""Starts after which a run that should have used up its budget never will."""
BUDGETS = Budgets()
ALWAYS_DIES = Setup(SIMULATED.arguments, script={"crashes": {"latent_actions": 1000}}, ends=ExitCode.NOT_PASSED)


def state_of(bench: Bench) -> RunState:
    state = bench.store.load()
    assert state is not None
    return state


def events(bench: Bench) -> Counter[str]:
    return Counter(line["event"] for line in bench.store.journal())


def until_it_ends(bench: Bench, chance: random.Random) -> int:
    """Start a run over and over, each time killed right after its first or second commit; how often until it ended."""
    bench.begin()
    for kills in range(TOO_MANY):
        if bench.run(fault=Fault("marked", chance.randint(1, 2))).code is not None:
            return kills
    return TOO_MANY


def test_a_chunk_that_always_dies_uses_exactly_the_crash_budget(
    launcher: Launcher, tmp_path: Path, whole_bench: bool, figures: Counter[str]
) -> None:
    bench = Bench(launcher, tmp_path, ALWAYS_DIES)
    for chance in map(random.Random, range(3 if whole_bench else 1)):
        figures["kills around counting"] += until_it_ends(bench, chance)
        state = state_of(bench)
        assert (state.budget_used, events(bench)["crashed"]) == ("max_crashes", BUDGETS.max_crashes + 1)
        assert list(bench.came_out_otherwise()) == []


@pytest.mark.whole
def test_deaths_that_each_start_forgets_would_be_noticed(launcher: Launcher, tmp_path: Path) -> None:
    forgetful = Bench(launcher, tmp_path, ALWAYS_DIES).in_variant("crashes_forgotten")
    until_it_ends(forgetful, random.Random(0))
    assert events(forgetful)["crashed"] != BUDGETS.max_crashes + 1


@pytest.mark.whole
def test_a_gate_that_always_fails_gives_exactly_the_allowed_retunes(
    launcher: Launcher, tmp_path: Path, figures: Counter[str]
) -> None:
    never_passes = Setup(SIMULATED.arguments, script={"mse": [0.5]}, ends=ExitCode.NOT_PASSED)
    bench = Bench(launcher, tmp_path, never_passes)
    kills = 0
    for chance in map(random.Random, range(100)):
        kills += until_it_ends(bench, chance)
        found = events(bench)
        assert (found["gate_failed"], found["retuned"]) == (
            BUDGETS.max_inference_retries + 1,
            BUDGETS.max_inference_retries,
        )
        assert list(bench.came_out_otherwise()) == []
        if kills >= 50:
            break
    figures["kills around counting"] += kills


@pytest.mark.whole
def test_a_chunk_that_is_always_rejected_uses_exactly_its_retries(
    launcher: Launcher, tmp_path: Path, figures: Counter[str]
) -> None:
    losses = {"video_tokenizer": [0.005], "latent_actions": [0.5], "dynamics": [2.0]}
    bench = Bench(launcher, tmp_path, Setup(SIMULATED.arguments, script={"losses": losses}, ends=ExitCode.NOT_PASSED))
    figures["kills around counting"] += until_it_ends(bench, random.Random(0))
    assert (state_of(bench).budget_used, events(bench)["rejected"]) == (
        "max_train_retries",
        BUDGETS.max_train_retries + 1,
    )
    assert list(bench.came_out_otherwise()) == []


def test_interruptions_with_progress_between_them_cost_nothing(
    launcher: Launcher, tmp_path: Path, amount: Amount, figures: Counter[str]
) -> None:
    """Each start is killed right after the first checkpoint, or the first new state, that it committed."""
    wanted = min(500, amount(15, 8.4))
    slow = {"video_tokenizer": {"n_updates": wanted}, "loop": {"checkpoint_interval": 1}}
    bench = Bench(launcher, tmp_path, Setup(SIMULATED.arguments, slow))
    bench.begin()
    for _ in range(wanted):
        assert bench.run(fault=Fault("marked", 2)).signal is not None
    figures["interruptions with progress between them"] += wanted
    assert bench.ends_otherwise() == []
    state = state_of(bench)
    assert (state.interruptions, state.retunes) == (wanted, 0)
    assert {(p.retries, p.crashes) for p in state.stages.values()} == {(0, 0)}


def test_starts_without_progress_end_in_a_report_after_exactly_their_budget(
    launcher: Launcher, tmp_path: Path, figures: Counter[str]
) -> None:
    bench = Bench(launcher, tmp_path, Setup(SIMULATED.arguments))
    bench.begin()
    bench.run(fault=Fault("marked", 1))  # leaves ALIGN; the starts after it come to nothing
    for _ in range(BUDGETS.max_stalled_starts - 1):
        bench.run(fault=Fault("marked", 1))
    one_left = Tree.read(bench.root)
    bench.run(fault=Fault("marked", 1))
    figures["starts without progress"] += BUDGETS.max_stalled_starts
    assert bench.run().code == ExitCode.NOT_PASSED
    state = state_of(bench)
    assert (state.budget_used, len(state.reports)) == ("max_stalled_starts", 3)
    one_left.materialize(bench.root)
    assert bench.ends_otherwise() == []
