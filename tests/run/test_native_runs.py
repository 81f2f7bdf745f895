"""Tiny real runs of the native engine, as the user's document asks for them: training, gates, inference."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.configs import LENIENT, write_configs, write_frames
from tests.support.native_runs import PASSING
from tests.support.processes import Tiw
from tiw_fsm.config.loop import LoopConfig
from tiw_fsm.data import pictures
from tiw_fsm.engines.native import child
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm import inference_gate
from tiw_fsm.fsm.inference_gate import InferenceResult
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoints
from tiw_fsm.system import starter
from tiw_fsm.tinyworlds.learning_rate import learning_rate
from tiw_fsm.values.frozen import LearningRateSchedule


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working root whose run has passed."""
    root = tmp_path_factory.mktemp("finished")
    write_configs(root / "configs", {"loop": LENIENT})
    write_frames(root / "frames.h5")
    command = [sys.executable, "-m", "tiw_fsm", "run", *PASSING]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == ExitCode.PASSED, done.stderr
    return root


def status(tiw: Tiw, root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tiw(root, "status", "--json").stdout)
    return found


def rows(root: Path, stage: Stage) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "results/default" / stage / "metrics.jsonl").read_text().splitlines()]


def test_the_users_command_line_works_unchanged(finished: Path, root: Path, tiw: Tiw) -> None:
    """The seed's single command, with its checkpoints, on tiny frames; 20 updates instead of 200."""
    for folder in ("video_tokenizer", "latent_actions", "dynamics"):
        shutil.copytree(finished / "results/default" / folder, root / "results/old" / folder)
    (root / ".venv/bin").mkdir(parents=True)
    interpreter(root / ".venv/bin/python", "")
    done = tiw(
        root, "run", "--repo-root", ".", "--python-exec", "./.venv/bin/python", "--torchrun", "./.venv/bin/torchrun",
        "--train-stage", "all", "--video-checkpoint", "results/old/video_tokenizer/checkpoints",
        "--latent-checkpoint", "results/old/latent_actions/checkpoints",
        "--dynamics-checkpoint", "results/old/dynamics/checkpoints", "--video-chunk", "20", "--latent-chunk", "20",
        "--dynamics-chunk", "20", "--target-updates", "20", "--init-log-interval", "10", "--max-mse", "0.9",
        "--max-inference-retries", "2", "--allow-trivial",
    )  # fmt: skip
    assert done.returncode == ExitCode.PASSED, done.stderr
    stages = status(tiw, root)["stages"]
    counts = {stage: (progress["completed"], progress["target"]) for stage, progress in stages.items()}
    assert counts == {"video_tokenizer": (20, 20), "latent_actions": (20, 20), "dynamics": (40, 40)}
    assert len(list((root / "inference_results").glob("inference_results_gt_vs_pred_*.png"))) == 1
    reports = {path.name.rsplit("-", 1)[0] for path in (root / "docs/action").glob("*.md")}
    assert reports == {"train-to-inference-report", "train-to-inference-retrospective", "auto-training-loop-report"}


def interpreter(path: Path, before: str) -> None:
    """A script at ``path`` that does ``before`` and then is this interpreter."""
    path.write_text(f'#!/bin/sh\n{before}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)


def test_inference_alone_of_given_checkpoints(finished: Path, root: Path, tiw: Tiw) -> None:
    flags = [
        f"--{flag}-checkpoint={finished}/results/default/{stage}/checkpoints"
        for flag, stage in (("video", "video_tokenizer"), ("latent", "latent_actions"), ("dynamics", "dynamics"))
    ]
    done = tiw(root, "run", "--train-stage", "none", *flags, *PASSING)
    assert done.returncode == ExitCode.PASSED, done.stderr
    trained = [path.name for path in (root / "results/default").glob("*/*") if path.parent.name != "inference"]
    assert trained == ["warm_start"] * 3
    mine, theirs = (status(tiw, where)["inference"]["attempts"][0]["mse"] for where in (root, finished))
    assert mine == theirs, "the same checkpoints give the same figures"


def test_a_torch_without_muon_is_refused_with_a_remedy_before_anything_begins(root: Path, tiw: Tiw) -> None:
    (root / "old-torch").mkdir()
    (root / "old-torch/sitecustomize.py").write_text("import torch\ndel torch.optim.Muon\n")
    interpreter(root / "my-python", f"export PYTHONPATH={root}/old-torch")
    write_configs(root / "configs", {"training": {"optimizer": "muon"}, "loop": LENIENT})
    done = tiw(root, "run", "--python-exec", "my-python", *PASSING)
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert "use a torch from 2.9 on, or set optimizer: adamw" in done.stderr
    assert not (root / "state/default/state.json").exists()


def test_the_childs_interpreter_is_the_one_named(root: Path, tiw: Tiw) -> None:
    interpreter(root / "my-python", f'echo "$@" >> {root}/calls')
    assert tiw(root, "run", "--python-exec", "my-python", *PASSING).returncode == ExitCode.PASSED
    assert f"{starter.__file__} {child.__file__} " in (root / "calls").read_text()


def test_every_accepted_chunk_left_a_picture(finished: Path) -> None:
    for stage, chunks in ((Stage.VIDEO, 2), (Stage.LATENT, 1), (Stage.DYNAMICS, 2)):
        found = list((finished / "results/default" / stage / "visualizations").glob("*.png"))
        assert len(found) == chunks
        assert all(pictures.is_png(str(path)) for path in found)


def test_a_lowered_rate_is_in_force_and_stays_so(root: Path, tiw: Tiw) -> None:
    """Two retunes: the metrics file has the rates of the new peak over the retry chunk, also after resuming."""
    done = tiw(root, "run", "--max-mse", "0.0001", "--max-inference-retries", "1", "--retry-chunk", "10")
    assert done.returncode == ExitCode.NOT_PASSED
    done = tiw(root, "run", "--max-inference-retries", "2")
    assert done.returncode == ExitCode.NOT_PASSED
    by_update = {row["update"]: row["learning_rate"] for row in rows(root, Stage.DYNAMICS)}
    for start, peak in ((20, 0.0005), (30, 0.0005 * 0.7)):
        expected = [
            learning_rate(peak, LearningRateSchedule(start=start, end=start + 10), u) for u in range(start, start + 10)
        ]
        assert [by_update[update] for update in range(start, start + 10)] == pytest.approx(expected)
    saved = torch.load(
        Path(status(tiw, root)["stages"]["dynamics"]["checkpoint"]["path"]) / "optim_state_dict.pt", weights_only=True
    )
    assert saved["param_groups"][0]["lr"] == by_update[39], "the rate shown is the rate the optimizer used"


def result_of(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "results/default/inference/attempt_1.json").read_text())
    return found


