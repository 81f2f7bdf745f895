"""However many starts of a run there are at once: one of them works, the others say so and go, and what it writes is
its own."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.support.amounts import Amount
from tests.support.configs import write_configs
from tests.support.processes import process_state
from tests.support.torture.disk import Tree
from tests.support.torture.launch import Ended, Fault, Launcher, Started
from tiw_fsm.errors import ExitCode, RunHeld, TiwFsmError
from tiw_fsm.fsm.run_state import Runner, RunState
from tiw_fsm.reporting.status import status
from tiw_fsm.run import verify
from tiw_fsm.storage.state_folder import migrated
from tiw_fsm.storage.store import Store, apply_patch, document_of

AT_ONCE = 20
RUN = ("run", "--engine", "simulated")
ENDLESS = (*RUN, "--target-updates", "10000000")
PATIENCE = 60.0
"""Seconds after which a start counts as one that waits for the runner to end; a busy machine is given plenty."""
AT_WORK = 2
"""Generations by which a runner has shown that it works: its start, and what it did."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_configs(tmp_path / "root/configs")
    return tmp_path / "root"


def store_of(root: Path) -> Store:
    return Store(root / "state" / "default")


def loaded(root: Path) -> RunState:
    run = store_of(root).load()
    assert run is not None
    return run


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE} s: {what}")
        time.sleep(0.001)


def wait_for_work(root: Path) -> Runner:
    """Until a runner that was not at work before, or is continued now, has worked; who it is."""

    def generation() -> int:
        run = store_of(root).load()
        return run.generation if run else 0

    wanted = generation() + AT_WORK
    wait_until(f"generation {wanted}", lambda: generation() >= wanted)
    runner = loaded(root).runner
    assert runner is not None
    return runner


def stop(started: Started) -> None:
    """With SIGSTOP: it keeps what it holds, and does nothing."""
    started.kill(signal.SIGSTOP)
    wait_until("a process stops", lambda: process_state(started.pid) == "T")


@contextmanager
def stopped_holder(launcher: Launcher, root: Path) -> Iterator[Started]:
    """A runner that is stopped in the middle of its work."""
    holder = launcher.start(root, *ENDLESS)
    try:
        wait_for_work(root)
        stop(holder)
        yield holder
    finally:
        holder.kill()
        holder.wait()


def not_held(ended: Ended) -> list[str]:
    """Why a start did not end as one must that finds the run held."""
    as_it_must = ended.code == ExitCode.HELD and not ended.stdout and ended.stderr.startswith("another process is ")
    return [] if as_it_must else [f"ended with {ended.code or ended.signal}, saying {ended.stderr[-300:]!r}"]


def interleaved(root: Path, runners: list[int]) -> list[str]:
    """Why the journal is not what these processes wrote, one after the other."""
    run = loaded(root)
    lines = store_of(root).journal()[: run.generation]
    numbers = [line["generation"] for line in lines]
    documents: list[dict[str, Any]] = [{}]
    for line in lines:
        documents.append(apply_patch(documents[-1], line["changes"]))
    wrote = [pid for pid, _ in groupby(document["runner"]["pid"] for document in documents[1:] if "runner" in document)]
    troubles = {
        f"its generations are {numbers}": numbers == list(range(1, run.generation + 1)),
        "it does not add up to the state": migrated(documents[-1], store_of(root).paths.state) == document_of(run),
        "it tells of several runs": {document["run_id"] for document in documents[1:]} == {run.run_id},
        f"{wrote} wrote it, where {runners} worked": wrote == runners,
    }
    return [f"the journal: {trouble}" for trouble, well in troubles.items() if not well]


# --- many at once -----------------------------------------------------------------------------------------------


def starts_at_once(launcher: Launcher, root: Path, number: int, broken: str | None) -> list[Started]:
    """All held back at their beginning until the last one has begun."""
    starts = []
    for _ in range(number):
        starts.append(launcher.start(root, *ENDLESS, broken=broken))
        starts[-1].kill(signal.SIGSTOP)
    for started in starts:
        started.kill(signal.SIGCONT)
    return starts


def contest(
    launcher: Launcher,
    root: Path,
    runners: list[int],
    *,
    number: int = AT_ONCE,
    patience: float = PATIENCE,
    broken: str | None = None,
) -> list[str]:
    """Troubles of a round: one start of many must work, and all others go while it, stopped, holds the run.

    Then it is continued, must go on with its work, and is killed in the middle of it. It is added to ``runners``.
    """
    starts = starts_at_once(launcher, root, number, broken)
    try:
        runners.append(wait_for_work(root).pid)
        holder = next(started for started in starts if started.pid == runners[-1])
        stop(holder)
        others = [started for started in starts if started is not holder]
        for started in others:
            starts.remove(started)
            if troubles := not_held(started.wait(patience)):
                return troubles
        holder.kill(signal.SIGCONT)
        wait_for_work(root)
        return interleaved(root, runners)
    except (TimeoutError, TiwFsmError) as exc:
        return [str(exc)]
    finally:
        for started in starts:
            started.kill()
            started.wait()


