"""``tiw-fsm track``, killed again and again: what trackers have in the end is everything, once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import tracked
from tests.support.amounts import whole_too
from tests.support.configs import write_configs
from tests.support.processes import Tiw
from tests.support.simulation import Simulation
from tests.support.waiting import wait_for
from tests.support.wandb_server import serving
from tiw_fsm.engines.simulated import Script
from tiw_fsm.errors import ExitCode
from tiw_fsm.stages import Stage
from tiw_fsm.tracking import afterwards

UPDATES = 800
TRACKERS = {"wandb": tracked.wandb_rows, "tensorboard": tracked.tensorboard_rows}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """A run that has ended, with some hundred updates, a rejected chunk and a failed inference gate; shown nowhere."""
    root = tmp_path_factory.mktemp("ended")
    write_configs(
        root / "configs",
        {
            "video_tokenizer": {"n_updates": UPDATES, "log_interval": 200},
            "loop": {"chunks": {"video_tokenizer": UPDATES // 2}, "checkpoint_interval": 200},
        },
    )
    simulation = Simulation(root)
    script = Script(losses={Stage.VIDEO: [0.005, 9.0, 0.005]}, mse=[0.5, 0.01])
    assert simulation.run(script) == ExitCode.PASSED
    return simulation


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.parametrize("tracker", ["wandb", whole_too("tensorboard")])
@pytest.mark.parametrize(("seed", "kills"), [(0, 1), *(whole_too(seed, 2) for seed in range(1, 10))])
def test_it_may_be_killed_at_any_instant(ended: Simulation, tiw: Tiw, tracker: str, seed: int, kills: int) -> None:
    chance = random.Random(seed)
    rows: Callable[[Path], list[tracked.Row]] = TRACKERS[tracker]
    reached = len(rows(ended.root))
    for _ in range(kills):
        process = _track(ended.root, tracker)
        goal = min(reached + chance.randint(1, 200), len(tracked.committed(ended)))
        _wait_for_rows(process, lambda: len(rows(ended.root)), goal)
        time.sleep(chance.random() * 0.05)  # into whatever it does then
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reached = len(rows(ended.root))
    told = tiw(ended.root, "track", "--tracker", tracker)
    assert told.returncode == ExitCode.PASSED, told.stderr
    assert f"{tracker} has all of run default" in told.stdout
    assert rows(ended.root) == tracked.committed(ended)


@pytest.mark.parametrize("parts", [[200], whole_too([400, 7])])
def test_a_server_has_everything_once(
    ended: Simulation, tmp_path: Path, tiw: Tiw, monkeypatch: pytest.MonkeyPatch, parts: list[int]
) -> None:
    """Killed while the server has taken a part of what it was sent, and said nothing: it goes on from there."""
    root = tmp_path / "online"  # of its own: what a server has, W&B is not given offline once more
    shutil.copytree(ended.root, root, ignore=shutil.ignore_patterns("wandb"))
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        for takes in parts:
            reached, server.takes = len(server.rows), takes
            process = _track(root, "wandb")
            _wait_for_rows(process, lambda: len(server.rows), reached + 1)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert len(server.rows) == reached + takes
        server.takes = None
        told = tiw(root, "track", "--tracker", "wandb")
        assert told.returncode == ExitCode.PASSED, told.stderr
        assert [row["_step"] for row in server.rows] == list(range(len(server.rows)))
        assert tracked.losses_in(server.rows) == tracked.committed(ended)
        assert server.runs == {ended.state.run_id}


def test_what_w_and_b_has(ended: Simulation, tiw: Tiw) -> None:
    assert tiw(ended.root, "track", "--tracker", "wandb").returncode == ExitCode.PASSED
    history = tracked.wandb_history(ended.root)
    assert [row["_step"] for row in history] == list(range(len(history)))
    assert tracked.wandb_runs(ended.root) == {ended.state.run_id}
    attempts = [row for row in history if "inference/verdict" in row]
    assert [row["inference/verdict"] for row in attempts] == ["failed", "passed"]
    assert [row["inference/attempt"] for row in attempts] == [1, 2]
    media = [*ended.root.glob("results/default/wandb/offline-run-*/files/media")]
    shown = {path.suffix for folder in media for path in folder.rglob("*.*")}
    assert shown == {".png", ".gif"}
    assert all("inference/rollout.path" in row and "inference/picture.path" in row for row in attempts)
    assert history[-1]["run/outcome"] == "passed"


def test_what_tensorboard_shows(ended: Simulation, tiw: Tiw) -> None:
    assert tiw(ended.root, "track", "--tracker", "tensorboard").returncode == ExitCode.PASSED
    shown = tracked.tensorboard_shows(ended.root)
    tags = shown.Tags()
    assert {"inference/mse", "inference/skill", "dynamics/gate/final", "video_tokenizer/loss"} <= set(tags["scalars"])
    assert [event.step for event in shown.Scalars("inference/mse")] == [1, 2]
    assert {"inference/verdict", "video_tokenizer/gate", "run/outcome"} <= set(tags["tensors"])
    begins = {tag: {event.encoded_image_string[:4] for event in shown.Images(tag)} for tag in tags["images"]}
    picture = {b"\x89PNG"}
    assert begins == {
        "inference/rollout": {b"GIF8"},
        **dict.fromkeys([f"{group}/picture" for group in (*Stage, "inference")], picture),
    }
    folders = [path.parent.name for path in tracked.event_files(ended.root)]
    assert folders == ["tensorboard", "repeat_1"]


def test_a_torn_event_is_written_anew(ended: Simulation) -> None:
    told = afterwards.catch_up(ended.store, "tensorboard")
    path = tracked.event_files(ended.root)[0]
    whole = path.read_bytes()
    for torn in (whole[:-1], whole[:-200] + bytes(200), whole + bytes(40), whole[:10], b""):
        path.write_bytes(torn)
        assert afterwards.catch_up(ended.store, "tensorboard") == told
        assert path.read_bytes() == whole


def test_nothing_to_track(tmp_path: Path, tiw: Tiw) -> None:
    said = tiw(tmp_path, "track")
    assert (said.returncode, said.stderr) == (
        ExitCode.USAGE,
        "run 'default' has not begun; there is nothing to track\n",
    )


def test_a_run_that_was_told_of_no_tracker(ended: Simulation, tiw: Tiw) -> None:
    said = tiw(ended.root, "track")
    assert said.returncode == ExitCode.USAGE
    assert "name one with --tracker wandb or --tracker tensorboard" in said.stderr


def test_a_tracker_that_nobody_knows(ended: Simulation, tiw: Tiw) -> None:
    said = tiw(ended.root, "track", "--tracker", "mlflow")
    assert said.returncode == ExitCode.USAGE
    assert said.stderr == "--tracker mlflow is none of wandb, tensorboard\n"


def test_w_and_b_without_a_key(ended: Simulation, tiw: Tiw, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    said = tiw(ended.root, "track", "--tracker", "wandb")
    assert said.returncode == ExitCode.USAGE
    assert "wandb was not fed: it has no key: set WANDB_API_KEY or run `wandb login`, or set WANDB_MODE=offline" in (
        said.stderr
    )


def _wait_for_rows(process: subprocess.Popen[bytes], there: Callable[[], int], goal: int) -> None:
    wait_for(f"{goal} rows", lambda: process.poll() is not None or there() >= goal, 60)


def _track(root: Path, tracker: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tiw_fsm", "track", "--tracker", tracker],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
