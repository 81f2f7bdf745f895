"""A run in several processes computes what one process computes, and goes on in another number of them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.amounts import whole_too
from tests.support.configs import LENIENT, write_configs, write_frames
from tests.support.native_runs import PASSING, digests, start, wait_for_generation
from tests.support.processes import Tiw
from tiw_fsm.errors import ExitCode
from tiw_fsm.stages import Stage

STAGE_NAMES = tuple(stage.value for stage in Stage)
UPDATES = 50
RETUNED = 10
"""Updates of dynamics beyond them."""
NEVER_PASSING = ("--max-mse", "1e-6", "--max-inference-retries", "1", "--allow-trivial")
TWO = ("--nproc-per-node", "2")


def make_root(root: Path, batch: int, *, accumulation: int = 2, **training: Any) -> Path:
    """A working root in which each stage has ``UPDATES`` updates, and dynamics a few more by a retune.

    They are small ones: a token that another rounding turns into its neighbour is then no other course of training.
    """
    stage = {
        "n_updates": UPDATES,
        "learning_rate": 3e-4,
        "batch_size_per_gpu": batch,
        "gradient_accumulation_steps": accumulation,
    }
    write_configs(
        root / "configs",
        {
            **dict.fromkeys(STAGE_NAMES, stage),
            "training": training,
            "loop": {**LENIENT, "checkpoint_interval": 25, "retune": {"chunk": RETUNED, "init_learning_rate": 3e-4}},
        },
    )
    write_frames(root / "frames.h5")
    return root


def losses(root: Path, stage: str, run: str = "default") -> list[float]:
    lines = (root / f"results/{run}/{stage}/metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def state(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "state/default/state.json").read_text())
    return found


@pytest.fixture
def alone(tmp_path: Path, tiw: Tiw) -> Path:
    """A run of one process on the global batch, that fails its gate and is retuned once."""
    root = make_root(tmp_path / "alone", batch=8)
    done = tiw(root, "run", *NEVER_PASSING)
    assert done.returncode == ExitCode.NOT_PASSED, done.stderr
    return root


@pytest.mark.parametrize("sharded", [False, whole_too(True)])
def test_two_processes_compute_what_one_computes_on_the_global_batch(
    alone: Path, tmp_path: Path, tiw: Tiw, sharded: bool
) -> None:
    """Dynamics are trained against the very same tokenizer and actions: with others, a token here and there is another
    one, whoever computes."""
    root = make_root(tmp_path / "two", batch=4, distributed={"use_fsdp": sharded})
    trained = {stage: alone / f"results/default/{stage}/checkpoints" for stage in STAGE_NAMES}
    done = tiw(root, "run", *NEVER_PASSING, *TWO, "--max-inference-retries", "0")
    assert done.returncode == ExitCode.NOT_PASSED, done.stderr
    last = tiw(
        root,
        *("run", "--run", "last", *NEVER_PASSING, *TWO, "--train-stage", "dynamics"),
        *("--video-checkpoint", trained["video_tokenizer"], "--latent-checkpoint", trained["latent_actions"]),
    )
    assert last.returncode == ExitCode.NOT_PASSED, last.stderr
    for run, stage in (("default", "video_tokenizer"), ("default", "latent_actions"), ("last", "dynamics")):
        expected = losses(alone, stage)
        assert len(expected) == UPDATES + (RETUNED if stage == "dynamics" else 0)
        assert losses(root, stage, run) == pytest.approx(expected, rel=1e-4)
    assert state(root)["fingerprint"]["processes"] == 2
    assert state(root)["fingerprint"]["sharded"] == sharded
    assert state(root)["hosts"][0]["processes"] == 2


@pytest.mark.whole
def test_a_run_goes_on_in_another_number_of_processes_and_says_from_where(tmp_path: Path, tiw: Tiw) -> None:
    root = make_root(tmp_path, batch=4, n_updates=30)
    run = start(root, *PASSING, *TWO)
    wait_for_generation(root, 2, run)
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) == ExitCode.INTERRUPTED
    refused = tiw(root, "run", "--nproc-per-node", "1", "--require-exact")
    assert refused.returncode == ExitCode.CHANGED
    assert "processes: 2 → 1" in refused.stderr
    unfit = tiw(root, "run", "--nproc-per-node", "3")
    assert unfit.returncode == ExitCode.USAGE
    assert "these numbers, of all of them, can: 1, 2, 4, 8, 16" in unfit.stderr
    done = tiw(root, "run", "--nproc-per-node", "1")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert "the global batch of 16 clips is 4 × 4 in each" in done.stderr
    found = state(root)
    assert [entry["what"] for entry in found["inexact"]] == ["processes: 2 → 1"]
    assert found["processes"] == 2
    assert "processes: 2 → 1" in tiw(root, "history").stdout


def test_without_gpus_a_number_in_yaml_is_one_process_that_keeps_the_global_batch(
    tmp_path: Path, tiw: Tiw, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)  # as a launcher that is not ours leaves them
    root = make_root(tmp_path, batch=4, accumulation=1, nproc_per_node=4, n_updates=10)
    done = tiw(root, "run", *PASSING)
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert "1 of the 4 processes that the batch size is meant for" in done.stderr
    assert "the global batch of 16 clips is 4 × 4 in each" in done.stderr
    assert state(root)["processes"] == 4
    assert state(root)["fingerprint"]["processes"] == 1


@pytest.mark.whole
def test_a_run_moves_between_sharded_replicated_and_one_process(tmp_path: Path, tiw: Tiw) -> None:
    root = make_root(tmp_path, batch=4, distributed={"use_fsdp": True})
    for generation, flags in ((3, TWO), (5, TWO), (7, ("--nproc-per-node", "1"))):
        run = start(root, *PASSING, *flags)
        wait_for_generation(root, generation, run)
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == ExitCode.INTERRUPTED
        config = root / "configs/training.yaml"
        config.write_text(config.read_text().replace("use_fsdp: true", "use_fsdp: false"))
    done = tiw(root, "run", "--nproc-per-node", "4")
    assert done.returncode == ExitCode.PASSED, done.stderr
    what = [entry["what"] for entry in state(root)["inexact"]]
    assert what == ["sharded: True → False", "processes: 2 → 1", "processes: 1 → 4"]


@pytest.mark.whole
def test_a_replay_makes_what_two_processes_made(tmp_path: Path, tiw: Tiw) -> None:
    root = make_root(tmp_path, batch=4, n_updates=30)
    assert tiw(root, "run", *PASSING, *TWO).returncode == ExitCode.PASSED
    before = digests(tiw, root)
    done = tiw(root, "verify", "--replay", "--stage", "dynamics")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bitwise equal" in done.stdout
    assert digests(tiw, root) == before
