"""What holds for every engine: one suite for all, through the command line, with processes really killed.

``make test-checkout CHECKOUT=path`` runs it over a real TinyWorlds checkout.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import h5py
import pytest
import torch

from tests.support.amounts import whole_too
from tests.support.backends import Backend, Miniature, Native, Real, Simulated
from tests.support.checkout.miniature import DIALECTS
from tests.support.settings import settings_of
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.states import State
from tiw_fsm.stages import Stage
from tiw_fsm.tinyworlds.objectives import make_model
from tiw_fsm.tinyworlds.training import load_weights

WITH_WEIGHTS = ("native", *DIALECTS, "real")
"""Engines that compute something; the simulated one's checkpoints hold no weights."""
SPARED = {*DIALECTS} - {"middle"}
"""Not in the short form, where the checkout whose stages count updates in both ways stands for all of them; the others
pass in ``checkout/test_runs.py``."""
Begin = Callable[[Path], Backend]
ALWAYS_REJECTED = {"from_update": 0, "verdicts": {"retune": {"final": {"min": 0.0}}, "continue": {}}}
INTERRUPTIONS = [
    (State.TRAIN_VIDEO, signal.SIGKILL),
    (State.TRAIN_LATENT, signal.SIGTERM),
    (State.TRAIN_DYNAMICS, signal.SIGKILL),
    (State.INFER, signal.SIGKILL),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "begin" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("engines")
        names = ["real"] if metafunc.config.getoption("--checkout") else ["simulated", "native", *DIALECTS]
        spared = SPARED.union(only.kwargs.get("whole", ())) if only else SPARED
        chosen = [whole_too(name) if name in spared else name for name in names if only is None or name in only.args]
        metafunc.parametrize("begin", chosen, indirect=True, scope="session")


@pytest.fixture(scope="session")
def begin(request: pytest.FixtureRequest) -> Begin:
    """Lays out a root for an engine."""
    name = request.param
    if name == "simulated":
        launcher = request.getfixturevalue("launcher")
        return lambda root: Simulated(root, launcher).prepare()
    if name == "native":
        return lambda root: Native(root).prepare()
    if name == "real":
        source = Path(request.config.getoption("--checkout")).absolute()
        python = request.config.getoption("--checkout-python") or source / ".venv/bin/python"
        frames = request.getfixturevalue("recorded")
        return lambda root: Real(root, source, Path(python).absolute(), frames).prepare()
    templates = request.getfixturevalue("templates")
    return lambda root: Miniature(root, name, templates).prepare()


@pytest.fixture
def backend(begin: Begin, tmp_path: Path) -> Backend:
    """An engine in a root of its own."""
    return begin(tmp_path)


@pytest.fixture(scope="session")
def passed(begin: Begin, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    """An engine whose run has passed undisturbed; not to be changed."""
    backend = begin(tmp_path_factory.mktemp("passed"))
    done = backend.run()
    assert done.returncode == 0, done.stderr
    return backend


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of a real game, small ones."""
    path = tmp_path_factory.mktemp("recorded") / "frames.h5"
    size = str(Real.SMALL["frame_size"])
    command = [sys.executable, "-m", "tiw_fsm", "record", str(path), "--frames", "3000", "--size", size]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


def rows_are_whole(backend: Backend) -> bool:
    """Each update up to the committed one has its row: none is missing, none is there twice."""
    return all(
        [row["update"] for row in backend.rows(stage)] == list(range(progress.completed))
        for stage, progress in backend.state.stages.items()
    )


def test_a_run_passes_and_all_that_it_names_is_there(passed: Backend) -> None:
    status = json.loads(passed.call("status", "--json").stdout)
    assert (status["state"], status["outcome"], status["alive"]) == ("PASSED", "passed", False)
    for progress in status["stages"].values():
        assert progress["completed"] >= progress["target"] == passed.target
        assert (progress["retries"], progress["crashes"]) == (0, 0)
        assert Path(progress["checkpoint"]["path"]).is_dir()
    (attempt,) = status["inference"]["attempts"]
    assert attempt["passed"]
    assert all(attempt["conditions"].values())
    assert set(attempt["baselines"]) == {"copy_last", "mean_frame", "blurred_last"}
    assert Path(attempt["png"]).is_file()
    assert all(Path(report).is_file() for report in passed.state.reports)
    assert rows_are_whole(passed)
    verified = passed.call("verify")
    assert verified.returncode == 0, verified.stdout
    assert not list(passed.root.rglob("*.set-aside-*"))


def test_started_again_a_passed_run_does_nothing(passed: Backend) -> None:
    before = passed.state.generation
    assert passed.call("run").returncode == ExitCode.PASSED
    assert passed.state.generation == before


@pytest.mark.engines("simulated", "native", "middle", "real", whole=["native", "middle"])
def test_interrupted_in_every_state_a_run_ends_as_if_nobody_had_touched_it(backend: Backend, passed: Backend) -> None:
    """Killed while it trains and while it infers, and asked to stop: each start goes on from what was saved."""
    for moment, number in INTERRUPTIONS:
        backend.interrupt(moment, number)
    done = backend.call("run")
    assert done.returncode == ExitCode.PASSED, done.stderr
    state = backend.state
    assert state.interruptions == len(INTERRUPTIONS)
    assert [(p.retries, p.crashes) for p in state.stages.values()] == [(0, 0)] * 3
    assert state.retunes == 0
    assert rows_are_whole(backend)
    verified = backend.call("verify")
    assert verified.returncode == 0, verified.stdout
    if backend.saves_within_chunk:
        saved = {(facts["stage"], facts["completed"]) for facts in backend.journal("saved")}
        within = {stage for stage, completed in saved if 1 < completed < backend.chunk}
        assert within == {Stage.VIDEO, Stage.LATENT, Stage.DYNAMICS}
    if backend.exact:
        assert backend.digests() == passed.digests()


@pytest.mark.engines("simulated", "native", *DIALECTS, "real", whole=["middle"])
def test_a_failed_gate_retunes_at_the_rate_it_says_and_a_raised_threshold_passes(backend: Backend) -> None:
    """The optimizer really uses the lower rate, though dynamics' checkpoint holds the old one."""
    strict = ("--max-mse", "1e-9", "--max-inference-retries", "1", "--retry-init-learning-rate", "0.0001")
    done = backend.run(*strict)
    assert done.returncode == ExitCode.NOT_PASSED, done.stderr
    state = backend.state
    assert [attempt.passed for attempt in state.inference.attempts] == [False, False]
    dynamics = state.stages[Stage.DYNAMICS]
    assert dynamics.completed >= backend.target + backend.chunk
    rates = [row["learning_rate"] for row in backend.rows(Stage.DYNAMICS)]
    began = len(rates) - backend.chunk
    assert max(rates[:began]) > 2 * dynamics.tuning.learning_rate
    assert 0 < max(rates[began:]) <= dynamics.tuning.learning_rate * (1 + 1e-6) <= 0.0001 * (1 + 1e-6)
    assert not any("undid the retune" in note for facts in backend.journal("saved") for note in facts.get("notes", ()))
    raised = backend.call("run", "--max-mse", "0.9")
    assert raised.returncode == ExitCode.PASSED, raised.stderr
    assert backend.state.stages[Stage.DYNAMICS].completed == dynamics.completed


def test_a_rejected_chunk_is_repeated_at_a_lower_rate_until_its_budget_is_used_up(backend: Backend) -> None:
    """Its loss is the undivided one: more accumulation, which the tokenizer's ladder takes, does not lower it."""
    backend.configure({"loop": {"gates": {"video_tokenizer": ALWAYS_REJECTED}}})
    done = backend.run("--max-train-retries", "1")
    assert done.returncode == ExitCode.NOT_PASSED, done.stderr
    state = backend.state
    assert state.budget_used == "max_train_retries"
    assert all(Path(report).is_file() for report in state.reports)
    rejected = backend.journal("rejected")
    assert [facts["attempt"] for facts in rejected] == [1, 2]
    first, second = (facts["tuning"] for facts in rejected)
    assert second["learning_rate"] == pytest.approx(first["learning_rate"] / 2)
    assert second["gradient_accumulation_steps"] == first["gradient_accumulation_steps"] + 1
    attempts = [[row for row in backend.rows(Stage.VIDEO) if row["attempt"] == n] for n in (1, 2)]
    assert max(row["learning_rate"] for row in attempts[1]) <= second["learning_rate"] * (1 + 1e-6)
    assert attempts[1][0]["loss"] > 0.7 * attempts[0][0]["loss"]
    assert all(math.isfinite(row["loss"]) for rows in attempts for row in rows)


def test_misaligned_configs_are_refused_and_nothing_begins(backend: Backend) -> None:
    backend.configure({"dynamics": {"num_blocks": 3}})
    done = backend.run()
    assert done.returncode == ExitCode.USAGE
    assert "give all stages one value" in done.stderr
    assert not (backend.root / "results").exists()
    assert not (backend.root / "state/default/state.json").exists()


@pytest.mark.engines(*WITH_WEIGHTS)
def test_what_it_trained_our_inference_takes(passed: Backend, tmp_path: Path) -> None:
    """As a warm start, judged alone, it gets the very figures that it got from our inference in its own run."""
    shutil.copytree(passed.root, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("results", "state"))
    ours = Native(tmp_path)
    done = ours.run("--train-stage", "none", *warm_start(passed), *passed.configs)
    assert done.returncode == ExitCode.PASSED, done.stderr
    before, now = passed.state.inference.attempts[-1], ours.state.inference.attempts[-1]
    assert now.mse == pytest.approx(before.own_mse or before.mse, abs=1e-6)
    assert now.baselines == pytest.approx(before.baselines, abs=1e-6)


@pytest.mark.engines(*DIALECTS, "real")
def test_what_our_engine_trained_its_inference_takes(backend: Backend, tmp_path: Path) -> None:
    ours = Native(tmp_path)
    done = ours.run(*backend.configs, "--run-root", "trained")
    assert done.returncode == ExitCode.PASSED, done.stderr
    trained = warm_start(ours)
    shutil.rmtree(tmp_path / "state")
    judged = backend.run("--train-stage", "none", *trained)
    assert judged.returncode == ExitCode.PASSED, judged.stderr
    attempt = backend.state.inference.attempts[-1]
    assert attempt.conditions["checkpoints_as_named"]
    assert attempt.mse is not None


@pytest.mark.engines("real")
@pytest.mark.parametrize("trained_by", ["checkout", "native"])
def test_the_same_weights_compute_the_same_there_and_here(passed: Backend, tmp_path: Path, trained_by: str) -> None:
    assert isinstance(passed, Real)
    folders = passed.checkpoints() if trained_by == "checkout" else trained_natively(passed, tmp_path)
    with h5py.File(passed.root / "data/pong_frames.h5") as file:
        frames = torch.from_numpy(file["frames"][1000:1048:4])
    clips = frames.unflatten(0, (3, 4)).permute(0, 1, 4, 2, 3) / 127.5 - 1
    theirs, ours = passed.computes(folders, clips), computes(passed.root, folders, clips)
    assert torch.equal(theirs["tokens"], ours["tokens"])
    assert torch.equal(theirs["actions"], ours["actions"])
    assert len(theirs["tokens"].unique()) > 1
    torch.testing.assert_close(theirs["frames"], ours["frames"], rtol=0, atol=1e-4)
    torch.testing.assert_close(theirs["logits"], ours["logits"], rtol=0, atol=1e-4)


def trained_natively(backend: Backend, root: Path) -> dict[Stage, str]:
    """Checkpoints of a run of our engine with a backend's configs and data, in a root of its own."""
    shutil.copytree(backend.root, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("results", "state"))
    ours = Native(root)
    done = ours.run(*backend.configs)
    assert done.returncode == ExitCode.PASSED, done.stderr
    return ours.checkpoints()


@torch.no_grad()
def computes(root: Path, folders: Mapping[Stage, str], frames: torch.Tensor) -> dict[str, torch.Tensor]:
    """What our models compute, as ``theirs.py`` says it of theirs."""
    settings = settings_of(root, config_dir="aligned")
    models = {stage: make_model(stage, settings.stages[stage]).eval() for stage in Stage}
    for stage, model in models.items():
        load_weights(model, Path(folders[stage]))
    tokenizer, latent_actions, dynamics = (cast(Any, models[stage]) for stage in Stage)
    latents, actions = tokenizer.encode(frames), latent_actions.encode(frames)
    return {
        "tokens": tokenizer.tokenize(frames),
        "frames": tokenizer.detokenize(latents),
        "actions": actions,
        "logits": dynamics(latents, actions),
    }


def warm_start(backend: Backend) -> list[str]:
    """The flags that hand a run's checkpoints to another."""
    flags = {
        Stage.VIDEO: "--video-checkpoint",
        Stage.LATENT: "--latent-checkpoint",
        Stage.DYNAMICS: "--dynamics-checkpoint",
    }
    return [word for stage, path in backend.checkpoints().items() for word in (flags[stage], path)]
