"""The promise: an interrupted run ends with bitwise the same weights. Real processes, really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.amounts import whole_too
from tests.support.configs import LENIENT, merged, write_configs
from tests.support.native_runs import PASSING, digests, make_root, start, wait_for_generation
from tests.support.processes import Tiw, children, process_state
from tests.support.run_folder import RunFolder
from tests.support.waiting import wait_for
from tiw_fsm.errors import ExitCode
from tiw_fsm.stages import Stage
from tiw_fsm.system import signals


def run_and_kill(root: Path, generation: int) -> None:
    """A run that got as far as ``generation`` and was then killed outright."""
    process = start(root, *PASSING)
    wait_for_generation(root, generation, process)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("generation", [7, *map(whole_too, (2, 13))])
def test_a_run_killed_outright_ends_with_the_same_weights(
    tmp_path: Path, tiw: Tiw, undisturbed: dict[str, str], generation: int
) -> None:
    root = make_root(tmp_path / "root")
    run_and_kill(root, generation)
    done = tiw(root, "run")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert digests(tiw, root) == undisturbed
    assert json.loads(tiw(root, "status", "--json").stdout)["interruptions"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, whole_too(signal.SIGINT)])
def test_a_run_told_to_stop_saves_exits_75_and_ends_with_the_same_weights(
    tmp_path: Path, tiw: Tiw, undisturbed: dict[str, str], number: signal.Signals
) -> None:
    root = make_root(tmp_path / "root")
    process = start(root, *PASSING)
    wait_for_generation(root, 3, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED, said
    stopped = json.loads(tiw(root, "status", "--json").stdout)
    assert (stopped["alive"], stopped["interruptions"]) == (False, 1)
    assert tiw(root, "run").returncode == ExitCode.PASSED
    assert digests(tiw, root) == undisturbed


def test_a_killed_training_process_is_a_crash_and_the_run_ends_with_the_same_weights(
    tmp_path: Path, tiw: Tiw, undisturbed: dict[str, str]
) -> None:
    root = make_root(tmp_path / "root")
    process = start(root, *PASSING)
    wait_for_generation(root, 3, process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == ExitCode.PASSED, said
    assert digests(tiw, root) == undisturbed
    assert '"event": "killed"' in (root / "state/default/journal.jsonl").read_text()


def hanging(root: Path) -> subprocess.Popen[str]:
    """A run whose training process was killed; that which takes its place sleeps and says nothing, but the next not."""
    sleepy = root / "python"
    sleepy.write_text(f'#!/bin/sh\nif rm hang 2>/dev/null; then exec sleep 1000; fi\nexec {sys.executable} "$@"\n')
    sleepy.chmod(0o755)
    process = start(root, *PASSING, "--python-exec", "python")
    wait_for_generation(root, 3, process)
    (root / "hang").touch()
    os.kill(children(process.pid)[0], signal.SIGKILL)
    wait_for("the process that hangs", lambda: not (root / "hang").exists(), 60)
    return process


def test_a_training_process_that_hangs_is_ended_counted_as_a_crash_and_the_run_ends_with_the_same_weights(
    tmp_path: Path, tiw: Tiw, undisturbed: dict[str, str]
) -> None:
    root = make_root(tmp_path / "root")
    write_configs(root / "configs", {"loop": merged(LENIENT, {"max_silence": 15})})
    process = hanging(root)
    _, said = process.communicate(timeout=180)
    assert process.returncode == ExitCode.PASSED, said
    assert "no sign of life for 15 seconds" in (root / "state/default/journal.jsonl").read_text()
    assert digests(tiw, root) == undisturbed


def test_the_training_process_does_not_outlive_a_killed_controller(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    process = start(root, *PASSING)
    wait_for_generation(root, 2, process)
    child = children(process.pid)[0]
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while running(child):
        assert time.monotonic() < deadline, "the child is still running"
        time.sleep(0.01)


def running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    return process_state(pid) not in (None, "Z")


def test_a_second_runner_exits_3_at_once_and_0_silently_with_if_idle(tmp_path: Path, tiw: Tiw) -> None:
    root = make_root(tmp_path / "root")
    process = start(root, *PASSING, "--target-updates", "50000")  # busy for longer than the others need
    wait_for_generation(root, 1, process)
    second = tiw(root, "run")
    idle = tiw(root, "run", "--if-idle")
    process.kill()
    process.communicate()
    assert second.returncode == ExitCode.HELD
    assert "another process is running" in second.stderr
    assert (idle.returncode, idle.stdout, idle.stderr) == (ExitCode.PASSED, "", "")


def damaged(root: Path, name: str) -> Path:
    """Cut a file of the newest tokenizer checkpoint short; returns the checkpoint's folder."""
    newest = RunFolder(root).state.stages[Stage.VIDEO].checkpoint
    assert newest is not None
    path = Path(newest.path) / name
    path.write_bytes(path.read_bytes()[:-100])
    return path.parent


def test_a_torn_newest_checkpoint_is_set_aside_and_the_one_before_it_takes_its_place(
    tmp_path: Path, tiw: Tiw, undisturbed: dict[str, str]
) -> None:
    root = make_root(tmp_path / "root")
    run_and_kill(root, 3)
    torn = damaged(root, "model_state_dict.pt")
    done = tiw(root, "run")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert "going back to update" in done.stderr
    assert torn.with_name(f"{torn.name}.set-aside-1").is_dir()
    assert digests(tiw, root) == undisturbed


def test_state_json_cut_short_falls_back_to_the_generation_before(
    tmp_path: Path, tiw: Tiw, undisturbed: dict[str, str]
) -> None:
    root = make_root(tmp_path / "root")
    run_and_kill(root, 5)
    state = root / "state/default/state.json"
    state.write_bytes(state.read_bytes()[:200])
    assert tiw(root, "run").returncode == ExitCode.PASSED
    assert digests(tiw, root) == undisturbed


def test_state_damaged_in_both_generations_exits_4_and_overwrites_nothing(root: Path, tiw: Tiw) -> None:
    assert tiw(root, "run", *PASSING).returncode == ExitCode.PASSED
    files = [root / "state/default/state.json", root / "state/default/state.prev.json"]
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    before = [path.read_bytes() for path in files]
    done = tiw(root, "run")
    assert done.returncode == ExitCode.DAMAGED
    assert "Nothing was overwritten" in done.stderr
    assert [path.read_bytes() for path in files] == before


@pytest.mark.parametrize(("schema", "said"), [(99, "newer version"), (1, "schema 1")])
def test_a_state_of_another_schema_exits_4_without_falling_back(root: Path, tiw: Tiw, schema: int, said: str) -> None:
    assert tiw(root, "run", *PASSING).returncode == ExitCode.PASSED
    state = root / "state/default/state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "schema_version": schema}))
    done = tiw(root, "run")
    assert done.returncode == ExitCode.DAMAGED
    assert said in done.stderr


def test_a_second_signal_ends_at_once_with_75(tmp_path: Path, tiw: Tiw, undisturbed: dict[str, str]) -> None:
    """The training process hangs, so that it cannot answer the first."""
    root = make_root(tmp_path / "root")
    process = hanging(root)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=signals.ONE_REQUEST + 0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == ExitCode.INTERRUPTED
    assert tiw(root, "run").returncode == ExitCode.PASSED
    assert digests(tiw, root) == undisturbed
