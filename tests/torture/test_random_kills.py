"""Killed at random instants, everything, the child alone or the controller alone: it ends as if nobody had touched it.

Real frames, the native engine, all states on the way: a rejected chunk, a failed inference gate, a retune by cause.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.amounts import Amount
from tests.support.configs import LENIENT, merged
from tests.support.processes import children, process_state
from tests.support.torture.bench import Bench, Setup
from tests.support.torture.launch import Launcher, Started
from tests.support.torture.outcome import updates_missing_or_twice
from tests.support.torture.record import Life, Record
from tiw_fsm.fsm.states import State

Victims = Mapping[str, Callable[[int], list[int]]]
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


EVERYTHING, CONTROLLER, CHILD = "everything", "the controller alone", "the child alone"
VICTIMS: dict[str, Callable[[int], list[int]]] = {CHILD: children}
"""Who may be killed while the controller, whose process id is given, goes on; one of those that this finds."""


def lived(bench: Bench, seed: int, number: int, at_most: int = AT_MOST, victims: Victims = VICTIMS) -> Life:
    """A run that is killed on its way, as seed and number say."""
    chance, kills = random.Random(f"{seed} {number}"), Counter[str]()
    wanted = min(chance.randint(1, AT_MOST), at_most)
    try:
        found = troubles(bench, chance, wanted, kills, victims)
    except TimeoutError as exc:
        found = [str(exc)]
    return Life(seed, number, dict(kills), found)


def troubles(
    bench: Bench, chance: random.Random, kills: int, done: Counter[str], victims: Victims = VICTIMS
) -> list[str]:
    """How a run ends otherwise than an undisturbed one, if it is killed up to ``kills`` times on its way.

    Args:
        done: counts the kills, by their kinds.
    """
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
        what = chance.choice((EVERYTHING, CONTROLLER, *victims))
        if what in victims and kills_one(bench, run, victims[what](run.pid), chance):
            done[what] += 1
            continue
        run.kill(group=what != CONTROLLER)
        done[CONTROLLER if what == CONTROLLER else EVERYTHING] += 1
        run, dead = None, run
    for last in (dead, run):
        if last:
            last.wait()
    return [*bench.ends_otherwise(), *updates_missing_or_twice(bench.root)]


def kills_one(bench: Bench, run: Started, alive: list[int], chance: random.Random) -> bool:
    """Kill one of those that compute, at most twice after each checkpoint, and wait until it is counted; False if none
    may be."""
    state = bench.store.load()
    at_work = state is not None and (state.stage is not None or state.state is State.INFER)
    if not at_work or state is None or state.deaths == AT_ONE_PLACE or not alive:
        return False
    deaths = events(bench).count("killed")
    os.kill(alive[0] if len(alive) == 1 else chance.choice(alive), signal.SIGKILL)
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


@dataclass(frozen=True)
class Asked:
    """Which lives were asked for."""

    seed: int
    record: Record
    alone: int | None


@pytest.fixture
def asked(request: pytest.FixtureRequest) -> Asked:
    option = request.config.getoption
    return Asked(option("--torture-seed"), Record(option("--torture-record")), option("--torture-life"))


def test_killed_at_random_instants_a_run_ends_as_if_nobody_had_touched_it(
    bench: Bench, amount: Amount, whole_bench: bool, asked: Asked, figures: Counter[str]
) -> None:
    if asked.alone is not None:
        again = lived(bench, asked.seed, asked.alone)
        assert not again.troubles, again
        return
    before = asked.record.lives(asked.seed)
    numbers = (number for number in itertools.count() if number not in {life.number for life in before})
    left = amount(4, 1) - sum(life.killed for life in before)
    while left > 0:
        life = lived(bench, asked.seed, next(numbers), at_most=AT_MOST if whole_bench else left)
        asked.record.add(life)
        left -= life.killed
        figures.update({f"kills of {what}": count for what, count in life.kills.items()})
        figures["runs killed and compared bit for bit"] += 1
    wrong = [str(life) for life in asked.record.lives(asked.seed) if life.troubles]
    assert wrong == []


def test_what_a_record_tells_is_not_done_again(tmp_path: Path) -> None:
    path = tmp_path / "build" / "kills.jsonl"
    Record(path).add(Life(7, 0, {"everything": 3}, []))
    with open(path, "a") as file:
        file.write(json.dumps({"code": "of another day", "seed": 7, "number": 1, "kills": {}, "troubles": []}) + "\n")
        file.write('{"code": "cut in the mid')
    Record(path).add(Life(7, 2, {"the child alone": 2}, ["another weight"]))
    assert [life.number for life in Record(path).lives(7)] == [0, 2]
    assert Record(path).told() == [
        "seed 7: 2 lives, 5 random kills (3 everything, 2 the child alone), 1 failures: lives 2"
    ]
    assert "make torture-kills SEED=7 LIFE=2" in str(Record(path).lives(7)[-1])


@pytest.mark.whole
def test_a_resume_that_forgets_the_optimizer_would_be_noticed(bench: Bench) -> None:
    forgetful, chance = bench.in_variant("optimizer_forgotten"), random.Random(1)
    assert any(troubles(forgetful, chance, 2, Counter()) for _ in range(4))
