"""The stream of items: the same however a run was interrupted, and each item once."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.amounts import whole_too
from tests.support.configs import write_configs
from tests.support.run_folder import RunFolder
from tests.support.simulation import Simulation
from tiw_fsm.engines.protocol import Progress, TrainRequest, TrainResult
from tiw_fsm.engines.simulated import Script, SimulatedEngine
from tiw_fsm.errors import Interrupted
from tiw_fsm.stages import Stage
from tiw_fsm.storage.paths import RunPaths
from tiw_fsm.tracking.items import Item, Stream

GOOD, REJECTED = 0.005, 9.0
SCRIPT = Script(losses={Stage.VIDEO: [GOOD, REJECTED, None, GOOD]}, mse=[0.5, 0.01])
"""A rejected chunk, one whose loss is not finite, and a failed inference gate."""


class Interruptible(SimulatedEngine):
    """Is asked to stop after so many calls."""

    def __init__(self, script: Script, calls: int) -> None:
        super().__init__(script)
        self._left = calls

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        self._left -= 1
        if self._left < 0:
            raise Interrupted("asked to stop")
        return super().train(request, progress)


def stream_of(run: RunFolder) -> Stream:
    return Stream(run.store, RunPaths(run.root / "results/default", run.root))


def shown(items: list[Item]) -> list[Item]:
    """Without what another run would have otherwise: its times and its names."""
    return [item._replace(time=0.0, picture=None) for item in items if item.group != "run"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    root = tmp_path_factory.mktemp("undisturbed")
    write_configs(root / "configs")
    simulation = Simulation(root)
    simulation.run(SCRIPT)
    return list(stream_of(simulation).look())


def test_every_committed_row_is_an_item(undisturbed: list[Item]) -> None:
    losses = [item for item in undisturbed if "loss" in item.values or "grad_norm" in item.values]
    assert len(losses) == len({(item.group, item.step, item.repeat) for item in losses})
    assert {item.step for item in losses if item.group == "video_tokenizer"} == set(range(1, 21))


def test_a_repeated_chunk_is_marked(undisturbed: list[Item]) -> None:
    tokenizer = [item for item in undisturbed if item.group == "video_tokenizer" and "grad_norm" in item.values]
    assert [item.repeat for item in tokenizer if item.step == 15] == [0, 1, 2]
    assert [item.repeat for item in tokenizer if item.step == 5] == [0]


def test_gates_and_verdicts_are_items(undisturbed: list[Item]) -> None:
    gates = [item.values["gate"] for item in undisturbed if "gate" in item.values and item.group == "video_tokenizer"]
    assert gates[1] in ("retune", "restart_stage")
    assert [item.values["verdict"] for item in undisturbed if item.group == "inference"] == ["failed", "passed"]
    assert undisturbed[-1].values["outcome"] == "passed"


@pytest.mark.parametrize("seed", [0, *(whole_too(seed) for seed in range(1, 30))])
def test_it_is_the_same_however_often_a_run_is_stopped_and_its_checkpoint_damaged(
    tmp_path: Path, undisturbed: list[Item], seed: int
) -> None:
    """One stream that looks again and again, and one that begins after each stop as a new process does."""
    chance = random.Random(seed)
    stops = [(chance.randint(1, 4), chance.random() < 0.7) for _ in range(5)]
    write_configs(tmp_path / "configs")
    simulation = Simulation(tmp_path)
    following, followed = stream_of(simulation), list[Item]()
    for calls, damaged in stops:
        with suppress(Interrupted):
            simulation.run_with(Interruptible(SCRIPT, calls))
        followed += following.look()
        if damaged:
            _damage_newest(simulation)
        assert shown(list(stream_of(simulation).look())) == shown(undisturbed)[: len(followed)]
        assert shown(followed) == shown(undisturbed)[: len(followed)]
    simulation.run(SCRIPT)
    followed += following.look()
    assert shown(followed) == shown(undisturbed)
    assert shown(list(stream_of(simulation).look())) == shown(undisturbed)


def test_a_run_that_is_reopened_shows_the_updates_it_does_again(tmp_path: Path) -> None:
    write_configs(tmp_path / "configs")
    simulation = Simulation(tmp_path)
    simulation.run(Script(losses={Stage.VIDEO: [None]}), max_train_retries=0)
    simulation.run(Script(losses={Stage.VIDEO: [GOOD]}), max_train_retries=3)
    rows = [item for item in stream_of(simulation).look() if "grad_norm" in item.values]
    third = [row for row in simulation.rows("video_tokenizer") if row["update"] == 2]
    assert len(third) > 1
    assert [item.repeat for item in rows if (item.group, item.step) == ("video_tokenizer", 3)] == list(
        range(len(third))
    )
    assert len(rows) == sum(len(simulation.rows(stage)) for stage in Stage)


def test_there_is_nothing_to_show_before_a_run_has_begun(tmp_path: Path) -> None:
    assert list(stream_of(RunFolder(tmp_path)).look()) == []


def _damage_newest(run: RunFolder) -> None:
    """So that the next start goes back."""
    found = run.store.load()
    if found is None or found.stage is None:
        return
    ref, accepted = found.progress().checkpoint, found.progress().accepted
    if ref is None or ref == accepted:  # else there is none before it
        return
    next(Path(ref.path).glob("*.pt")).write_bytes(b"damaged")
