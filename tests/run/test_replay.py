"""``tiw-fsm verify --replay``: computed once more, the run comes out the same; and if it does not, it is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.configs import write_configs
from tests.support.eventful import die_in_dynamics
from tests.support.forging import Forger
from tests.support.native_runs import PASSING, make_root, start, wait_for_generation
from tests.support.processes import Tiw, children
from tests.support.simulation import Given, Simulation
from tests.support.waiting import wait_for
from tiw_fsm.engines.protocol import TrainRequest
from tiw_fsm.engines.simulated import Script, SimulatedEngine
from tiw_fsm.errors import ExitCode
from tiw_fsm.run.workshop import RunWentOn, held
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoints

SECOND_CHECKPOINT = 3
"""The generation that has it: ALIGN's commit is the first."""


class Native(NamedTuple):
    root: Path
    beside: subprocess.CompletedProcess[str]
    """A replay while a runner was at work."""


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    """A run that somebody looked at while it trained, that was told to stop in the middle, and that went on."""
    root = make_root(tmp_path_factory.mktemp("native") / "root")
    runner = start(root, *PASSING)
    wait_for_generation(root, SECOND_CHECKPOINT, runner)
    beside = verify(root, "--replay", "--stage", "video_tokenizer", "--json")
    runner.terminate()
    assert runner.wait() in (ExitCode.INTERRUPTED, ExitCode.PASSED)
    assert start(root, *PASSING).wait() == ExitCode.PASSED
    return Native(root, beside)


@pytest.fixture
def forger(native: Native, tmp_path: Path) -> Forger:
    """A copy of that run, to be altered."""
    shutil.copytree(native.root, tmp_path / "copy")
    return Forger(tmp_path / "copy")


