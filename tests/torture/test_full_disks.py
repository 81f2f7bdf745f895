"""A disk that stays full while a scheduler starts the run again and again costs none of its starts; and what cannot be
removed, or not be renamed, does not stop a run."""

from __future__ import annotations

import errno
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support.amounts import Amount, whole_too
from tests.support.torture.bench import Bench, spread
from tests.support.torture.launch import Ended, Fault, Refusal
from tiw_fsm.config.loop import Budgets
from tiw_fsm.errors import ExitCode

BEGUN = 3
"""Commits after which the run is killed before its disk is full."""
TOO_MANY = Budgets().max_stalled_starts + 5
FULL = {"results": "/results/", "state": "/state/", "all of it": "/root/"}
NOT_YET = {
    "NFS keeps a removed file that is open": ("rmdir", errno.ENOTEMPTY),
    "it is in use": ("rmdir", errno.EBUSY),
    "a stale handle": ("unlink", errno.ESTALE),
    "a file of somebody else": ("unlink", errno.EACCES),
    "a file that must not be changed": ("unlink", errno.EPERM),
}
CHECKPOINTS, DISCARDED = "/checkpoints/", "/.discarded-"


@pytest.fixture
def lasts(tmp_path: Path) -> Path:
    """As long as this file is there, the disk refuses."""
    path = tmp_path / "lasts"
    path.touch()
    return path


def refused(bench: Bench, refusal: Refusal, fault: Fault | None = None) -> Ended:
    """One start whose disk refuses something as long as it runs."""
    return bench.start(refusal=refusal, fault=fault).wait()


def after_many_starts(bench: Bench, refusal: Refusal, starts: int) -> list[str]:
    """Troubles of a run that is started so often while its disk is full, and then has space again."""
    bench.begin()
    bench.start(fault=Fault("marked", BEGUN)).wait()
    ended = [refused(bench, refusal) for _ in range(starts)]
    refusal.lasts.unlink()
    wrong = [end for end in ended if end.code != ExitCode.DISK or "No space left" not in end.stderr]
    return [f"ended with {end.code}, saying {end.stderr[-300:]!r}" for end in wrong[:1]] or bench.ends_otherwise()


@pytest.mark.parametrize("what", ["results", "state", whole_too("all of it")])
def test_a_full_disk_costs_no_starts_however_often_a_scheduler_tries(
    simulated: Bench, lasts: Path, figures: Counter[str], amount: Amount, what: str
) -> None:
    starts = TOO_MANY if what == "results" else min(TOO_MANY, amount(5, 1))
    figures["starts on a full disk"] += starts
    assert after_many_starts(simulated, Refusal("write", errno.ENOSPC, FULL[what], lasts), starts) == []
    state = simulated.store.load()
    assert state is not None
    assert state.interruptions == 1  # the kill


def test_a_refused_start_is_told_of_as_one_and_leaves_nothing_half_written(simulated: Bench, lasts: Path) -> None:
    simulated.begin()
    simulated.start(fault=Fault("marked", BEGUN)).wait()
    refused(simulated, Refusal("write", errno.ENOSPC, FULL["results"], lasts))
    state = simulated.store.load()
    assert state is not None
    assert (state.stalled_starts, state.runner) == (0, None)
    assert not list(simulated.root.glob("results/**/.tmp-*"))
    said = [simulated.told(command) for command in ("status", "history")]
    assert all("No space left" in text for text in said), said


def rubbish(bench: Bench, refusal: Refusal) -> list[str]:
    """Troubles of a run some of whose rubbish cannot be removed until it is killed, and then can."""
    bench.begin()
    ended = refused(bench, refusal, Fault("marked", 20))
    if ended.signal != signal.SIGKILL:
        return [f"ended with {ended.code}, saying {ended.stderr[-300:]!r}"]
    said = Counter(line for line in ended.stderr.splitlines() if "cannot be removed yet" in line)
    told = [] if said and max(said.values()) == 1 else [f"said {said}"]
    refusal.lasts.unlink()
    return told + bench.ends_otherwise()


@pytest.mark.parametrize("why", NOT_YET)
def test_rubbish_that_cannot_be_removed_yet_is_told_of_once_and_removed_later(
    simulated: Bench, lasts: Path, figures: Counter[str], why: str
) -> None:
    figures["rubbish that stays"] += 1
    call, error = NOT_YET[why]
    assert rubbish(simulated, Refusal(call, error, DISCARDED, lasts)) == []


def test_rubbish_that_can_never_be_removed_stops_no_run(simulated: Bench, lasts: Path) -> None:
    simulated.begin()
    ended = refused(simulated, Refusal("rmdir", errno.ENOTEMPTY, CHECKPOINTS, lasts))
    assert ended.code == ExitCode.PASSED, ended.stderr


def test_folders_that_cannot_be_renamed_are_copied_wherever_it_is_killed(
    simulated: Bench, lasts: Path, figures: Counter[str], amount: Amount
) -> None:
    """As those of the lower layers of an overlayfs."""
    refusal = Refusal("rename", errno.EXDEV, CHECKPOINTS, lasts)
    simulated.begin()
    ended = refused(simulated, refusal)
    assert ended.code == ExitCode.PASSED, ended.stderr
    assert simulated.came_out_otherwise() == []
    for number in spread(ended.operations, min(ended.operations, amount(4, 1))):
        figures["kills where folders cannot be renamed"] += 1
        simulated.begin()
        refused(simulated, refusal, Fault("before", number))
        assert refused(simulated, refusal).code == ExitCode.PASSED
        assert [trouble for trouble in simulated.came_out_otherwise() if ".set-aside-" not in trouble] == [], number


# --- the bench itself -------------------------------------------------------------------------------------------


@pytest.mark.whole
def test_the_bench_catches_refusals_that_cost_starts(simulated: Bench, lasts: Path) -> None:
    variant = simulated.in_variant("refusals_cost_starts")
    assert after_many_starts(variant, Refusal("write", errno.ENOSPC, FULL["results"], lasts), TOO_MANY) != []


def test_the_bench_catches_rubbish_that_stops_a_run(simulated: Bench, lasts: Path) -> None:
    refusal = Refusal("rmdir", errno.ENOTEMPTY, DISCARDED, lasts)
    assert rubbish(simulated.in_variant("rubbish_is_fatal"), refusal) != []