def test_of_twenty_starts_at_once_one_works_and_the_others_go_while_it_is_stopped(
    launcher: Launcher, root: Path, figures: Counter[str], amount: Amount
) -> None:
    """Each round goes on with the run that the round before left killed."""
    runners: list[int] = []
    for _ in range(min(100, amount(3, 1.7))):
        figures["concurrent starts"] += AT_ONCE
        assert contest(launcher, root, runners) == []


def test_of_twenty_starts_that_arrive_while_a_run_ends_one_works(
    launcher: Launcher, root: Path, figures: Counter[str]
) -> None:
    figures["concurrent starts"] += AT_ONCE
    starts = [launcher.start(root, *RUN) for _ in range(AT_ONCE)]
    ended = {started.pid: started.wait() for started in starts}
    winner = store_of(root).journal()[0]["changes"]["runner"]["pid"]
    assert ended[winner].code == ExitCode.PASSED
    assert interleaved(root, [winner]) == []
    assert [trouble for end in ended.values() if end.code != ExitCode.PASSED for trouble in not_held(end)] == []


# --- one after the other ----------------------------------------------------------------------------------------

PATHS = {
    "a relative root": ("--repo-root", "root"),
    "a way round": ("--repo-root", "root/../root/./configs/.."),
    "a link to the root": ("--repo-root", "link"),
    "a link to the states": ("--repo-root", "elsewhere", "--state-dir", "states"),
    "a link to the state": ("--repo-root", "root", "--run", "alias"),
}


def test_the_same_run_reached_by_another_path_is_held(launcher: Launcher, root: Path, figures: Counter[str]) -> None:
    folder = root.parent
    with stopped_holder(launcher, root):
        (folder / "link").symlink_to("root")
        (folder / "states").symlink_to("root/state")
        (root / "state/alias").symlink_to("default")
        starts = {name: launcher.start(folder, *RUN, *arguments) for name, arguments in PATHS.items()}
        figures["concurrent starts"] += len(starts)
        assert {name: not_held(started.wait()) for name, started in starts.items()} == {name: [] for name in PATHS}


def test_with_if_idle_those_that_find_the_run_held_are_silent_and_end_well(
    launcher: Launcher, root: Path, figures: Counter[str]
) -> None:
    with stopped_holder(launcher, root):
        starts = [launcher.start(root, *RUN, "--if-idle") for _ in range(AT_ONCE)]
        figures["concurrent starts"] += len(starts)
        ended = [started.wait() for started in starts]
    assert {(end.code, end.stdout, end.stderr) for end in ended} == {(ExitCode.PASSED, "", "")}


def test_a_start_gives_up_within_a_second_of_reaching_the_lock(launcher: Launcher, root: Path) -> None:
    """At best: what a busy machine adds is not the lock's."""
    took = []
    with stopped_holder(launcher, root):
        for _ in range(5):
            reached = time.monotonic()
            with pytest.raises(RunHeld), store_of(root).hold():
                pass
            took.append(time.monotonic() - reached)
    assert min(took) < 1


# --- what the dead leave ----------------------------------------------------------------------------------------

LEFT: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "the number of a process that lives": lambda: f"{os.getpid()}\n".encode(),
    "garbage": lambda: bytes(range(256)),
}
"""What is in a lock file that a dead process has left behind."""
IN_ITS_WORK = 200
"""The operation on its files at which it died: some checkpoints are committed then, and others are still to come."""


def give_its_number_to_a_living_process(root: Path) -> None:
    """As if the number of the process that the state names had come round again."""
    store = store_of(root)
    run, _ = store.resume()
    assert run is not None
    assert run.runner is not None
    store.commit(run, run.evolve(runner=run.runner.evolve(pid=os.getpid())), "recycled", {})


def shut_out(launcher: Launcher, root: Path, left: bytes, broken: str | None = None) -> list[str]:
    """Why a run whose runner was killed, and left this in the lock file, does not go on to its end."""
    launcher.start(root, *RUN, fault=Fault("before", IN_ITS_WORK), broken=broken).wait()
    give_its_number_to_a_living_process(root)
    store_of(root).paths.lock.write_bytes(left)
    troubles = ["status says that it is alive"] if status(store_of(root))["alive"] else []
    ended = launcher.start(root, *RUN, broken=broken).wait()
    if ended.code != ExitCode.PASSED:
        troubles.append(f"ended with {ended.code or ended.signal}, saying {ended.stderr!r}")
    return troubles


