"""Feeding a tracker that fails: it is tried again, later and later, and has everything once when it has recovered."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import tracked
from tests.support.configs import write_configs
from tests.support.simulation import Simulation
from tiw_fsm.engines.simulated import Script
from tiw_fsm.errors import ExitCode
from tiw_fsm.tracking.feeding import feed

RECOVERS = """
import sys
from pathlib import Path
from tiw_fsm.storage.store import Store
from tiw_fsm.tracking.feeding import feed

folder, tracker, damaged = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
said, whole = [], damaged.read_bytes()
damaged.write_bytes(b"")


def wait(seconds):
    if seconds:
        damaged.write_bytes(whole)
    return bool(said and said[-1].generation)


feed(Store(folder), tracker, wait, said.append)
print(*(status.reason for status in said), sep="\\n")
"""
"""Feeds a run of which the rows of one stage cannot be read until the tracker has failed for it, in one process."""


@pytest.fixture
def ended(tmp_path: Path) -> Simulation:
    write_configs(tmp_path / "configs")
    simulation = Simulation(tmp_path)
    assert simulation.run(Script()) == ExitCode.PASSED
    return simulation


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard"])
def test_a_tracker_that_fails_midway_recovers_in_its_process(ended: Simulation, tracker: str) -> None:
    damaged = ended.root / "results/default/dynamics/metrics.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", RECOVERS, str(ended.store.paths.folder), tracker, str(damaged)],
        env={**os.environ, "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    opened, failed, *afterwards = done.stdout.splitlines()
    assert (opened, afterwards) == ("None", ["None", "None"])
    assert f"{damaged} is damaged" in failed
    rows: Callable[[Path], list[tracked.Row]] = getattr(tracked, f"{tracker}_rows")
    assert rows(ended.root) == tracked.committed(ended)


def test_one_that_goes_on_failing_is_tried_after_a_minute_then_two_up_to_an_hour(ended: Simulation) -> None:
    (ended.root / "results/default/tensorboard").write_text("in its way")
    pauses = list[float]()

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) > 12

    feed(ended.store, "tensorboard", wait)
    minutes = [pause / 60 for pause in pauses if pause]
    assert minutes[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert set(minutes[8:]) == {60}


def test_a_picture_that_is_gone_or_damaged_is_left_out(ended: Simulation) -> None:
    first, second, *_ = sorted((ended.root / "results/default").rglob("*.png"))
    first.unlink()
    second.write_bytes(b"\x89PNG\r\n\x1a\n torn")
    done = subprocess.run(
        [sys.executable, "-m", "tiw_fsm", "track", "--tracker", "wandb", "--tracker", "tensorboard"],
        cwd=ended.root,
        env={**os.environ, "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert tracked.wandb_rows(ended.root) == tracked.tensorboard_rows(ended.root) == tracked.committed(ended)
