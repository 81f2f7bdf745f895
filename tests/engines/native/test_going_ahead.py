"""A training process does updates that nobody has asked for yet: what it is asked for afterwards comes out the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.settings import settings_of
from tiw_fsm.engines.native.live_trainer import LiveTrainer
from tiw_fsm.engines.native.ranks import Ranks
from tiw_fsm.engines.native.worker import Stopped, Worker
from tiw_fsm.engines.protocol import HelloRequest, TrainRequest
from tiw_fsm.stages import Stage
from tiw_fsm.values.frozen import CheckpointRef, LearningRateSchedule

FOLLOWING: dict[str, dict[str, Any]] = {
    "what was expected": {"start": 3, "stop_at": 6},
    "more than was done": {"start": 3, "stop_at": 9},
    "less than was done": {"start": 3, "stop_at": 4},
    "another rate": {"start": 3, "stop_at": 6, "rate": 1e-5},
    "another schedule": {"start": 3, "stop_at": 6, "end": 7},
    "the same again": {"start": 0, "stop_at": 3},
    "another seed": {"start": 3, "stop_at": 6, "seed": 1},
}


@pytest.fixture
def worker() -> Worker:
    return at_work()


def at_work() -> Worker:
    found = Worker(lambda line: None, "", Ranks())
    found.hello(HelloRequest(device="cpu", threads=1))
    return found


def request(
    root: Path,
    start: int,
    stop_at: int,
    before: str = "",
    ahead: int = 0,
    rate: float = 1e-3,
    end: int = 20,
    seed: int = 0,
) -> TrainRequest:
    """Updates that go on from the checkpoint with the digest ``before``."""
    settings, checkpoints = settings_of(root), root / "checkpoints"
    config = settings.stages[Stage.VIDEO]
    resume = CheckpointRef(path=str(checkpoints / f"0-{start}"), update=start - 1, sha256=before) if start else None
    return TrainRequest(
        stage=Stage.VIDEO, owner="o", run="r", attempt=1, config=config, seed=seed, data=settings.data, start=start,
        tuning=config.tuning.evolve(learning_rate=rate), schedule=LearningRateSchedule(start=0, end=end),
        stop_at=stop_at, ahead=ahead, resume=resume, checkpoint=str(checkpoints / f"{start}-{stop_at}"),
    )  # fmt: skip


@pytest.mark.parametrize("following", FOLLOWING)
def test_whatever_is_asked_for_next_is_computed_as_if_nothing_had_been_done_ahead(
    root: Path, worker: Worker, following: str
) -> None:
    first = worker.train(request(root, 0, 3, ahead=3))
    worker.get_ready(lambda: False)
    found = worker.train(request(root, before=first["sha256"], **FOLLOWING[following]))
    asked = at_work().train(request(root, before=first["sha256"], **FOLLOWING[following]))
    assert found["rows"] == asked["rows"]
    assert found["sha256"] == asked["sha256"]


def test_what_was_done_ahead_is_not_done_again(root: Path, worker: Worker) -> None:
    first = worker.train(request(root, 0, 3, ahead=3))
    worker.get_ready(lambda: False)
    trained: list[tuple[int, int]] = []
    assert worker.live is not None
    train = worker.live.trainer.train
    worker.live.trainer.train = lambda *given: trained.append(given[:2]) or train(*given)  # type: ignore[assignment,func-returns-value]
    assert len(worker.train(request(root, 3, 7, first["sha256"], ahead=1))["rows"]) == 4
    assert trained[0] == (6, 7)


def test_asked_to_stop_it_does_nothing_ahead_and_keeps_what_it_has(root: Path, worker: Worker) -> None:
    first = worker.train(request(root, 0, 3, ahead=2))
    worker.get_ready(lambda: False)
    worker.stop.set()
    saved = worker.train(request(root, 3, 9, first["sha256"], ahead=2))
    assert saved["completed"] == 5
    with pytest.raises(Stopped):
        worker.train(request(root, 5, 9, saved["sha256"]).evolve(resume=None, start=0))


def test_nothing_is_done_ahead_where_an_update_takes_its_time(
    root: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiw_fsm.engines.native.live_trainer.AHEAD_SECONDS", 0.0)
    first = worker.train(request(root, 0, 3, ahead=3))
    worker.get_ready(lambda: pytest.fail("it is asked only before it does an update"))
    assert isinstance(worker.live, LiveTrainer)
    assert worker.live.is_at(request(root, 3, 4, first["sha256"], rate=1e-5))