@pytest.mark.parametrize("left", LEFT)
def test_neither_a_lock_file_left_behind_nor_a_recycled_pid_shuts_a_run_out(
    launcher: Launcher, root: Path, figures: Counter[str], left: str
) -> None:
    figures["locks left behind"] += 1
    assert shut_out(launcher, root, LEFT[left]()) == []


# --- the lock taken away ------------------------------------------------------------------------------------------

AWAY = 4
"""Commits after which a runner stands still while its lock, or its folder, is taken away."""


def standing_still(launcher: Launcher, root: Path, broken: str | None = None) -> Started:
    """A runner between two commits."""
    runner = launcher.start(root, *ENDLESS, fault=Fault("stop", AWAY), broken=broken)
    wait_until("it stands still", lambda: process_state(runner.pid) == "T")
    return runner


def gone(ended: Ended, *said: str) -> list[str]:
    """Why a runner did not end as one must that has lost its lock."""
    if ended.code == ExitCode.INTERRUPTED and all(part in ended.stderr for part in said):
        return []
    return [f"ended with {ended.code or ended.signal}, saying {ended.stderr[-300:]!r}"]


def usurped(launcher: Launcher, root: Path, broken: str, patience: float = PATIENCE) -> list[str]:
    """Troubles of a run whose lock files are removed under its runner, so that another takes it up."""
    first = standing_still(launcher, root, broken)
    for lock in root.rglob("lock"):
        lock.unlink()
    second = standing_still(launcher, root, broken)
    try:
        first.kill(signal.SIGCONT)
        troubles = gone(first.wait(patience), "was removed while this process held it", "run again")
        second.kill(signal.SIGCONT)
        wait_for_work(root)
        return troubles + interleaved(root, [first.pid, second.pid])
    except (TimeoutError, TiwFsmError) as exc:
        return [str(exc)]
    finally:
        for runner in (first, second):
            with suppress(ProcessLookupError):
                runner.kill()
        second.wait()


def test_a_lock_file_removed_under_its_runner_lets_no_other_in_and_is_laid_anew(
    launcher: Launcher, root: Path, figures: Counter[str], amount: Amount
) -> None:
    """Wherever it stands: the folder it lies in is locked, too."""
    holder, path = launcher.start(root, *ENDLESS), store_of(root).paths.lock
    wait_for_work(root)
    for _ in range(min(100, amount(5, 1.7))):
        stop(holder)
        path.unlink()
        figures["locks taken away"] += 1
        assert status(store_of(root))["alive"]
        assert not_held(launcher.start(root, *RUN).wait()) == []
        holder.kill(signal.SIGCONT)
        wait_until("the lock is laid anew", path.exists)
        wait_for_work(root)
    assert interleaved(root, [holder.pid]) == []
    holder.kill()
    holder.wait()


def test_a_runner_whose_lock_file_another_has_taken_commits_nothing_more(
    launcher: Launcher, root: Path, figures: Counter[str]
) -> None:
    figures["locks taken away"] += 1
    assert usurped(launcher, root, "folders_unlocked") == []


@pytest.mark.parametrize("replaced", [False, True])
def test_a_runner_whose_folder_is_moved_away_ends_and_writes_in_no_other(
    launcher: Launcher, root: Path, figures: Counter[str], replaced: bool
) -> None:
    runner, folder = standing_still(launcher, root), store_of(root).paths.folder
    figures["locks taken away"] += 1
    folder.rename(elsewhere := folder.with_name("elsewhere"))
    if replaced:
        shutil.copytree(elsewhere, folder)
    before = Tree.read(root / "state/default") if replaced else None
    runner.kill(signal.SIGCONT)
    assert gone(runner.wait(PATIENCE), "was moved or removed", "put it back") == []
    assert folder.exists() == replaced
    if replaced:
        assert before is not None
        assert list(before.differences(Tree.read(folder))) == []
        shutil.rmtree(folder)
    elsewhere.rename(folder)
    assert launcher.start(root, *ENDLESS, fault=Fault("marked", AWAY)).wait().signal == signal.SIGKILL
    assert verify.findings(store_of(root)) != []
    assert [problem for _, problems in verify.findings(store_of(root)) for problem in problems] == []


# --- the bench itself -------------------------------------------------------------------------------------------


def test_the_bench_catches_a_store_that_locks_nothing(launcher: Launcher, root: Path) -> None:
    assert contest(launcher, root, [], number=3, patience=2, broken="no_lock") != []


def test_the_bench_catches_a_runner_that_never_looks_at_its_lock(launcher: Launcher, root: Path) -> None:
    assert usurped(launcher, root, "lock_unchecked", patience=10) != []


def test_the_bench_catches_a_lock_that_is_a_file_with_a_pid(launcher: Launcher, root: Path) -> None:
    assert shut_out(launcher, root, f"{os.getpid()}\n".encode(), broken="pid_file") != []
