"""What decides the weights does not change unnoticed between two starts: exit 5 says what, from what to what."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

import tiw_fsm
from tests.support.amounts import whole_too
from tests.support.configs import merged, write_configs
from tests.support.processes import Tiw, children
from tests.support.torture.bench import NATIVE, SIMULATED, Bench
from tests.support.torture.launch import Ended, Fault, Launcher
from tests.support.waiting import wait_for
from tiw_fsm.errors import ExitCode

IN_TRAINING = Fault("marked", 4)
"""Killed when the tokenizer has been trained for a while."""


def status(bench: Bench, tiw: Tiw) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tiw(bench.root, "status", "--json").stdout)
    return found


def begun(bench: Bench) -> Bench:
    """A run in the middle of its training."""
    bench.begin()
    assert bench.run(fault=IN_TRAINING).signal is not None
    return bench


def troubles(ended: Ended, bench: Bench, tiw: Tiw, *what: str) -> list[str]:
    """Why a start was not refused as it should be for a change of ``what``."""
    if ended.code != ExitCode.CHANGED:
        return [f"ended with {ended.code}, saying {ended.stderr[-400:]!r}"]
    told = (status(bench, tiw)["refused"] or {}).get("message", "")
    wanted = (*what, "→", "--accept-changes", "--run NAME")
    return [
        f"{said!r} does not speak of {word}" for said in (ended.stderr, told) for word in wanted if word not in said
    ]


def with_learning_rate(bench: Bench, rate: float) -> None:
    write_configs(bench.root / "configs", merged(bench.setup.changes, {"dynamics": {"learning_rate": rate}}))


def test_a_changed_config_is_refused_named_and_goes_on_once_it_is_put_back(
    simulated: Bench, tiw: Tiw, figures: Counter[str]
) -> None:
    begun(simulated)
    with_learning_rate(simulated, 0.5)
    assert troubles(simulated.run(), simulated, tiw, "dynamics.learning_rate: 0.003 → 0.5") == []
    with_learning_rate(simulated, 0.003)
    assert simulated.ends_otherwise() == []
    assert status(simulated, tiw)["refused"] is None
    figures["changes between two starts"] += 1


def test_another_torch_is_refused_and_taken_in_when_told_to(simulated: Bench, tiw: Tiw, figures: Counter[str]) -> None:
    begun(simulated)
    assert troubles(simulated.run(torch="9.9"), simulated, tiw, "torch: simulated → 9.9") == []
    assert simulated.run("--accept-changes", torch="9.9").code == ExitCode.PASSED
    assert [entry["what"] for entry in status(simulated, tiw)["inexact"]] == ["torch: simulated → 9.9"]
    figures["changes between two starts"] += 1


def test_another_version_of_the_package_is_refused(
    simulated: Bench, tiw: Tiw, tmp_path: Path, figures: Counter[str]
) -> None:
    """A real copy of the package, with a line of its learning-rate schedule changed."""
    begun(simulated)
    assert tiw_fsm.__file__ is not None
    shutil.copytree(Path(tiw_fsm.__file__).parent, tmp_path / "tiw_fsm")
    with open(tmp_path / "tiw_fsm/tinyworlds/learning_rate.py", "a") as file:
        file.write("\n# changed\n")
    done = subprocess.run(
        [sys.executable, "-m", "tiw_fsm", *SIMULATED.arguments],
        cwd=simulated.root,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    ended = Ended(done.returncode, None, done.stdout, done.stderr, 0)
    assert troubles(ended, simulated, tiw, "the code of tiw_fsm") == []
    figures["changes between two starts"] += 1


@pytest.mark.whole
def test_other_frames_are_refused(launcher: Launcher, tmp_path: Path, tiw: Tiw, figures: Counter[str]) -> None:
    bench = begun(Bench(launcher, tmp_path, NATIVE))
    with h5py.File(bench.root / "frames.h5", "r+") as file:
        file["frames"][3, 5, 5, 0] ^= 1
    assert troubles(bench.run(), bench, tiw, "the frames file: SHA-256") == []
    with h5py.File(bench.root / "frames.h5", "r+") as file:
        file["frames"][3, 5, 5, 0] ^= 1
    assert bench.ends_otherwise() == []
    figures["changes between two starts"] += 1


def moved_into_place(path: Path, content: bytes) -> None:
    path.with_suffix(".new").write_bytes(content)
    os.replace(path.with_suffix(".new"), path)


def rewritten(path: Path, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(content)


def troubles_after_a_swap(bench: Bench, replace: Callable[[Path, bytes], None], commits: int) -> list[str]:
    """What is wrong with a living run whose frames are replaced, and whose child is then killed.

    They are put back at once when it has ended; the next start goes on as if nothing had been.
    """
    bench.begin()
    path = bench.root / "frames.h5"
    old = path.read_bytes()
    with h5py.File(path, "r+") as file:
        file["frames"][:] = 255 - file["frames"][:]
    new = path.read_bytes()
    rewritten(path, old)
    run = bench.start()
    wait_for("a checkpoint", lambda: generation(bench) > commits, 60, pause=0.002)
    (child,) = children(run.pid)
    replace(path, new)
    os.kill(child, signal.SIGKILL)
    ended = run.wait()
    replace(path, old)
    said = "the frames in use are not those the run began with"
    if ended.code != ExitCode.CHANGED or said not in ended.stderr:
        return [f"ended with {ended.code or ended.signal}, saying {ended.stderr[-400:]!r}"]
    return bench.not_whole() or bench.ends_otherwise()


def generation(bench: Bench) -> int:
    run = bench.store.load()
    return run.generation if run else 0


@pytest.mark.parametrize(("replace", "commits"), [(moved_into_place, 2), whole_too(rewritten, 9)])
def test_frames_replaced_under_a_living_run_are_never_trained_on(
    native: Bench, figures: Counter[str], replace: Callable[[Path, bytes], None], commits: int
) -> None:
    assert troubles_after_a_swap(native, replace, commits=commits) == []
    figures["changes under a living run"] += 1


@pytest.mark.whole
def test_frames_that_nobody_compares_would_be_noticed(native: Bench) -> None:
    heedless = native.in_variant("frames_unheeded")
    assert troubles_after_a_swap(heedless, moved_into_place, commits=2) != []


def test_a_change_that_nobody_notices_would_be_noticed(simulated: Bench, tiw: Tiw) -> None:
    careless = begun(simulated).in_variant("changes_unnoticed")
    with_learning_rate(careless, 0.5)
    assert troubles(careless.run(), careless, tiw, "dynamics.learning_rate") != []


@pytest.mark.parametrize(
    "change",
    [
        lambda bench, *flags: bench.run(*flags, device="another device"),
        lambda bench, *flags: bench.run(*flags, threads=4),
    ],
    ids=["device", "threads"],
)
def test_other_hardware_goes_on_and_says_from_where_unless_it_must_be_exact(
    simulated: Bench, tiw: Tiw, figures: Counter[str], change: Callable[..., Ended]
) -> None:
    begun(simulated)
    refused = change(simulated, "--require-exact")
    assert (refused.code, "--require-exact" in refused.stderr) == (ExitCode.CHANGED, True)
    gone_on = change(simulated)
    assert gone_on.code == ExitCode.PASSED
    assert "from here on not bitwise the same run" in gone_on.stderr
    (entry,) = status(simulated, tiw)["inexact"]
    assert (entry["stage"], entry["completed"] > 0, "→" in entry["what"]) == ("video_tokenizer", True, True)
    figures["changes between two starts"] += 1
