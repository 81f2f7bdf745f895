"""Mistakes meet one clear message with the remedy and the documented exit code, and leave everything as it was."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from tests.support.amounts import whole_too
from tests.support.configs import LENIENT, write_configs, write_frames
from tests.support.native_runs import PASSING
from tests.support.processes import Tiw
from tests.support.settings import settings_of
from tiw_fsm.errors import ExitCode, UsageProblem


def mistakes_in(root: Path, changes: dict[str, Any], **flags: Any) -> str:
    """What loading configs with ``changes`` complains of."""
    write_configs(root / "configs", {"loop": LENIENT, **changes})
    with pytest.raises(UsageProblem) as caught:
        settings_of(root, **flags)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"patchsize": 8}}, "configs/training.yaml:13: patchsize: unknown key"),
        ({"dynamics": {"n_updates": "many"}}, "configs/dynamics.yaml:3: n_updates: "),
        ({"video_tokenizer": {"learning_rate": -1.0}}, "configs/video_tokenizer.yaml:4: learning_rate: "),
        ({"training": {"num_blocks": True}}, "configs/training.yaml:11: num_blocks: "),
        ({"training": {"frame_size": 20}}, "frame_size 20 is not divisible by patch_size 8"),
        ({"training": {"embed_dim": 25, "num_heads": 5}}, "embed_dim 25 cannot be split"),
        (
            {"training": {"num_heads": 5}},
            "embed_dim 24 is not divisible by num_heads 5; use one of 1, 2, 3, 4, 6, 8, 12, 24",
        ),
        ({"training": {"n_actions": 6}}, "n_actions 6 is not a power of two; use 4 or 8"),
        ({"training": {"dataset": "ZELDO"}}, "known are ZELDA, PONG, PICODOOM, POLE_POSITION, SONIC"),
        ({"training": {"optimizer": "soap"}}, "configs/training.yaml:13: optimizer: Input should be 'adamw' or 'muon'"),
        ({"training": {"muon_momentum": 1.0}}, "configs/training.yaml:13: muon_momentum: "),
        ({"training": {"muon_backend_steps": 100}}, "configs/training.yaml:13: muon_backend_steps: "),
        ({"training": {"moe_aux_loss_coeff": -0.1}}, "configs/training.yaml:13: moe_aux_loss_coeff: "),
        ({"dynamics": {"num_experts": 0}}, "configs/dynamics.yaml:6: num_experts: "),
        (
            {"dynamics": {"use_moe": True, "top_k_experts": 5}},
            "dynamics.yaml:7: top_k_experts 5 is more than num_experts 4; use at most 4",
        ),
        ({"latent_actions": {"use_moe": True}}, "configs/latent_actions.yaml:6: use_moe: unknown key"),
        ({"dynamics": {"num_blocks": 2}}, "num_blocks is 1 here but 2 at"),
        ({"latent_actions": {"patch_size": 4}}, "patch_size is 8 here but 4 at"),
        ({"dynamics": {"video_tokenizer_path": "/old/run"}}, "leave it empty, it is injected at run time"),
        ({"inference": {"dynamics_path": "/old/run"}}, "leave it empty, it is injected at run time"),
        ({"inference": {"dataset": "PONG"}}, "judges on dataset PONG"),
        ({"loop": {"gates": {"dynamics": {"verdicts": {"maybe": {}}}}}}, "maybe"),
        ({"loop": {"budgets": {"max_crashes": -1}}}, "loop.yaml:11: budgets.max_crashes: "),
    ],
)
def test_a_mistake_in_a_yaml_file_is_named_with_its_place(root: Path, changes: dict[str, Any], said: str) -> None:
    assert said in mistakes_in(root, changes)


IN_ITS_PLACE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a link to nowhere": (lambda path: path.symlink_to("gone"), "loop.yaml: it is a link to what is not there"),
    "a folder": (lambda path: path.mkdir(), "loop.yaml: it is no file"),
    "another ending": (lambda path: path.with_suffix(".yml").write_text("{}"), "loop.yml: it is not read under this"),
}


@pytest.mark.parametrize("what", IN_ITS_PLACE)
def test_a_file_that_need_not_be_there_is_missed_where_something_stands_for_it(root: Path, what: str) -> None:
    path, (put, said) = root / "configs/loop.yaml", IN_ITS_PLACE[what]
    path.unlink()
    put(path)
    with pytest.raises(UsageProblem) as caught:
        settings_of(root)
    assert said in str(caught.value)


def test_a_size_that_no_file_gives_is_told_once(root: Path) -> None:
    path = root / "configs/training.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "embed_dim" not in line))
    with pytest.raises(UsageProblem) as caught:
        settings_of(root)
    assert caught.value.problems == [f"{path}: embed_dim is missing; give all stages one value here"]


def test_what_is_wrong_with_several_values_together_is_told_of_the_one_that_was_typed(root: Path) -> None:
    with pytest.raises(UsageProblem) as caught:
        settings_of(root, set={"training.num_heads": 5})
    assert str(caught.value).startswith("--set training.num_heads=5: embed_dim 24 is not divisible")


def test_of_a_key_that_is_misspelt_nothing_more_is_missed(root: Path) -> None:
    assert "verdicts" not in mistakes_in(root, {"loop": {"gates": {"dynamic": {"from_update": 1}}}})


def test_all_mistakes_are_told_at_once(root: Path) -> None:
    said = mistakes_in(root, {"training": {"n_actions": 6}, "dynamics": {"num_blocks": 2}, "inference": {"colour": 1}})
    assert all(part in said for part in ("n_actions 6", "num_blocks", "colour: unknown key"))


def test_a_file_that_is_no_yaml_is_named_with_the_line(root: Path) -> None:
    (root / "configs/loop.yaml").write_text("seed: 1\nchunks: {video_tokenizer: 5\n")
    with pytest.raises(UsageProblem, match=r"loop\.yaml:\d+: not readable as YAML"):
        settings_of(root)


def test_numbers_in_scientific_notation_are_numbers_as_omegaconf_reads_them(root: Path) -> None:
    path = root / "configs/dynamics.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.003", "learning_rate: 3e-4"))
    settings = settings_of(root)
    assert [s.learning_rate for s in settings.stages.values()] == [0.003, 0.003, 0.0003]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"train_stage": "dynamics"}, "give --video-checkpoint PATH"),
        ({"train_stage": "none"}, "give --dynamics-checkpoint PATH"),
        ({"nproc_per_node": "many"}, "--nproc-per-node many: is no number of processes; give one from 1 on, or auto"),
        ({"nproc_per_node": "0"}, "--nproc-per-node 0: is no number of processes"),
        ({"nnodes": 0}, "--nnodes 0: is no number of machines"),
        ({"nnodes": 2, "rdzv_endpoint": "here:port"}, "--rdzv-endpoint here:port: give HOST:PORT"),
        ({"python_exec": "nowhere/python"}, "--python-exec nowhere/python: no such file"),
        ({"dynamics_config": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"max_train_retries": -1}, "--max-train-retries: budgets.max_train_retries"),
        ({"context_window": 1}, "--context-window: context_window"),
        ({"dataset": "a\0.h5"}, "--dataset a\\x00.h5: has '\\x00' in it"),
        ({"run_root": "caf\udce9"}, "--run-root caf\\udce9: has '\\udce9' in it, which is no UTF-8 text"),
        ({"temperature": float("inf")}, "--temperature: inf is no finite number"),
        ({"min_skill": float("nan")}, "--min-skill: nan is no finite number"),
    ],
)
def test_a_mistake_in_a_flag_is_named_with_its_remedy(root: Path, flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        settings_of(root, **flags)
    assert said in str(caught.value)


# --- frames -----------------------------------------------------------------------------------------------------


def rewrite(path: Path, **datasets: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file.create_dataset(name, data=data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "not readable as HDF5"),
    "truncated": (truncate, "not readable as HDF5"),
    "no frames in it": (lambda path: rewrite(path, pictures=np.zeros(3)), "has no dataset `frames`"),
    "of another shape": (lambda path: rewrite(path, frames=np.zeros((9, 16, 16), np.uint8)), "must be (N, H, W, 3)"),
    "of another type": (lambda path: rewrite(path, frames=np.zeros((400, 16, 16, 3), np.float32)), "must be uint8"),
    "of another size": (lambda path: write_frames(path, size=24), "frame_size is 16"),
    "too short": (lambda path: rewrite(path, frames=np.zeros((8, 16, 16, 3), np.uint8)), "no training clip"),
    "with too few episodes": (lambda path: write_frames(path, episodes=5), "held-out clips"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_frames_that_cannot_be_used_exit_2_and_nothing_is_begun(root: Path, tiw: Tiw, damage: str) -> None:
    harm, said = DAMAGES[damage]
    harm(root / "frames.h5")
    done = tiw(root, "run")
    assert (done.returncode, said in done.stderr) == (ExitCode.USAGE, True), done.stderr
    assert not (root / "state").exists()
    assert not (root / "results").exists()


# --- warm starts ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A working root whose run has passed."""
    root = tmp_path_factory.mktemp("trained")
    write_configs(root / "configs", {"loop": LENIENT})
    write_frames(root / "frames.h5")
    command = [sys.executable, "-m", "tiw_fsm", "run", "--max-mse", "0.9", "--allow-trivial"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return root


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("touch pwned",)


def checkpoint_of(root: Path, stage: str, last: int) -> Path:
    return root / "results/default" / stage / "checkpoints" / f"{stage}_step_{last}"


HARMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "misses a file": (lambda folder: (folder / "optim_state_dict.pt").unlink(), "optim_state_dict.pt"),
    "is cut short": (lambda folder: truncate(folder / "model_state_dict.pt"), "model_state_dict.pt"),
    "would run code": (lambda folder: torch.save({"a": Evil()}, folder / "model_state_dict.pt"), "posix.system"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_warm_start_checkpoint_that_cannot_be_used_exits_2(trained: Path, root: Path, tiw: Tiw, harm: str) -> None:
    folder = root / "given/video_tokenizer_step_19"
    shutil.copytree(checkpoint_of(trained, "video_tokenizer", 19), folder)
    (folder / "manifest.json").unlink()
    damage, said = HARMS[harm]
    damage(folder)
    done = tiw(root, "run", "--video-checkpoint", "given")
    assert (done.returncode, said in done.stderr) == (ExitCode.USAGE, True), done.stderr
    assert not (root / "pwned").exists()
    assert not (root / "state/default/state.json").exists()


def test_a_warm_start_of_another_architecture_exits_2_and_says_what_differs(
    trained: Path, root: Path, tiw: Tiw
) -> None:
    write_configs(root / "configs", {"training": {"hidden_dim": 48}, "loop": LENIENT})
    done = tiw(root, "run", "--video-checkpoint", str(checkpoint_of(trained, "video_tokenizer", 19)))
    assert done.returncode == ExitCode.USAGE
    assert "another architecture" in done.stderr


def test_dynamics_alone_from_given_tokenizer_and_actions_keeps_its_absolute_update(
    trained: Path, root: Path, tiw: Tiw
) -> None:
    flags = ["--max-mse", "0.9", "--allow-trivial", "--train-stage", "dynamics"]
    for flag, stage in (("video", "video_tokenizer"), ("latent", "latent_actions"), ("dynamics", "dynamics")):
        flags += [f"--{flag}-checkpoint", str(trained / "results/default" / stage / "checkpoints")]
    done = tiw(root, "run", *flags, "--target-updates", "10")
    assert done.returncode == ExitCode.PASSED, done.stderr
    dynamics = json.loads(tiw(root, "status", "--json").stdout)["stages"]["dynamics"]
    assert (dynamics["completed"], dynamics["target"]) == (30, 30)
    kept = root / "results/default/video_tokenizer"
    assert [path.name for path in kept.iterdir()] == ["warm_start"], "trained, though only dynamics was to be"


# --- disks ------------------------------------------------------------------------------------------------------


def test_a_state_folder_that_cannot_be_made_exits_74(root: Path, tiw: Tiw) -> None:
    """A file where the folder should be stands for a disk that refuses; the tests may run as root."""
    (root / "state").write_text("in the way")
    done = tiw(root, "run")
    assert done.returncode == ExitCode.DISK
    assert "mend the disk and run again" in done.stderr


def test_a_full_disk_exits_74_and_the_run_goes_on_when_there_is_room(root: Path, tiw: Tiw) -> None:
    """A limit on the size of files refuses writes in the middle of the work, as a quota does."""
    limited = 'ulimit -f 8; exec "$0" -m tiw_fsm run --max-mse 0.9 --allow-trivial'
    done = subprocess.run(["sh", "-c", limited, sys.executable], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == ExitCode.DISK, done.stderr
    assert "File too large" in done.stderr
    assert tiw(root, "run", "--max-mse", "0.9", "--allow-trivial").returncode == ExitCode.PASSED


# --- flags on the command line ----------------------------------------------------------------------------------


def test_an_interpreter_without_torch_exits_2_and_says_what_it_lacks(root: Path, tiw: Tiw) -> None:
    bare = root / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    done = tiw(root, "run", "--python-exec", "bare-python")
    assert done.returncode == ExitCode.USAGE
    assert "--python-exec" in done.stderr
    assert done.stderr.count("ModuleNotFoundError") == 1
    again = tiw(root, "run", "--python-exec", "bare-python").stderr
    assert again == done.stderr, "a later start tells its own child's words alone"


@pytest.mark.parametrize("status", ["0", whole_too("$?")])
def test_a_wrapper_that_stays_between_is_told_to_exec(root: Path, tiw: Tiw, status: str) -> None:
    wrapper = root / "wrapper"
    wrapper.write_text(f'#!/bin/sh\n{sys.executable} "$@"\nexit {status}\n')
    wrapper.chmod(0o755)
    done = tiw(root, "run", "--python-exec", "wrapper")
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert done.stderr.count("have what starts it `exec` it") == 1


REFUSED = [
    ("--set", "dynamics.nope=1"),
    ("--dataset", "gone.h5"),
    ("--engine", "simulated", "--latent-checkpoint", "nowhere"),
    ("--video-checkpoint", "/dev/null"),
    whole_too(("--video-checkpoint", "nowhere")),
    whole_too(("--python-exec", "/bin/false")),
]


@pytest.mark.parametrize("typed", REFUSED)
def test_a_first_start_that_is_refused_leaves_nothing(root: Path, tiw: Tiw, typed: tuple[str, ...]) -> None:
    before = sorted(root.rglob("*"))
    done = tiw(root, "run", *typed, "--state-dir", "kept/states")
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert sorted(root.rglob("*")) == before


def test_a_folder_that_is_a_file_is_the_flags_fault(root: Path, tiw: Tiw) -> None:
    for flag in ("--state-dir", "--repo-root", "--config-dir"):
        done = tiw(root, "run", flag, "configs/loop.yaml")
        assert done.returncode == ExitCode.USAGE
        assert "configs/loop.yaml: it is no folder; give" in done.stderr
        assert flag in done.stderr


def test_where_no_configs_are_init_is_told_to_write_them_there(root: Path, tiw: Tiw) -> None:
    there = root / "else where"
    done = tiw(root, "run", "--repo-root", str(there))
    assert (done.returncode, there.exists()) == (ExitCode.USAGE, False)
    assert f"`tiw-fsm init '{there}/configs'` writes some there" in done.stderr
    assert tiw(root, "init", f"{there}/configs").returncode == ExitCode.PASSED
    assert "there are no configs" not in tiw(root, "run", "--repo-root", str(there)).stderr


def test_an_unknown_flag_exits_2(root: Path, tiw: Tiw) -> None:
    done = tiw(root, "run", "--colour", "red")
    assert done.returncode == ExitCode.USAGE


def test_flags_that_contradict_each_other_exit_2(root: Path, tiw: Tiw) -> None:
    done = tiw(root, "run", "--accept-changes", "--require-exact")
    assert (done.returncode, "give one of the two" in done.stderr) == (ExitCode.USAGE, True)


def test_a_run_name_that_is_a_path_exits_2(root: Path, tiw: Tiw) -> None:
    done = tiw(root, "run", "--run", "../elsewhere")
    assert (done.returncode, "cannot be the name of a folder" in done.stderr) == (ExitCode.USAGE, True)


def test_the_users_files_are_never_rewritten(trained: Path) -> None:
    for path in (trained / "configs").iterdir():
        assert isinstance(yaml.safe_load(path.read_text()), dict)
    write = {path.name: path.read_text() for path in (trained / "configs").iterdir()}
    write_configs(trained / "again", {"loop": LENIENT})
    assert {path.name: path.read_text() for path in (trained / "again").iterdir()} == write


def test_a_disk_that_refuses_the_training_process_exits_74_and_is_no_crash(root: Path, tiw: Tiw) -> None:
    name = "video_tokenizer_step_9_attempt_1.png"
    in_the_way = root / "results/default/video_tokenizer/visualizations" / name
    in_the_way.mkdir(parents=True)
    done = tiw(root, "run", *PASSING)
    assert done.returncode == ExitCode.DISK, done.stderr
    in_the_way.rmdir()
    assert tiw(root, "run").returncode == ExitCode.PASSED
    assert json.loads(tiw(root, "status", "--json").stdout)["stages"]["video_tokenizer"]["crashes"] == 0


def test_what_stands_in_the_place_of_a_file_and_is_none_exits_4(root: Path, tiw: Tiw) -> None:
    (root / "state/default/log.jsonl").mkdir(parents=True)
    done = tiw(root, "run", *PASSING)
    assert (done.returncode, "log.jsonl is not a file" in done.stderr) == (ExitCode.DAMAGED, True)


@pytest.mark.whole
def test_frames_lost_in_the_middle_of_a_run_exit_2(root: Path, tiw: Tiw) -> None:
    assert tiw(root, "run", "--max-mse", "0.0001", "--max-inference-retries", "0").returncode == ExitCode.NOT_PASSED
    (root / "frames.h5").rename(root / "elsewhere.h5")
    done = tiw(root, "run", "--max-inference-retries", "1")
    assert (done.returncode, "no such file" in done.stderr) == (ExitCode.USAGE, True)
    (root / "elsewhere.h5").rename(root / "frames.h5")
    assert tiw(root, "run", "--max-inference-retries", "1", *PASSING).returncode == ExitCode.PASSED


def test_a_warm_start_from_the_runs_own_folder_exits_2(trained: Path, tiw: Tiw, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(trained, root)
    shutil.rmtree(root / "state/default")
    done = tiw(root, "run", "--video-checkpoint", "results/default/video_tokenizer/checkpoints")
    assert (done.returncode, "keeps its own" in done.stderr) == (ExitCode.USAGE, True)
