"""Runs of a miniature checkout: what is its own beside what holds for every engine (``tests/engines``)."""

from __future__ import annotations

import os
import stat
import sys
import time

import pytest

from tests.support.amounts import whole_too
from tests.support.checkout.checkout_runs import MakeCheckout, kill, processes_below
from tests.support.checkout.files.mini import LOSS
from tests.support.configs import write_frames
from tests.support.waiting import wait_for
from tiw_fsm.errors import ExitCode
from tiw_fsm.stages import Stage


@pytest.mark.parametrize("spoken", ["upstream", "middle", "newest"])
def test_a_run_passes_in_each_dialect_and_says_what_the_checkout_can_do(checkout: MakeCheckout, spoken: str) -> None:
    tiny = checkout(spoken)
    done = tiny.run()
    assert done.returncode == 0, done.stderr
    state = tiny.state
    assert state.fingerprint is not None
    assert state.fingerprint.dialect is not None
    absolute = {stage for stage, able in state.fingerprint.dialect["stages"].items() if able["absolute_updates"]}
    assert absolute == {"upstream": set(), "middle": {Stage.DYNAMICS}, "newest": set(Stage)}[spoken]
    attempt = state.inference.attempts[-1]
    assert attempt.mse == 0.01  # the script's own line
    assert attempt.own_mse not in (None, 0.01)
    assert attempt.baselines
    assert attempt.conditions["checkpoints_as_named"]
    for stage in Stage:
        updates = [row["update"] for row in tiny.rows(stage)]
        assert updates == list(range(state.stages[stage].completed))
        assert tiny.rows(stage)[0]["loss"] == pytest.approx(LOSS[stage])  # undivided by the accumulation
    notes = [note for facts in tiny.journal("saved") for note in facts.get("notes", ())]
    assert any("began afresh" in note for note in notes) == (spoken != "newest")
    given = tiny.asked("run_inference")[-1]
    assert ("seed" in given) == ("decode_steps" in given) == (spoken == "newest")


@pytest.mark.parametrize("spoken", ["upstream", whole_too("newest")])
def test_a_killed_run_resumes_inside_the_interrupted_chunk(checkout: MakeCheckout, spoken: str) -> None:
    """The script dies with the controller; what it had saved is published, and only the rest is trained."""
    tiny = checkout(spoken, {"loop": {"chunks": {"video_tokenizer": 40}}, "video_tokenizer": {"n_updates": 40}})
    tiny.faults({"what": "slow", "stage": "video_tokenizer", "seconds": 0.1})
    runner = tiny.start()
    tiny.wait_for("results/default/video_tokenizer/attempts/*/process_1/video_tokenizer/**/*_step_10/state.pt")
    time.sleep(0.3)
    kill(runner)
    wait_for("the end of the script", lambda: not processes_below(tiny.root), 8)
    tiny.faults()
    done = tiny.run()
    assert done.returncode == 0, done.stderr
    first, *_ = tiny.journal("saved")
    assert first["completed"] == 11
    assert any("repeated" in note for note in first["notes"])
    assert "are repeated" in tiny.call("history").stdout
    starts = tiny.asked("train_video")
    assert len(starts) == 2
    if spoken == "newest":
        assert starts[1]["n_updates"] == "40"
        assert starts[1]["checkpoint"].endswith("step_10")
    else:
        assert int(starts[1]["n_updates"]) >= 29


def test_a_torn_checkpoint_is_named_and_never_loaded(checkout: MakeCheckout) -> None:
    tiny = checkout("newest", {"loop": {"chunks": {"video_tokenizer": 20}}})
    tiny.faults({"what": "tear", "stage": "video_tokenizer", "at": 10, "times": 1})
    done = tiny.run()
    assert done.returncode == 0, done.stderr
    torn = next(tiny.root.glob("results/default/video_tokenizer/attempts/*/process_1/**/*_step_10"))
    assert torn.is_dir()
    (crash,) = tiny.journal("crashed")
    assert "killed while saving" in crash["error"]
    notes = [note for facts in tiny.journal("saved") for note in facts.get("notes", ())]
    assert any(str(torn) in note and "not complete" in note for note in notes)
    assert [given["checkpoint"].rpartition("_")[2] for given in tiny.asked("train_video")] == ["null", "5"]


def test_a_silent_fall_back_fails_the_gate_with_that_reason(checkout: MakeCheckout) -> None:
    tiny = checkout()
    tiny.faults({"what": "fall_back", "stage": "dynamics"})
    done = tiny.run("--max-inference-retries", "0")
    assert done.returncode == 1
    attempt = tiny.state.inference.attempts[-1]
    assert [name for name, held in attempt.conditions.items() if not held] == ["checkpoints_as_named"]
    assert "fell back" in tiny.journal("gate_failed")[-1]["error"]
    assert "fell back" in done.stderr


