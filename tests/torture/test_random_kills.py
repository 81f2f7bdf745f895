"""Killed at random instants, everything, the child alone or the controller alone: it ends as if nobody had touched it.

Real frames, the native engine, all states on the way: a rejected chunk, a failed inference gate, a retune by cause.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from copy import copy

import pytest

from tests.support.amounts import Amount
from tests.support.configs import LENIENT, merged
from tests.support.processes import children, process_state
from tests.support.torture.bench import Bench, Setup
from tests.support.torture.launch import Launcher, Started
from tests.support.torture.outcome import updates_missing_or_twice
from tiw_fsm.fsm.states import State

AT_MOST = 20
"""Kills of one run."""
AT_ONE_PLACE = 2
"""Kills of the child without progress between them; each makes the run wait for longer."""
LATER = 0.15
"""A kill comes up to so many seconds after the commit it waited for: an update takes some 10 ms here, a save 10 ms."""
FURTHER = 9
"""It waits for at most so many commits."""
BAND = {"min": 0.0905, "max": 0.0925}
"""Where the loss of the tokenizer's second chunk falls, so that it is rejected and repeated."""
EVERY_STATE = Setup(
    ("run", "--max-mse", "0.052", "--max-inference-retries", "3", "--allow-trivial"),
    {
        "loop": merged(
            LENIENT,
            {
                "retune_policy": "cause",
                "gates": {
                    "video_tokenizer": {
                        "from_update": 15,
                        "verdicts": {"retune": {"final": BAND}, "continue": {"final": {"max": 1.0}}},
                    }
                },
            },
        )
    },
    frames=True,
)


def troubles(bench: Bench, chance: random.Random, kills: int, figures: Counter[str]) -> list[str]:
    """How a run ends otherwise than an undisturbed one, if it is killed up to ``kills`` times on its way."""
    bench.begin()
    run = dead = None
    for _ in range(kills):
        run = run or bench.start()
        if dead:
            dead.wait()  # only now: what a dead controller left behind could have met its successor
            dead = None
        if not reaches(bench, run, generation(bench) + chance.randint(1, FURTHER)):
            break
        time.sleep(chance.uniform(0, LATER))
        what = chance.choice(("everything", "the controller alone", "the child alone"))
        if what == "the child alone" and kills_the_child(bench, run):
            figures[f"kills of {what}"] += 1
            continue
        run.kill(group=what != "the controller alone")
        figures[f"kills of {'the controller alone' if what == 'the controller alone' else 'everything'}"] += 1
        run, dead = None, run
    for last in (dead, run):
        if last:
            last.wait()
    return [*bench.ends_otherwise(), *updates_missing_or_twice(bench.root)]


def kills_the_child(bench: Bench, run: Started) -> bool:
    """Kill it, at most twice after each checkpoint, and wait until that is counted; False if it may not be."""
    state = bench.store.load()
    at_work = state is not None and (state.stage is not None or state.state is State.INFER)
    child = next(iter(children(run.pid)), None)
    if not at_work or state is None or state.deaths == AT_ONE_PLACE or child is None:
        return False
    deaths = events(bench).count("killed")
    os.kill(child, signal.SIGKILL)
    while events(bench).count("killed") == deaths and process_state(run.pid) != "Z":
        time.sleep(0.005)
    return True


def reaches(bench: Bench, run: Started, goal: int) -> bool:
    """Wait until the run has committed generation ``goal``; False if it ends before."""
    while generation(bench) < goal:
        if process_state(run.pid) == "Z":
            return False
        time.sleep(0.002)
    return True


def generation(bench: Bench) -> int:
    state = bench.store.load()
    return state.generation if state else 0


def events(bench: Bench) -> list[str]:
    return [line["event"] for line in bench.store.journal()]


@pytest.fixture(scope="module")
def bench(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(launcher, tmp_path_factory.mktemp("random_kills"), EVERY_STATE)


def test_killed_at_random_instants_a_run_ends_as_if_nobody_had_touched_it(
    bench: Bench, amount: Amount, figures: Counter[str]
) -> None:
    left, chance = amount(6, 1), random.Random(0)
    while left > 0:
        kills = min(left, chance.randint(1, AT_MOST))
        before = figures.total()
        found = troubles(bench, chance, kills, figures)
        assert found == []
        left -= figures.total() - before
        figures["runs killed and compared bit for bit"] += 1


def test_a_resume_that_forgets_the_optimizer_would_be_noticed(bench: Bench) -> None:
    forgetful, chance = copy(bench), random.Random(1)
    forgetful.broken = "optimizer_forgotten"
    assert any(troubles(forgetful, chance, 2, Counter()) for _ in range(4))