def verify(root: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tiw_fsm", "verify", *flags],
        cwd=root,
        env=os.environ | {"COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
    )


def replayed(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """What a replay with --json found, by the first word of what it was."""
    found = {entry["what"].split()[0]: entry for entry in json.loads(done.stdout or "[]") if "replayed" in entry}
    assert found, done.stdout + done.stderr
    return found


def files(root: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


def test_what_is_computed_once_more_is_bitwise_the_same_changes_nothing_and_leaves_nothing(
    native: Native, tmp_path: Path
) -> None:
    before = files(native.root)
    arguments = [sys.executable, "-m", "tiw_fsm", "verify", "--replay", "--json"]

    def left() -> list[Path]:
        return list(tmp_path.glob("tiw-fsm-*"))

    def begun() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(arguments, cwd=native.root, env=os.environ | {"TMPDIR": str(tmp_path)})
        wait_for("the training process", lambda: children(process.pid) and any(tmp_path.glob("*/child.log")), 60)
        return process

    stopped = begun()
    stopped.send_signal(signal.SIGINT)
    assert (stopped.wait(), left()) == (ExitCode.INTERRUPTED, [])
    killed = begun()
    killed.kill()
    killed.wait()
    assert len(left()) == 1
    done = verify(native.root, "--replay", "--json", TMPDIR=str(tmp_path))
    assert (done.returncode, left()) == (ExitCode.PASSED, [])
    found = replayed(done)
    assert {part: (entry["equal"], entry["replayed"]) for part, entry in found.items()} == {
        "video_tokenizer": ("bitwise", 5),
        "latent_actions": ("bitwise", 5),
        "dynamics": ("bitwise", 5),
        "inference": ("bitwise", 4),
    }
    assert not any(entry["problems"] or entry["elsewhere"] for entry in found.values())
    assert files(native.root) == before


def test_beside_a_runner_at_work_a_replay_disturbs_nothing_and_says_what_it_could_see(native: Native) -> None:
    assert native.beside.returncode == ExitCode.PASSED, native.beside.stdout
    (found,) = replayed(native.beside).values()
    assert (found["equal"] in ("bitwise", None), found["problems"]) == (True, [])


def test_more_updates_than_are_kept_are_said_to_be_too_many(native: Native) -> None:
    done = verify(native.root, "--replay", "50", "--stage", "latent_actions")
    assert done.returncode == ExitCode.PASSED
    assert "5 updates, 5 to 9 (of the last 50" in done.stdout
    assert "bitwise equal" in done.stdout


@pytest.mark.whole
def test_a_forged_weight_that_no_hash_tells_is_found_out_and_elsewhere_is_within_the_tolerance(forger: Forger) -> None:
    tensor = forger.weight(Stage.DYNAMICS)
    forger.metric(Stage.VIDEO)
    assert verify(forger.root).returncode == ExitCode.PASSED
    done = verify(forger.root, "--replay", "--json")
    assert done.returncode == ExitCode.DAMAGED
    found = replayed(done)
    assert [found[part]["equal"] for part in ("video_tokenizer", "latent_actions", "dynamics")] == [
        "no",
        "bitwise",
        "no",
    ]
    (problem,) = found["dynamics"]["problems"]
    assert f"NOT equal, first in model_state_dict.{tensor}; largest difference" in problem
    assert "first in metrics.update 19.loss" in found["video_tokenizer"]["problems"][0]

    forger.device()
    done = verify(forger.root, "--replay", "--stage", "dynamics")
    assert done.returncode == ExitCode.PASSED, done.stdout
    assert "equal to a tolerance, first in model_state_dict" in done.stdout
    assert "this machine differs: device: ???" in done.stdout


def test_a_forged_figure_of_an_inference_attempt_is_found_out(forger: Forger) -> None:
    forger.figure()
    assert verify(forger.root).returncode == ExitCode.PASSED
    done = verify(forger.root, "--replay", "--stage", "inference")
    assert done.returncode == ExitCode.DAMAGED
    assert "first in result.mse" in done.stdout
    assert "first in verdict.mse" in done.stdout


def test_with_other_frames_a_replay_proves_nothing(forger: Forger) -> None:
    (forger.root / "frames.h5").write_bytes((forger.root / "frames.h5").read_bytes() + b"more")
    done = verify(forger.root, "--replay")
    assert done.returncode == ExitCode.CHANGED
    assert "a replay proves nothing" in done.stderr
    assert "the frames file: SHA-256" in done.stderr


# --- on the simulated engine ------------------------------------------------------------------------------------


def test_an_eventful_run_comes_out_the_same(simulation: Simulation) -> None:
    """A rejected chunk, a crash, a halved batch, a failed inference; the last of everything is what it always is."""
    script = Script(
        losses={Stage.VIDEO: [0.005, 0.5, 0.005]},
        crashes={Stage.LATENT: 1},
        out_of_memory={Stage.DYNAMICS: 1},
        mse=[0.5, 0.01],
    )
    assert simulation.run(script) == ExitCode.PASSED
    assert {"rejected", "crashed", "out_of_memory", "retuned"} <= set(simulation.events())
    found = replayed(verify(simulation.root, "--replay", "--json"))
    assert [entry["equal"] for entry in found.values()] == ["bitwise"] * 4
    for stage, progress in simulation.state.stages.items():
        folder = simulation.root / "results/default" / stage / "checkpoints"
        named = {Path(ref.path).name for ref in progress.named_checkpoints()}
        assert ({path.name for path in folder.iterdir()}, len(named)) == (named, 2)


class Stopping(SimulatedEngine):
    """Saves once in the middle of a piece, as when it is told to stop there."""

    at = 17

    def train(self, request: TrainRequest, progress: Any) -> Any:
        if request.start < self.at < request.stop_at:
            request = request.evolve(stop_at=self.at)
        return super().train(request, progress)


def test_a_save_in_between_is_not_remembered(simulation: Simulation) -> None:
    """So a run keeps the same files, interrupted or not."""
    simulation.run_with(Stopping())
    made = simulation.state.stages[Stage.VIDEO].made
    assert made is not None
    assert (made.start, made.resume and made.resume.completed) == (15, 15)


@pytest.mark.parametrize(
    ("first", "equal", "said"),
    [
        ({}, "bitwise", "dynamics.learning_rate"),
        ({"device": "another"}, "bitwise", "device: another → simulated"),
        ({"torch": "old"}, None, "made before a change was taken in (torch: old → simulated)"),
    ],
    ids=["config", "device", "torch"],
)
def test_what_was_made_before_a_change_is_made_as_it_was_then(
    simulation: Simulation, tiw: Tiw, first: dict[str, str], equal: str | None, said: str
) -> None:
    """The tokenizer on one machine, with one torch; dynamics after that on another, and at another rate."""
    die_in_dynamics(simulation, script=Script(**first))  # type: ignore[arg-type]
    write_configs(simulation.root / "configs", {"dynamics": {"learning_rate": 0.001}})
    assert tiw(simulation.root, "run", "--engine", "simulated", "--accept-changes").returncode == ExitCode.PASSED
    assert any(said in str(line["facts"]) or equal is None for line in simulation.store.journal())
    found = replayed(verify(simulation.root, "--replay", "--json"))
    assert (found["video_tokenizer"]["equal"], found["dynamics"]["equal"]) == (equal, "bitwise")
    assert found["video_tokenizer"]["elsewhere"] == ([said] if "device" in first else [])
    assert (said in found["video_tokenizer"]["said"]) == (equal is None)


class Unrepeatable(Given):
    replays = False


def test_an_engine_that_does_not_repeat_itself_has_nothing_kept_and_that_is_said(simulation: Simulation) -> None:
    simulation.run_as(Unrepeatable(SimulatedEngine()))
    assert all(progress.made is None for progress in simulation.state.stages.values())
    done = verify(simulation.root, "--replay", "--stage", "dynamics")
    assert done.returncode == ExitCode.PASSED
    assert "no checkpoint before the newest one is kept yet" in done.stdout
    assert "Nothing was replayed, so nothing is proved." in done.stdout


def test_a_run_that_has_not_begun_and_one_that_is_damaged_have_nothing_to_replay(simulation: Simulation) -> None:
    done = verify(simulation.root, "--replay")
    assert (done.returncode, "nothing is proved" in done.stdout) == (ExitCode.PASSED, True)
    simulation.run()
    ref = simulation.state.stages[Stage.VIDEO].made
    assert ref is not None
    assert ref.resume is not None
    (Path(ref.resume.path) / checkpoints.MANIFEST).unlink()
    (Path(ref.resume.path) / checkpoints.FILES[0]).write_text("rotten")
    done = verify(simulation.root, "--replay")
    assert (done.returncode, "kept for --replay alone" in done.stdout) == (ExitCode.DAMAGED, True)
    assert "Nothing was replayed, so nothing is proved." in done.stdout


@pytest.mark.parametrize("wrong", [["--replay", "x"], ["--replay", "-1"], ["--replay", "--stage", "gate"]])
def test_what_cannot_be_replayed_is_refused(simulation: Simulation, wrong: list[str]) -> None:
    assert verify(simulation.root, *wrong).returncode == ExitCode.USAGE


def test_a_checkpoint_that_a_runner_swept_meanwhile_is_no_damage(simulation: Simulation, tmp_path: Path) -> None:
    """What the run no longer names may be gone, wholly or half, before it is linked: then it is looked for again."""
    simulation.run()
    newest = simulation.state.stages[Stage.VIDEO].checkpoint
    assert newest is not None
    kept = held(newest, tmp_path / "kept")
    shutil.rmtree(newest.path)
    assert held(newest, tmp_path / "kept") == kept
    with pytest.raises(RunWentOn):
        held(newest, tmp_path / "too late")
    Path(newest.path).mkdir()
    shutil.copy(Path(kept.path) / checkpoints.FILES[0], newest.path)
    with pytest.raises(RunWentOn):
        held(newest, tmp_path / "half of it")
