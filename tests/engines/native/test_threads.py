"""With how many threads a training process computes, and how they wait for one another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cgroups import made_cgroup
from tiw_fsm.engines.native.starting import environment
from tiw_fsm.system import processors

CGROUPS = Path("/sys/fs/cgroup")
ASKS = """
import sys
from tiw_fsm.engines.native.ranks import Ranks
from tiw_fsm.engines.native.worker import Worker
from tiw_fsm.engines.protocol import HelloRequest
sys.stdin.readline()
for threads in (None, 3):
    print(Worker(print, "", Ranks()).hello(HelloRequest(device="cpu", threads=threads))["threads"])
"""
"""Says with how many threads it computes as a run's first process, and as one of a run that began with three."""


ONE_CPU = {1: {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"}, 2: {"cpu.max": "100000 100000"}}
"""What a cgroup is told, by version."""


@pytest.fixture
def one_cpu() -> Iterator[Path]:
    """A cgroup of either version with a quota of one CPU, if this machine lets us make one."""
    with made_cgroup((CGROUPS / "cpu", CGROUPS), one_cpu_alone) as folder:
        yield folder


def one_cpu_alone(folder: Path) -> None:
    """Write the quota to a new cgroup's own files."""
    told = ONE_CPU[2 if (folder / "cpu.max").exists() else 1]
    for name, content in told.items():
        with open(folder / name, "r+") as file:  # which nobody but the kernel can lay
            file.write(content)


def answers(given: dict[str, str], cgroup: Path | None = None) -> tuple[list[int], str]:
    """What a process in ``cgroup`` says, and how torch's OpenMP shows what it was told."""
    said = subprocess.Popen(
        [sys.executable, "-c", ASKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=given | {"OMP_DISPLAY_ENV": "VERBOSE"},
    )
    with said:
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(str(said.pid))
        out, shown = said.communicate("\n")
    assert said.returncode == 0, shown
    return [int(line) for line in out.split()], shown


def test_a_process_that_the_kernel_gives_one_cpu_has_one_thread_unless_the_run_began_with_more(
    one_cpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", *processors.CHOSEN_BY):
        monkeypatch.delenv(name, raising=False)
    assert len(os.sched_getaffinity(0)) > 1 or pytest.skip("one CPU is all there is")
    threads, shown = answers(environment(), one_cpu)
    assert threads == [1, 3]
    assert "GOMP_SPINCOUNT = '30000'" in shown


def test_what_a_user_has_chosen_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}.items():
        monkeypatch.setenv(name, value)
    threads, shown = answers(environment())
    assert threads == [1, 3]
    assert "GOMP_SPINCOUNT = '0'" in shown
