"""The process that trains is the controller's own code on what the run began with, whatever lies around it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import tiw_fsm
from tests.support.configs import LENIENT, write_configs, write_frames
from tests.support.native_runs import PASSING
from tests.support.processes import children
from tests.support.run_folder import RunFolder
from tests.support.waiting import wait_for
from tiw_fsm.errors import ExitCode

PACKAGE = Path(tiw_fsm.__path__[0])
LONG = 300
"""Seconds within which something must happen, on a busy machine."""


class Root(RunFolder):
    """A working root with tiny frames, and runs in it as real processes, with as many threads as torch would take."""

    def __init__(self, root: Path, **changes: Mapping[str, object]) -> None:
        super().__init__(root)
        write_configs(root / "configs", {"loop": LENIENT, "video_tokenizer": {"n_updates": 40}, **changes})
        write_frames(root / "frames.h5")

    def start(
        self, *flags: str, path: str = "", limit: int | None = None, through: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """One start, with ``path`` before what else modules are looked for in, by a command that executes it."""
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        return subprocess.Popen(
            [*through, sys.executable, "-P", "-m", "tiw_fsm", "run", *PASSING, *flags],
            cwd=self.root,
            env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        )

    def stopped_child(self, run: subprocess.Popen[str]) -> int:
        """The child of a run that has committed a checkpoint; stopped, so that none is committed until it goes on."""
        wait_for("a checkpoint", lambda: run.poll() is not None or "saved" in self.events(), LONG, pause=0.002)
        assert run.poll() is None, run.communicate()
        (child,) = children(run.pid)
        os.kill(child, signal.SIGSTOP)
        return child

    def digests(self) -> list[str]:
        return [progress.checkpoint.sha256 for progress in self.state.stages.values() if progress.checkpoint]


def ended(run: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what it said."""
    said = run.communicate(timeout=LONG)[1]
    return run.returncode, said


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The digests of a run that nobody disturbed."""
    root = Root(tmp_path_factory.mktemp("calm"))
    assert ended(root.start())[0] == ExitCode.PASSED
    return root.digests()


def test_modules_that_lie_about_are_never_the_childs(tmp_path: Path, calm: list[str]) -> None:
    """Nor do the CPUs it may use decide how many threads a new child computes with."""
    root = Root(tmp_path)
    for name in ("random", "numpy", "h5py", "json"):
        (tmp_path / f"{name}.py").write_text("open('planted', 'w')\nraise SystemExit('planted')\n")
    shutil.copytree(PACKAGE, tmp_path / "tiw_fsm", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "tiw_fsm/tinyworlds/learning_rate.py", "a") as file:
        file.write("\nlearning_rate = lambda *given: 1.0\n")
    run = root.start()
    child = root.stopped_child(run)
    os.sched_setaffinity(run.pid, {min(os.sched_getaffinity(run.pid))})
    os.kill(child, signal.SIGKILL)
    code, said = ended(run)
    assert code == ExitCode.PASSED, said
    assert (root.digests(), root.state.inexact, root.events().count("killed")) == (calm, [], 1)
    assert not (tmp_path / "planted").exists()


def test_standard_input_and_output_that_are_closed_are_nobodys_pipe(tmp_path: Path, calm: list[str]) -> None:
    root = Root(tmp_path)
    assert ended(root.start(through=("sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-')))[0] == ExitCode.PASSED
    assert root.digests() == calm


def test_code_that_changes_under_a_run_is_refused_by_the_next_child(tmp_path: Path, calm: list[str]) -> None:
    copied, root = tmp_path / "package/tiw_fsm", Root(tmp_path / "root")
    shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    run = root.start(path=str(copied.parent))
    child = root.stopped_child(run)
    changed = copied / "tinyworlds/learning_rate.py"
    times, source = changed.stat(), changed.read_bytes()
    changed.write_bytes(source.replace(b"warm", b"worm", 1))  # of the same size and, as far as that tells, age
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert changed.read_bytes() != source
    os.kill(child, signal.SIGKILL)
    code, said = ended(run)
    assert (code, "the code of tiw_fsm: " in said) == (ExitCode.CHANGED, True), said
    assert root.events().count("saved") == 1
    changed.write_bytes(source)
    assert ended(root.start(path=str(copied.parent)))[0] == ExitCode.PASSED
    assert (root.digests(), root.state.inexact) == (calm, [])


@pytest.mark.parametrize(
    ("interpreter", "mode", "said"),
    [("", 0o644, "cannot be executed: Permission denied"), ("#!/bin/sh\necho no torch; exit 3", 0o755, "no torch")],
)
def test_an_interpreter_that_cannot_run_it_is_the_users_to_mend(
    tmp_path: Path, interpreter: str, mode: int, said: str
) -> None:
    root = Root(tmp_path)
    (tmp_path / "python").write_text(interpreter)
    (tmp_path / "python").chmod(mode)
    code, message = ended(root.start("--python-exec", "python"))
    assert (code, said in message, "--python-exec" in message) == (ExitCode.USAGE, True, True), message


@pytest.mark.parametrize("mebibytes", [100, 300])
def test_memory_that_does_not_suffice_to_begin_is_named_and_costs_nothing(tmp_path: Path, mebibytes: int) -> None:
    """For the controller, or for its child."""
    code, message = ended(Root(tmp_path).start(limit=mebibytes << 20))
    assert (code, "emory does not suffice" in message, "batch_size_per_gpu" in message) == (ExitCode.DISK, True, True)
    assert not (tmp_path / "state/default/state.json").exists()


def test_a_batch_for_which_memory_does_not_suffice_is_named_as_such(tmp_path: Path) -> None:
    """torch says of the CPU's memory that with a RuntimeError of its own."""
    huge = {"video_tokenizer": {"batch_size_per_gpu": 1 << 20, "n_updates": 40}}
    root = Root(tmp_path, **huge)
    code, message = ended(root.start("--max-crashes", "0", limit=4 << 30))
    assert (code, root.state.reason) == (
        ExitCode.NOT_PASSED,
        "the budget max_crashes is used up in TRAIN_VIDEO: memory did not suffice; lower batch_size_per_gpu, or "
        "preload_ratio so that fewer frames are held",
    ), message
    (death,) = root.journal("out_of_memory")
    assert (death["killed_by"], "Memory did not suffice: lower batch_size_per_gpu" in message) == ("memory", True)