def test_the_inference_log_has_the_lines_scripts_look_for(finished: Path) -> None:
    log = (finished / "results/default/inference/attempt_1.log").read_text()
    for stage in Stage:
        assert f"Using {stage} checkpoint: {finished}/results/default/{stage}/checkpoints/{stage}_step_" in log
    assert "Inferring frame 4/4" in log
    assert "Inference stats:" in log
    assert f"Mean Squared Error (GT vs Pred): {result_of(finished)['mse']:.6f}" in log


def test_the_figures_of_an_attempt_agree_with_each_other(finished: Path) -> None:
    result = result_of(finished)
    assert result["mse"] == pytest.approx(sum(result["mse_per_step"]) / 4)
    assert result["mse_with_context"] == pytest.approx(result["mse"] * 4 / 6), "two context frames have no error"
    for name, per_step in result["baselines_per_step"].items():
        assert result["baselines"][name] == pytest.approx(sum(per_step) / 4)
    assert result["frames_inferred"] == 4 * 2


BREAK: dict[str, tuple[dict[str, Any], str]] = {
    "inference failed": ({"status": "error"}, "run_succeeded"),
    "another checkpoint was used": (
        {"checkpoints": {stage.value: {"path": None, "sha256": "0"} for stage in Stage}},
        "checkpoints_as_named",
    ),
    "a frame is missing": ({"frames_inferred": 7}, "frames_inferred"),
    "there are no statistics": ({"statistics": {}}, "statistics_present"),
    "there is no new picture": ({"png_valid": False}, "new_picture"),
    "the MSE is too high": ({"mse": 0.91}, "mse_within_max"),
    "the MSE is not a number": ({"mse": math.nan}, "mse_within_max"),
}


@pytest.mark.parametrize("what", BREAK)
def test_an_inference_condition_fails_by_itself(finished: Path, what: str) -> None:
    change, condition = BREAK[what]
    gate = LoopConfig().inference.evolve(max_mse=0.9, allow_trivial=True)
    result = result_of(finished)
    named = {stage: used["sha256"] for stage, used in result["checkpoints"].items()}
    assert inference_gate.judge_inference(InferenceResult(**result), named, gate, number=1, updates=20).passed
    attempt = inference_gate.judge_inference(InferenceResult(**{**result, **change}), named, gate, number=1, updates=20)
    assert not attempt.passed
    assert [name for name, held in attempt.conditions.items() if not held] == [condition]


def test_a_trained_checkpoint_is_the_folder_tinyworlds_knows(finished: Path) -> None:
    folder = finished / "results/default/dynamics/checkpoints/dynamics_step_19"
    assert {path.name for path in folder.iterdir()} == {*checkpoints.FILES, checkpoints.MANIFEST}
    state = torch.load(folder / "state.pt", weights_only=True)
    assert state["step"] == 19
    assert state["config"]["num_blocks"] == 1


def test_the_run_is_the_same_under_another_working_directory(finished: Path, tmp_path: Path, tiw: Tiw) -> None:
    """Nothing that decides the weights depends on where the run lies."""
    write_configs(tmp_path / "configs", {"loop": LENIENT})
    shutil.copy(finished / "frames.h5", tmp_path)
    elsewhere = tmp_path / "elsewhere"
    os.mkdir(elsewhere)
    assert tiw(elsewhere, "run", "--repo-root", str(tmp_path), *PASSING).returncode == ExitCode.PASSED
    mine, theirs = (status(tiw, where)["stages"] for where in (tmp_path, finished))
    assert {s: p["checkpoint"]["sha256"] for s, p in mine.items()} == {
        s: p["checkpoint"]["sha256"] for s, p in theirs.items()
    }
