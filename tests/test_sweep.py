"""Many runs, as docs/recipes.md has them: xargs with several at once, an array of Slurm's, killed and gone on with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import LENIENT, write_configs, write_frames
from tests.support.waiting import wait_for
from tests.test_documents import PROJECT
from tiw_fsm.errors import ExitCode
from tiw_fsm.storage.store import Store

PROGRAM = """#!{python}
import sys
from tiw_fsm.cli import main
if sys.argv[1] == "run":
    sys.argv += {more}
main()
"""
SCONTROL = '#!/bin/sh\necho "$@" >> requeued\n'
NAMES = [f"rate{rate}-seed{seed}" for rate in ("1e-3", "1e-4", "3e-4") for seed in (0, 1)]


def blocks_of(language: str) -> list[str]:
    """What the section on many runs has its reader type, or store."""
    section = (PROJECT / "docs/recipes.md").read_text().partition("\n## Many runs\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


class Cluster:
    """A working root, and programs on the PATH."""

    def __init__(self, root: Path, engine: str) -> None:
        self.root = root
        gate = {"inference": {"allow_trivial": True, "max_mse": 1.0}}
        write_configs(root / "configs", {"dynamics": {"n_updates": 60}, "loop": LENIENT | gate})
        write_frames(root / "frames.h5")
        self.put("tiw-fsm", PROGRAM.format(python=sys.executable, more=["--engine", engine]))
        self.put("scontrol", SCONTROL)
        path = {"PATH": f"{root / 'bin'}:{os.environ['PATH']}"}
        self.environment = os.environ | path | {"SLURM_JOB_ID": "42", "SLURM_ARRAY_TASK_ID": "3"}

    def put(self, name: str, text: str) -> None:
        program = self.root / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)

    def start(self, script: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, script: str) -> str:
        process = self.start(script)
        said, told = process.communicate(timeout=300)
        assert process.returncode == 0, told
        return said

    def generation(self, run: str) -> int:
        state = Store(self.root / "state" / run).load()
        return state.generation if state else 0


def ended(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    """All processes of a script have been killed."""
    os.killpg(process.pid, number)
    process.communicate(timeout=60)


def test_several_runs_at_once_by_xargs_killed_and_typed_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "simulated")
    sweep, table = blocks_of("bash")
    process = cluster.start(sweep)
    wait_for("the first runs", lambda: len(list(tmp_path.glob("state/*/state.json"))) >= 2, 60, 0.01)
    ended(process, signal.SIGKILL)
    cluster.run(sweep)
    states = {name: Store(tmp_path / "state" / name).load() for name in NAMES}
    assert {state.outcome for state in states.values() if state} == {"passed"}
    assert {state.flags["set"]["training.learning_rate"] for state in states.values() if state} == {1e-4, 3e-4, 1e-3}
    said = cluster.run(table)
    assert [line.split()[0] for line in said.splitlines()[1:7]] == NAMES
    assert re.search(r"^training\.learning_rate +0\.0001 +0\.001$", said, re.MULTILINE)
    assert "loop.seed" not in said, "both have the same"


@pytest.mark.whole
def test_an_array_of_slurms_is_killed_told_and_gone_on_with(tmp_path: Path) -> None:
    """A native run: killed outright, then told ahead of the time limit, which requeues it, then left alone."""
    cluster = Cluster(tmp_path, "native")
    (script,) = blocks_of("slurm")
    name = "rate3e-4-seed1"
    process = cluster.start(script)
    wait_for("a checkpoint", lambda: cluster.generation(name) >= 3, 120)
    ended(process, signal.SIGKILL)
    reached = cluster.generation(name)
    process = cluster.start(script)
    wait_for("another", lambda: cluster.generation(name) >= reached + 2, 120)
    os.kill(process.pid, signal.SIGUSR1)
    process.communicate(timeout=120)
    assert process.returncode == ExitCode.INTERRUPTED
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"
    cluster.run(script)
    found = json.loads(cluster.run("tiw-fsm runs --json"))
    assert [(run["run"], run["state"], run["alive"]) for run in found] == [(name, "PASSED", False)]
    state = Store(tmp_path / "state" / name).load()
    assert state is not None
    assert state.interruptions == 2
    assert state.flags["set"] == {"training.learning_rate": 0.0003, "loop.seed": 1}


@pytest.mark.parametrize("task", range(6))
def test_every_task_of_the_array_is_another_run(tmp_path: Path, task: int) -> None:
    cluster = Cluster(tmp_path, "simulated")
    cluster.put("tiw-fsm", '#!/bin/sh\necho "$@"\n')
    cluster.environment["SLURM_ARRAY_TASK_ID"] = str(task)
    (script,) = blocks_of("slurm")
    (said,) = cluster.run(script).splitlines()
    assert said.split()[2] == sorted(NAMES, key=lambda name: float(name[4:8]))[task]
