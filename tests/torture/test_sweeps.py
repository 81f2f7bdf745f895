"""Killed between a commit and the removal of the pictures it lets go: none stays behind, none that is named goes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.amounts import Amount
from tests.support.configs import LENIENT, merged
from tests.support.torture.bench import Bench, Setup, spread
from tests.support.torture.launch import Fault, Launcher
from tiw_fsm.errors import ExitCode
from tiw_fsm.storage.picture_sweep import CHUNKS

MANY_PICTURES = Setup(
    ("run", "--engine", "simulated", "--max-inference-retries", "9"),
    {
        "loop": merged(LENIENT, {"checkpoint_interval": 10, "chunks": {"video_tokenizer": 10}}),
        "video_tokenizer": {"n_updates": 110, "log_interval": 10},
    },
    {"mse": [0.5]},
    ends=ExitCode.NOT_PASSED,
)
"""Eleven chunks of one stage, and ten inference attempts, the first of them the best."""


@pytest.fixture(scope="module")
def bench(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(launcher, tmp_path_factory.mktemp("sweeps"), MANY_PICTURES)


def letting_go(bench: Bench) -> list[int]:
    """Generations that name other pictures than the one before, when there have been many."""
    named = [_attempts(state) for state in bench.states]
    inferred = [n for n in range(1, len(named)) if named[n - 1] - named[n]]
    chunks = [
        n
        for n, state in enumerate(bench.states)
        if state.get("state") == "TRAIN_VIDEO" and state["stages"]["video_tokenizer"]["attempt"] > CHUNKS
    ]
    return [*inferred, *chunks]


def _attempts(state: dict[str, object]) -> set[int]:
    inference = state.get("inference", {})
    assert isinstance(inference, dict)
    best = [inference["best"]] if inference.get("best") else []
    return {attempt["number"] for attempt in [*inference.get("attempts", []), *best]}


def troubles(bench: Bench, generation: int) -> list[str]:
    """Of a run that dies right after it has committed ``generation``, and of the next one."""
    found = bench.killed(Fault("marked", generation))
    inferred = {path.name for path in (bench.root / "inference_results").glob("*.png")}
    run = bench.store.load()
    assert run is not None
    attempts = [*run.inference.attempts, *([run.inference.best] if run.inference.best else [])]
    named = {Path(attempt.png).name for attempt in attempts if attempt.png}
    return [*found, *(f"{name} is not named and stays" for name in inferred - named), *(named - inferred)]


def test_no_picture_stays_behind_and_none_that_is_named_goes(
    bench: Bench, amount: Amount, figures: Counter[str]
) -> None:
    tried = letting_go(bench)
    assert len(tried) > 2
    for number in spread(len(tried), amount(2, 0.5)):
        assert troubles(bench, tried[number - 1]) == []
        figures["kills before a picture was removed"] += 1


def test_pictures_that_the_next_start_forgets_would_be_noticed(bench: Bench) -> None:
    forgetful = bench.in_variant("leftovers_forgotten")
    assert any("stays" in trouble for trouble in troubles(forgetful, letting_go(bench)[0]))
