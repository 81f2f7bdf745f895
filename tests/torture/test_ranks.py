"""Several ranks that train together, one of them killed, all of them stopped: the run ends as if nobody had touched it,
and a death of one is one death."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.amounts import Amount
from tests.support.configs import LENIENT, OPTIONS, merged
from tests.support.processes import children, process_state
from tests.support.torture.bench import NATIVE, Bench, Setup
from tests.support.torture.launch import Fault, Launcher
from tests.torture.test_random_kills import AT_MOST, CHILD, LATER, events, lived, reaches, troubles
from tiw_fsm.errors import ExitCode

RANKS = 2
TOGETHER = Setup(
    (*NATIVE.arguments, "--nproc-per-node", str(RANKS)),
    # Ranks that no longer understand one another are found out within seconds.
    {
        "loop": merged(LENIENT, {"max_silence": 20}),
        "training": {"optimizer": "muon"},
        **merged(OPTIONS, {"dynamics": {"use_moe": True}}),
    },
    frames=True,
)


def ranks_of(controller: int) -> list[int]:
    """The ranks, in no order; none while they are started."""
    tasks = [task for launcher in children(controller) for task in Path(f"/proc/{launcher}/task").glob("*/children")]
    return [int(pid) for task in tasks for pid in task.read_text().split()]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    found: int = request.config.getoption("--torture-seed")
    return found


VICTIMS = {CHILD: children, "a rank alone": ranks_of}


@pytest.fixture(scope="module")
def bench(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(launcher, tmp_path_factory.mktemp("ranks"), TOGETHER)


@pytest.mark.whole
def test_ranks_killed_at_random_instants_end_as_if_nobody_had_touched_them(
    bench: Bench, amount: Amount, whole_bench: bool, seed: int, figures: Counter[str]
) -> None:
    left, number = amount(1, 1), 0
    while left > 0:
        life = lived(bench, seed, number, at_most=AT_MOST if whole_bench else left, victims=VICTIMS)
        assert not life.troubles, life
        left, number = left - max(life.killed, 1), number + 1
        figures.update({f"kills of {what}, {RANKS} ranks": count for what, count in life.kills.items()})


def test_a_rank_that_dies_is_one_death_and_nothing_is_left_of_the_others(bench: Bench) -> None:
    bench.begin()
    run = bench.start()
    assert reaches(bench, run, 6)
    ranks = ranks_of(run.pid)
    assert len(ranks) == RANKS
    started = time.monotonic()
    os.kill(ranks[-1], signal.SIGKILL)
    while any(process_state(rank) not in ("Z", None) for rank in ranks):
        assert time.monotonic() - started < 10
        time.sleep(0.01)
    ended = run.wait()
    assert ended.code == ExitCode.PASSED, ended.stderr
    assert "one of its processes was ended by SIGKILL" in ended.stderr
    assert events(bench).count("killed") == 1
    assert bench.came_out_otherwise() == []


def stopped(bench: Bench, chance: random.Random, number: signal.Signals) -> list[str]:
    """What is wrong with a run of which one process, any, gets a signal that a scheduler sends to all."""
    bench.begin()
    run = bench.start()
    if not reaches(bench, run, chance.randint(3, 12)):
        return ["it ended before it was signalled"]
    time.sleep(chance.uniform(0, LATER))
    run.kill(number, group=False)
    ended = run.wait()
    if ended.code != ExitCode.INTERRUPTED:
        return [f"{number.name}: ended with {ended.code}, saying {ended.stderr[-400:]}"]
    if deaths := [event for event in events(bench) if event in ("killed", "crashed")]:
        return [f"{number.name}: {deaths}"]
    return bench.ends_otherwise()


@pytest.mark.whole
def test_ranks_that_are_asked_to_stop_stop_after_the_same_update(
    bench: Bench, amount: Amount, seed: int, figures: Counter[str]
) -> None:
    chance = random.Random(seed)
    for _ in range(amount(1, 0.2)):
        assert stopped(bench, chance, chance.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))) == []
        figures[f"stop signals, {RANKS} ranks"] += 1


@pytest.mark.whole
def test_signals_that_reach_ranks_and_launcher_change_nothing(bench: Bench) -> None:
    """A scheduler signals every process; the controller decides what that means."""
    bench.begin()
    run = bench.start()
    assert reaches(bench, run, 5)
    for pid in (*children(run.pid), *ranks_of(run.pid)):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            os.kill(pid, number)
    assert run.wait().code == ExitCode.PASSED
    assert events(bench).count("killed") == 0
    assert bench.came_out_otherwise() == []


@pytest.mark.whole
def test_killed_before_or_after_any_operation_ranks_end_as_if_nobody_had_touched_them(
    bench: Bench, figures: Counter[str]
) -> None:
    """The controller and all with it, or the rank that writes, which is in a group of its own and dies alone."""
    changing = [op for op in bench.log if op.name in ("write", "rename", "fsync")]
    controller = bench.log[0].process
    for op in random.Random(0).sample(changing, 6):
        fault = Fault("before", op.number)
        if op.process == controller:
            assert bench.killed(fault) == []
        else:
            ended, _ = bench.disturbed(fault)
            assert ended.code == ExitCode.PASSED, ended.stderr
            assert events(bench).count("killed") == 1
            assert bench.came_out_otherwise() == []
        figures[f"kill points, {RANKS} ranks"] += 1


@pytest.mark.whole
def test_memory_that_does_not_suffice_one_rank_halves_the_batch_of_all(bench: Bench) -> None:
    short = bench.in_variant("rank_out_of_memory")
    short.begin()
    ended = short.run()
    assert ended.code == ExitCode.PASSED, ended.stderr
    assert "process 1 of 2, on " in ended.stderr
    assert "batch_size_per_gpu 4 → 2" in ended.stderr
    assert events(short).count("out_of_memory") == 3  # once in each stage
    assert "killed" not in events(short)


@pytest.mark.whole
def test_the_failing_ranks_own_error_is_the_one_that_is_told(bench: Bench) -> None:
    failing = bench.in_variant("rank_fails")
    failing.begin()
    ended = failing.run("--max-crashes", "0")
    assert ended.code == ExitCode.NOT_PASSED
    assert "process 1 of 2, on " in ended.stderr
    assert "ArithmeticError: this rank cannot count" in ended.stderr
    assert [event for event in events(failing) if event in ("killed", "crashed")] == ["crashed"]


def with_two_checkpoints(bench: Bench) -> int:
    """The first generation in which a stage's newest checkpoint has one before it."""
    return next(
        number
        for number, state in enumerate(bench.states)
        for stage in state.get("stages", {}).values()
        if (stage.get("made") or {}).get("resume")
    )


@pytest.mark.whole
def test_a_rank_that_reads_another_checkpoint_than_it_is_told_would_be_noticed(bench: Bench) -> None:
    astray = bench.in_variant("rank_reads_its_own")
    astray.begin()
    run = astray.start()
    assert reaches(astray, run, with_two_checkpoints(bench))
    run.kill()
    run.wait()
    assert astray.ends_otherwise() != []


@pytest.mark.whole
def test_ranks_that_stop_apart_would_be_noticed(bench: Bench) -> None:
    apart, chance = bench.in_variant("ranks_stop_apart"), random.Random(1)
    assert any(stopped(apart, chance, signal.SIGTERM) for _ in range(4))


@pytest.mark.whole
def test_an_optimizer_that_is_forgotten_would_be_noticed_with_ranks_too(bench: Bench) -> None:
    forgetful, chance = bench.in_variant("optimizer_forgotten"), random.Random(1)
    assert any(troubles(forgetful, chance, 2, Counter(), VICTIMS) for _ in range(4))
