"""The real Slurm keeps a run going that it, or the test, interrupts, on one node and on two.

``make test-schedulers`` runs it, as root, for the daemons; it is skipped where they are missing or do not start. They
are this test's own: they know no other job, and end with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.schedulers.long_run import FLAGS, LongRun, one_after_the_other
from tests.support.waiting import wait_for

SLURM = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF State=UP
"""
"""cred_expire is also how long a requeued job has to wait."""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 State=UNKNOWN"
"""On this machine, like all of them; one job has its only processor."""


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Slurm:
    """Slurm's commands, as a user types them."""

    def __init__(self, folder: Path) -> None:
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *words: str, script: str = "", within: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, input=script, cwd=within, env=self.environment, capture_output=True, text=True, check=False
        )

    def submit(self, script: str, *flags: str, within: Path) -> str:
        done = self.call("sbatch", "--parsable", *flags, script=script, within=within)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        shown = self.call("scontrol", "show", "job", number).stdout
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def idle(self) -> list[str]:
        listed = ("sinfo", "--noheader", "--Node", "--partition=low", "--states=idle", "--format=%N")
        return self.call(*listed).stdout.split()

    def state(self, number: str) -> str:
        return self.job(number).get("JobState", "")


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Slurm]:
    """A cluster on loopback, of one node or as many as the test's parameter says."""
    nodes = [f"n{index}" for index in range(getattr(request, "param", 1))]
    tools = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
    if missing := [tool for tool in tools if not shutil.which(tool)]:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)")
    if os.geteuid():
        pytest.skip("Slurm's daemons need root here")
    folder = tmp_path_factory.mktemp("slurm")
    for parent in [folder, *folder.parents]:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)  # munged refuses folders that others may not enter
    for name in ("state", *(f"spool-{node}" for node in nodes)):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    port, *ports = free_ports(1 + len(nodes))
    host = socket.gethostname().partition(".")[0]
    lines = [NODE.format(name=name, host=host, port=at) for name, at in zip(nodes, ports, strict=True)]
    (folder / "slurm.conf").write_text(SLURM.format(host=host, folder=folder, port=port, nodes="\n".join(lines)))
    slurm = Slurm(folder)
    munge = [
        f"--{name}={folder}/munge.{ending}"
        for name, ending in (
            ("socket", "socket"),
            ("key-file", "key"),
            ("log-file", "log"),
            ("pid-file", "pid"),
            ("seed-file", "seed"),
        )
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    log = folder / "daemons.log"
    try:
        with open(log, "wb") as file:
            for words in (
                ["munged", "--foreground", "--force", *munge],
                ["slurmctld", "-D", "-c"],
                *(["slurmd", "-D", "-N", node] for node in nodes),
            ):
                daemons.append(
                    subprocess.Popen(
                        words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=folder, env=slurm.environment
                    )
                )
                if words[0] == "munged":
                    wait_for("munge", lambda: (folder / "munge.socket").exists() or daemons[0].poll() is not None, 10)
        try:
            wait_for("idle nodes", lambda: slurm.idle() == nodes, 30)
        except AssertionError:
            pytest.skip(f"no Slurm starts here: {log.read_text()[-1000:]}")
        yield slurm
    finally:
        for number in slurm.call("squeue", "--noheader", "--format=%i").stdout.split():
            slurm.call("scancel", "--signal=KILL", "--full", number)
            slurm.call("scancel", number)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(30)


def works_on(number: str, run: LongRun, slurm: Slurm) -> None:
    before = run.generation()
    wait_for("work under Slurm", lambda: slurm.state(number) == "RUNNING", 90)
    wait_for("progress under Slurm", lambda: run.generation() > before + 2, 60)


def test_slurm_takes_the_script_and_requeues_it_on_notice_and_on_preemption(
    long_run: LongRun, slurm: Slurm, undisturbed: tuple[str, list[str]]
) -> None:
    script = long_run.snippet("slurm")
    tested = slurm.call("sbatch", "--test-only", "--time=4:00:00", script=script, within=long_run.root)
    assert tested.returncode == 0, tested.stderr
    long_run.begin()

    number = slurm.submit(script, "--time=4:00:00", within=long_run.root)
    works_on(number, long_run, slurm)
    slurm.call("scancel", "--batch", "--signal=USR1", number)
    wait_for("the requeue after a notice", lambda: slurm.job(number).get("Restarts") == "1", 60)
    assert long_run.events()[-1] == "interrupted"

    works_on(number, long_run, slurm)
    slurm.submit("#!/bin/sh\nexit 0\n", "--partition=high", "--output=/dev/null", within=long_run.root)
    wait_for("the requeue after a preemption", lambda: slurm.job(number).get("Restarts") == "2", 60)
    wait_for("the run to let go", lambda: not long_run.runners(), 60)
    assert long_run.events()[-1] == "interrupted"

    wait_for("the end", lambda: slurm.state(number) == "COMPLETED", 600)
    assert long_run.outcome() == undisturbed
    assert one_after_the_other(long_run)


def test_slurm_does_not_bring_back_a_cancelled_job(long_run: LongRun, slurm: Slurm) -> None:
    long_run.begin()
    before = long_run.generation()
    number = slurm.submit(long_run.snippet("slurm"), within=long_run.root)
    wait_for("progress under Slurm", lambda: long_run.generation() > before + 2, 90)
    slurm.call("scancel", number)
    wait_for("the end", lambda: not long_run.runners() and slurm.state(number) == "CANCELLED", 60)
    assert long_run.events()[-1] == "interrupted"


# --- two nodes --------------------------------------------------------------------------------------------------------


class Pair(LongRun):
    """A run on two machines."""

    @contextmanager
    def joined(self) -> Iterator[list[str]]:
        """By hand: a joiner is there, and ends with the run; yields the flags of the run."""
        endpoint = f"127.0.0.1:{free_ports(1)[0]}"
        joiner = subprocess.Popen(
            [self.program, "join", endpoint, "--run", "default", "--nproc-per-node", "1"], cwd=self.root
        )
        yield ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-endpoint", endpoint]
        assert joiner.wait(60) in (0, 75)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    run = Pair(tmp_path / "pair")
    yield run
    run.kill()
    run.kill("join")


@pytest.mark.parametrize("slurm", [2], indirect=True)
def test_slurm_on_two_nodes_requeues_a_run_and_lets_a_killed_joiner_join_again(
    pair: Pair, slurm: Slurm, tmp_path: Path
) -> None:
    undisturbed = Pair(tmp_path / "undisturbed")
    with undisturbed.joined() as flags:
        assert undisturbed.call("run", *FLAGS, *flags).returncode == 0
    with pair.joined() as flags:
        pair.begin(*flags)

    number = slurm.submit(pair.snippet("slurm", "--nodes", "2"), "--time=4:00:00", within=pair.root)
    works_on(number, pair, slurm)
    wait_for("a joiner", lambda: len(pair.runners("join")) == 1, 30)
    (joiner,) = pair.runners("join")
    os.kill(joiner, signal.SIGKILL)
    wait_for("another joiner", lambda: len(pair.runners("join")) == 1 and pair.runners("join") != [joiner], 30)
    works_on(number, pair, slurm)

    slurm.call("scancel", "--batch", "--signal=USR1", number)
    wait_for("the requeue after a notice", lambda: slurm.job(number).get("Restarts") == "1", 90)
    assert pair.events()[-1] == "interrupted"
    wait_for("nobody left behind", lambda: not pair.runners() and not pair.runners("join"), 60)

    works_on(number, pair, slurm)
    slurm.submit("#!/bin/sh\nexit 0\n", "--partition=high", "--output=/dev/null", within=pair.root)
    wait_for("the requeue after a preemption", lambda: slurm.job(number).get("Restarts") == "2", 60)
    wait_for("all to let go", lambda: not pair.runners() and not pair.runners("join"), 60)
    assert pair.events()[-1] == "interrupted"

    wait_for("the end", lambda: slurm.state(number) == "COMPLETED", 600)
    wait_for("nobody left behind at the end", lambda: not pair.runners("join"), 10)
    assert pair.outcome() == undisturbed.outcome()
    assert one_after_the_other(pair)


@pytest.mark.parametrize("slurm", [2], indirect=True)
def test_slurm_does_not_bring_back_a_cancelled_job_of_two_nodes(pair: Pair, slurm: Slurm) -> None:
    with pair.joined() as flags:
        pair.begin(*flags)
    number = slurm.submit(pair.snippet("slurm", "--nodes", "2"), within=pair.root)
    works_on(number, pair, slurm)
    slurm.call("scancel", number)
    wait_for("the end", lambda: slurm.state(number) == "CANCELLED", 90)
    wait_for("all to let go", lambda: not pair.runners() and not pair.runners("join"), 60)
    assert pair.events()[-1] == "interrupted"