@pytest.mark.whole
def test_faults_of_scripts_are_told_apart(checkout: MakeCheckout) -> None:
    """NaN rejects the chunk, running out of memory halves the batch, a hang is ended and counted as a crash."""
    tiny = checkout(changes={"loop": {"max_silence": 15}})  # our own inference is silent while it imports torch
    tiny.faults(
        {"what": "nan", "stage": "video_tokenizer", "at": 3, "times": 1},
        {"what": "oom", "stage": "latent_actions", "above": 2},
        {"what": "hang", "stage": "dynamics", "at": 2, "times": 1},
    )
    done = tiny.run()
    assert done.returncode == 0, done.stderr
    assert "not finite" in tiny.journal("rejected")[0]["reason"]
    assert tiny.state.stages[Stage.VIDEO].tuning.learning_rate < 0.003
    (oom,) = tiny.journal("out_of_memory")
    assert "CUDA out of memory" in oom["error"]
    assert tiny.state.stages[Stage.LATENT].tuning.batch_size_per_gpu == 2
    (hang,) = tiny.journal("crashed")
    assert "no sign of life" in hang["error"]


def test_an_error_shows_the_last_lines_of_the_script_that_failed(checkout: MakeCheckout) -> None:
    tiny = checkout()
    tiny.faults({"what": "crash", "stage": "video_tokenizer", "at": 0})
    done = tiny.run("--max-crashes", "0")
    assert done.returncode == 1
    assert "RuntimeError: made to crash" in done.stderr
    assert "made to crash" in (tiny.root / "state/default/child.log").read_text()


@pytest.mark.whole
def test_several_processes_go_through_torchrun(checkout: MakeCheckout) -> None:
    """The command line, recorded by a stand-in that runs the script in one process."""
    tiny = checkout()
    torchrun = tiny.root / "torchrun"
    torchrun.write_text(
        f"#!{sys.executable}\nimport os, sys\nopen('torchrun.log', 'a').write(' '.join(sys.argv[1:]) + chr(10))\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[3:]])\n"
    )
    torchrun.chmod(torchrun.stat().st_mode | stat.S_IXUSR)
    done = tiny.run("--device", "cuda", "--torchrun", "./torchrun", "--nproc-per-node", "2", "--max-mse", "0.03")
    assert done.returncode == 0, done.stderr
    first = (tiny.root / "torchrun.log").read_text().splitlines()[0].split()
    assert first[:3] == ["--standalone", "--nproc_per_node=2", "scripts/train_video_tokenizer.py"]
    assert {"nproc_per_node=2", "distributed.use_ddp=true", "distributed.use_fsdp=false", "device=cuda"} <= set(first)
    assert tiny.state.fingerprint is not None
    assert tiny.state.fingerprint.processes == 2
    assert os.environ.get("WANDB_MODE") is None


def test_frames_replaced_while_a_script_reads_them_are_not_trained_on(checkout: MakeCheckout) -> None:
    """The script ends well, and what it made is not published; with the old frames the run goes on."""
    tiny = checkout("newest")
    path = tiny.root / "data/pong_frames.h5"
    tiny.faults({"what": "slow", "stage": "video_tokenizer", "seconds": 0.1})
    runner = tiny.start()
    tiny.wait_for("results/default/video_tokenizer/attempts/*/process_1/video_tokenizer/**/state.pt")
    old = path.read_bytes()
    write_frames(path, seed=1)
    assert runner.wait(60) == ExitCode.CHANGED
    assert "the frames in use are not those the run began with" in (tiny.root / "started.log").read_text()
    assert tiny.state.stages[Stage.VIDEO].completed == 0
    path.write_bytes(old)
    tiny.faults()
    assert tiny.run().returncode == ExitCode.PASSED
    assert tiny.journal("saved")[0].get("notes", []) == [], "nothing that the first script left was taken up"


@pytest.mark.whole
def test_what_is_set_for_a_file_is_told_to_the_script_that_reads_it(checkout: MakeCheckout) -> None:
    tiny = checkout()
    words = ("training.amp=false", "dynamics.amp=true", "training.run_dynamics=true", "inference.fps=8")
    done = tiny.run(*(each for word in words for each in ("--set", word)))
    assert done.returncode == 0, done.stderr
    video, dynamics, inference = (tiny.asked(script)[0] for script in ("train_video", "train_dyn", "run_inference"))
    assert (video["amp"], dynamics["amp"]) == ("false", "true")
    assert "run_dynamics" not in dynamics
    assert inference["fps"] == "8"
