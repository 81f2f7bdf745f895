"""A run is not its path: moved, copied, mounted elsewhere or linked otherwise, it names its own files and goes on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.amounts import whole_too
from tests.support.native_runs import PASSING, digests, make_root, start, wait_for_generation
from tests.support.processes import Tiw
from tests.support.run_folder import RunFolder
from tiw_fsm.errors import ExitCode
from tiw_fsm.stages import Stage

NEVER_PASSES = ("--engine", "simulated", "--max-mse", "0.0001", "--max-inference-retries", "0")
PASSES_NOW = ("--max-mse", "0.9", "--allow-trivial")
"""Reopens a run that never passes at its gate."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working root whose native run was killed in the middle."""
    root = make_root(tmp_path_factory.mktemp("begun") / "root")
    process = start(root, *PASSING)
    wait_for_generation(root, 7, process)
    process.kill()
    process.communicate()
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A working root that may be moved."""
    return make_root(tmp_path / "root")


def telling_of(root: Path, place: Path) -> list[str]:
    """The files of a run, logs and the page aside, that name ``place``."""
    files = [path for path in root.rglob("*") if path.suffix in (".json", ".jsonl", ".md", ".svg")]
    return [path.name for path in files if path.name not in NOT_MOVED and str(place).encode() in path.read_bytes()]


NOT_MOVED = ("log.jsonl", "child_result.json")
"""What tells of one start alone, as it was."""


@pytest.mark.parametrize("how", ["renamed", whole_too("through a link")])
def test_a_run_elsewhere_goes_on_bitwise_and_never_touches_where_it_was(
    begun: Path, undisturbed: dict[str, str], tmp_path: Path, tiw: Tiw, how: str
) -> None:
    root = tmp_path / "now here"
    shutil.copytree(begun, root, symlinks=True)
    was = tmp_path / "was"
    shutil.copytree(begun, was)
    if how == "renamed":
        os.rename(root, tmp_path / "and now there")
        root = tmp_path / "and now there"
    if how == "through a link":
        (tmp_path / "link").symlink_to(root)
        root = tmp_path / "link"
    assert tiw(root, "verify").returncode == ExitCode.PASSED
    done = tiw(root, "run")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert digests(tiw, root) == undisturbed
    assert tiw(root, "verify").returncode == ExitCode.PASSED
    assert telling_of(root, begun) == telling_of(root, root.resolve()) == []
    for stage in json.loads(tiw(root, "status", "--json").stdout)["stages"].values():
        assert Path(stage["checkpoint"]["path"]).is_relative_to(root.resolve())
        assert Path(stage["checkpoint"]["path"]).is_dir()


def test_a_link_to_the_results_may_be_corrected(
    begun: Path, undisturbed: dict[str, str], tmp_path: Path, tiw: Tiw
) -> None:
    root = tmp_path / "root"
    shutil.copytree(begun, root)
    os.rename(root / "results", tmp_path / "scratch 1")
    (root / "results").symlink_to(tmp_path / "scratch 1")
    assert tiw(root, "verify").returncode == ExitCode.PASSED
    os.rename(tmp_path / "scratch 1", tmp_path / "scratch 2")
    (root / "results").unlink()
    (root / "results").symlink_to(tmp_path / "scratch 2")
    done = tiw(root, "run")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert digests(tiw, root) == undisturbed


def test_verify_and_check_of_a_copy_look_at_the_copy(begun: Path, tmp_path: Path, tiw: Tiw) -> None:
    root = tmp_path / "copy"
    shutil.copytree(begun, root)
    for path in root.rglob("model_state_dict.pt"):
        path.write_bytes(b"")
    verified = tiw(root, "verify")
    assert (verified.returncode, str(begun) in verified.stdout) == (ExitCode.DAMAGED, False), verified.stdout
    checked = tiw(root, "check")
    assert (checked.returncode, str(begun) in checked.stdout) == (ExitCode.USAGE, False), checked.stdout
    assert tiw(begun, "verify").returncode == ExitCode.PASSED


def test_a_run_root_outside_is_known_by_its_content(root: Path, tmp_path: Path, tiw: Tiw) -> None:
    before, now = tmp_path / "disk 1", tmp_path / "disk 2"
    assert tiw(root, "run", *NEVER_PASSES, "--run-root", str(before)).returncode == ExitCode.NOT_PASSED
    assert str(before) in (root / "state/default/state.json").read_text()
    missing = tiw(root, "run", *PASSES_NOW, "--run-root", str(now))
    assert (missing.returncode, str(now) in missing.stderr) == (ExitCode.CHANGED, True), missing.stderr
    assert not now.exists()
    os.rename(before, now)
    assert tiw(root, "run", *PASSES_NOW, "--run-root", str(now)).returncode == ExitCode.PASSED
    assert tiw(root, "verify").returncode == ExitCode.PASSED


def test_a_state_folder_outside_finds_a_working_root_that_moved(root: Path, tmp_path: Path, tiw: Tiw) -> None:
    state = ("--state-dir", str(tmp_path / "elsewhere"))
    assert tiw(root, "run", *state, *NEVER_PASSES).returncode == ExitCode.NOT_PASSED
    now = root.with_name("moved")
    os.rename(root, now)
    done = tiw(now, "run", *state, *PASSES_NOW)
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert tiw(now, "verify", *state).returncode == ExitCode.PASSED
    assert str(root) not in (tmp_path / "elsewhere/default/state.json").read_text().replace(str(now), "")


def test_absolute_flags_below_the_working_root_move_with_it(root: Path, tmp_path: Path, tiw: Tiw) -> None:
    os.rename(root / "frames.h5", root / "other.h5")
    typed = ("--dataset", str(root / "other.h5"), "--config-dir", str(root / "configs"))
    typed = (*typed, "--run-root", str(root / "out"), "--loop-config", str(root / "configs/loop.yaml"))
    assert tiw(root, "run", *NEVER_PASSES, *typed).returncode == ExitCode.NOT_PASSED
    flags = RunFolder(root).state.flags
    assert {name: flags[name] for name in ("dataset", "config_dir", "run_root", "loop_config")} == {
        "dataset": "./other.h5",
        "config_dir": "./configs",
        "run_root": "./out",
        "loop_config": "./configs/loop.yaml",
    }
    now = tmp_path / "moved"
    os.rename(root, now)
    done = tiw(now, "run", *PASSES_NOW)
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert not root.exists()


# --- whose a run root is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [("--run", "b", "--run-root", "results/default"), ("--state-dir", "other")])
def test_a_run_root_belongs_to_one_run(root: Path, tiw: Tiw, second: tuple[str, ...]) -> None:
    assert tiw(root, "run", *NEVER_PASSES).returncode == ExitCode.NOT_PASSED
    refused = tiw(root, "run", "--engine", "simulated", *second)
    assert (refused.returncode, "belongs to another run" in refused.stderr) == (ExitCode.USAGE, True), refused.stderr
    assert tiw(root, "verify").returncode == ExitCode.PASSED
    assert tiw(root, "run", *PASSES_NOW).returncode == ExitCode.PASSED


def test_a_copied_state_folder_does_not_get_at_the_run_root(root: Path, tiw: Tiw) -> None:
    assert tiw(root, "run", *NEVER_PASSES).returncode == ExitCode.NOT_PASSED
    shutil.copytree(root / "state", root / "copy")
    refused = tiw(root, "run", "--state-dir", "copy", *PASSES_NOW)
    assert (refused.returncode, "belongs to another run" in refused.stderr) == (ExitCode.USAGE, True), refused.stderr
    shutil.rmtree(root / "state")
    assert tiw(root, "run", "--state-dir", "copy", *PASSES_NOW).returncode == ExitCode.PASSED


def test_two_runs_that_begin_in_one_run_root_at_once_leave_one_at_work(tmp_path: Path, tiw: Tiw) -> None:
    root = make_root(tmp_path / "root")
    shared = ("--run-root", "shared", *PASSING)
    both = [start(root, "--run", name, *shared) for name in ("a", "b")]
    told = [process.communicate(timeout=300)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([ExitCode.PASSED, ExitCode.USAGE], [ExitCode.PASSED, ExitCode.HELD]), told
    winner = "ab"[[process.returncode for process in both].index(ExitCode.PASSED)]
    assert tiw(root, "verify", "--run", winner).returncode == ExitCode.PASSED


def test_a_run_begins_anew_where_the_state_of_the_one_before_was_removed(root: Path, tiw: Tiw) -> None:
    assert tiw(root, "run", *NEVER_PASSES).returncode == ExitCode.NOT_PASSED
    shutil.rmtree(root / "state/default")
    assert tiw(root, "run", "--engine", "simulated", *PASSES_NOW).returncode == ExitCode.PASSED
    assert tiw(root, "verify").returncode == ExitCode.PASSED


# --- warm starts ------------------------------------------------------------------------------------------------


def test_a_warm_start_outlives_the_run_that_made_it(begun: Path, tmp_path: Path, tiw: Tiw) -> None:
    """The tokenizer of another run is taken; then that run, its checkpoints and all, is removed."""
    root = tmp_path / "root"
    shutil.copytree(begun, root)
    given = root / "results/default/video_tokenizer/checkpoints"
    flags = ("--run", "fork", "--video-checkpoint", str(given), "--max-inference-retries", "0", "--max-mse", "0.000001")
    assert tiw(root, "run", *flags).returncode == ExitCode.NOT_PASSED
    run = RunFolder(root, "fork").state
    digest = run.fingerprint and run.fingerprint.config["video_tokenizer.warm_start"]
    own = next((root / "results/fork/video_tokenizer/warm_start").iterdir())
    assert own.joinpath("model_state_dict.pt").stat().st_nlink == 2, "no copy was needed"
    shutil.rmtree(root / "results/default")
    done = tiw(root, "run", "--run", "fork", *PASSES_NOW)
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert tiw(root, "verify", "--run", "fork").returncode == ExitCode.PASSED
    after = RunFolder(root, "fork").state.fingerprint
    assert after is not None
    assert after.config["video_tokenizer.warm_start"] == digest


@pytest.mark.whole
def test_another_warm_start_is_another_run(begun: Path, tmp_path: Path, tiw: Tiw) -> None:
    root = tmp_path / "root"
    shutil.copytree(begun, root)
    given = root / "results/default/video_tokenizer/checkpoints"
    shutil.copytree(given, root / "given")
    first = ("--run", "fork", "--video-checkpoint", "given", "--max-inference-retries", "0", "--max-mse", "0.000001")
    assert tiw(root, "run", *first).returncode == ExitCode.NOT_PASSED
    os.rename(root / "given", root / "kept elsewhere")
    same = tiw(root, "run", "--run", "fork", "--video-checkpoint", "kept elsewhere", "--max-mse", "0.000002")
    assert same.returncode == ExitCode.NOT_PASSED, same.stderr
    other = sorted((root / "results/fork/video_tokenizer/checkpoints").iterdir())[0]
    refused = tiw(root, "run", "--run", "fork", "--video-checkpoint", str(other))
    assert (refused.returncode, "warm_start" in refused.stderr) == (ExitCode.CHANGED, True), refused.stderr
    assert Stage.VIDEO in RunFolder(root, "fork").state.stages
