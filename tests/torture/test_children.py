"""The training process alone is killed, held up, or replaced by another: the bits are the same, or it is said.

Real processes, real frames, the native engine.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.configs import LENIENT, merged
from tests.support.processes import children, process_state
from tests.support.torture.bench import Bench, Setup
from tests.support.torture.launch import Ended, Launcher, Started
from tests.support.waiting import wait_for
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.events import DEATHS
from tiw_fsm.run import deaths

SILENCE = 60
"""Seconds that a child may be silent: enough to import torch on a busy machine."""
LONG = 300
"""Seconds within which something must happen, on a busy machine."""
INTERPRETER = f"""#!/bin/sh
cd "$(dirname "$0")" && [ -e dies ] && kill -KILL $$
[ -e other ] && export ATEN_CPU_CAPABILITY=default
cd "$OLDPWD" && exec {sys.executable} "$@"
"""
"""Killed at its very start where there is a file `dies`; it computes otherwise where there is one `other`."""


class Place(NamedTuple):
    """Runs, and the folder of their interpreter, where it looks what it shall be."""

    bench: Bench
    interpreter: Path


@pytest.fixture(scope="module")
def place(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder, interpreter = (tmp_path_factory.mktemp(name) for name in ("children", "interpreter"))
    python = interpreter / "python"
    python.write_text(INTERPRETER)
    python.chmod(0o755)
    setup = Setup(
        ("run", "--max-mse", "0.9", "--allow-trivial", "--python-exec", str(python)),
        {"loop": merged(LENIENT, {"max_silence": SILENCE}), "video_tokenizer": {"n_updates": 40}},
        frames=True,
    )
    return Place(Bench(launcher, folder, setup), interpreter)


@pytest.fixture
def interpreter(place: Place) -> Path:
    for name in ("dies", "other"):
        (place.interpreter / name).unlink(missing_ok=True)
    return place.interpreter


def events(bench: Bench) -> list[str]:
    return [line["event"] for line in bench.store.journal()]


def in_training(bench: Bench, *flags: str) -> tuple[Started, int]:
    """A run that has committed a checkpoint, and its child, stopped, so that none is committed until it goes on."""
    bench.begin()
    run = bench.start(*flags)
    wait_for("a checkpoint", lambda: "saved" in events(bench), LONG, 0.002)
    (child,) = children(run.pid)
    os.kill(child, signal.SIGSTOP)
    return run, child


def killed(bench: Bench, run: Started, child: int) -> None:
    """Kill it, and wait until that is counted."""
    before = dead(bench)
    os.kill(child, signal.SIGKILL)
    wait_for("its death", lambda: dead(bench) > before or process_state(run.pid) == "Z", LONG, 0.002)


def dead(bench: Bench) -> int:
    """How many children have died, whatever is said to have killed them."""
    return sum(event in DEATHS.values() for event in events(bench))


def otherwise(bench: Bench, ended: Ended) -> list[str]:
    """How a run that ended came out otherwise than one that nobody disturbed."""
    if ended.code != ExitCode.PASSED:
        return [f"ended with {ended.code or ended.signal}, saying {ended.stderr[-400:]!r}"]
    return bench.came_out_otherwise()


# --- killed -----------------------------------------------------------------------------------------------------


def killed_twice(bench: Bench) -> list[str]:
    """What is otherwise after two kills of the child between two checkpoints."""
    run, child = in_training(bench)
    killed(bench, run, child)
    wait_for("the next one", lambda: children(run.pid), LONG, 0.002)
    killed(bench, run, children(run.pid)[0])
    return otherwise(bench, run.wait(LONG))


@pytest.mark.whole
def test_two_kills_between_two_checkpoints_change_nothing(
    place: Place, interpreter: Path, figures: Counter[str]
) -> None:
    assert killed_twice(place.bench) == []
    assert events(place.bench).count("killed") == 2
    figures["kills of the child between two checkpoints"] += 2


@pytest.mark.whole
def test_kills_that_are_taken_for_the_childs_own_doing_would_be_noticed(place: Place, interpreter: Path) -> None:
    blaming = place.bench.in_variant("kills_blamed_on_the_child")
    assert killed_twice(blaming) != []


def test_killed_at_its_very_start_it_is_counted_and_waited_for_until_it_is_let_live(
    place: Place, interpreter: Path, figures: Counter[str]
) -> None:
    """In a run that trains, and by a start that finds it so; a stop signal ends the wait at once."""
    bench = place.bench
    run, child = in_training(bench)
    (interpreter / "dies").touch()
    killed(bench, run, child)
    wait_for("a death at the very start", lambda: dead(bench) == 2, LONG, 0.002)
    asked = time.monotonic()
    run.kill(signal.SIGTERM, group=False)
    ended = run.wait(LONG)
    assert (ended.code, time.monotonic() - asked < deaths.PAUSES[1] - 1) == (ExitCode.INTERRUPTED, True)
    assert [line for line in ended.stderr.splitlines() if "waiting 1 s" in line or "waiting 5 s" in line]
    run = bench.start()
    wait_for("a death before the start is committed", lambda: dead(bench) == 3, LONG, 0.002)
    (interpreter / "dies").unlink()
    run.kill(signal.SIGTERM, group=False)
    assert run.wait(LONG).code == ExitCode.INTERRUPTED
    assert bench.ends_otherwise() == []
    figures["kills of the child at its very start"] += 2


@pytest.mark.whole
def test_killed_on_sight_a_run_that_has_not_begun_says_run_again(place: Place, interpreter: Path) -> None:
    (interpreter / "dies").touch()
    place.bench.begin()
    ended = place.bench.run()
    assert ended.code == ExitCode.INTERRUPTED
    assert "SIGKILL" in ended.stderr
    assert "the same command goes on" in ended.stderr
    (interpreter / "dies").unlink()
    assert place.bench.ends_otherwise() == []


# --- held up ----------------------------------------------------------------------------------------------------


@pytest.mark.whole
@pytest.mark.parametrize("group", [False, True], ids=["alone", "with everything"])
def test_stopped_for_longer_than_it_may_be_silent_it_goes_on(place: Place, interpreter: Path, group: bool) -> None:
    """The short form tries this on a child alone (``tests/system``), which takes seconds."""
    run, child = in_training(place.bench)
    if group:
        run.kill(signal.SIGSTOP)
    time.sleep(SILENCE + 2)
    run.kill(signal.SIGCONT)
    os.kill(child, signal.SIGCONT)
    assert otherwise(place.bench, run.wait(LONG)) == []
    assert not {"crashed", "killed"} & set(events(place.bench))


def test_out_of_processor_time_it_saves_and_the_run_ends_as_asked_to_stop(place: Place, interpreter: Path) -> None:
    """The kernel sends SIGXCPU to the child, whose time it is."""
    run, child = in_training(place.bench)
    os.kill(child, signal.SIGXCPU)
    os.kill(child, signal.SIGCONT)
    assert run.wait(LONG).code == ExitCode.INTERRUPTED
    assert events(place.bench)[-1] == "interrupted"
    assert place.bench.ends_otherwise() == []


# --- another in its place ---------------------------------------------------------------------------------------


def replaced(bench: Bench, interpreter: Path, *flags: str) -> Ended:
    """How a run ends whose child is killed, and whose next child computes on another CPU."""
    run, child = in_training(bench, *flags)
    (interpreter / "other").touch()
    killed(bench, run, child)
    return run.wait(LONG)


def unsaid(bench: Bench, ended: Ended) -> list[str]:
    """What is wrong with how a run goes on on other hardware."""
    state = bench.store.load()
    found = [entry.what for entry in state.inexact] if state else []
    if ended.code != ExitCode.PASSED or not found:
        return [f"ended with {ended.code}, inexact is {found}"]
    return [] if "not bitwise the same run: device: cpu" in ended.stderr else [f"nothing is said of it: {ended.stderr}"]


@pytest.mark.whole
def test_one_on_other_hardware_is_said_to_be_or_refused(place: Place, interpreter: Path, figures: Counter[str]) -> None:
    assert unsaid(place.bench, replaced(place.bench, interpreter)) == []
    assert "changed" in events(place.bench)
    (interpreter / "other").unlink()
    refused = replaced(place.bench, interpreter, "--require-exact")
    assert (refused.code, "--require-exact" in refused.stderr) == (ExitCode.CHANGED, True)
    (interpreter / "other").unlink()
    assert place.bench.ends_otherwise() == []
    figures["children replaced by others"] += 2


@pytest.mark.whole
def test_a_new_child_that_nobody_looks_at_would_be_noticed(place: Place, interpreter: Path) -> None:
    trusting = place.bench.in_variant("children_unheld")
    assert unsaid(trusting, replaced(trusting, interpreter)) != []
