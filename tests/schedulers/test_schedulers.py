"""The real cron, systemd and Slurm keep a run going that they, or the test, kill: to the same weights, one process at a
time.

``make test-schedulers`` runs it, as root, for the daemons. Each part is skipped where its daemon is missing or does
not start. The daemons are this test's own: they know no other crontab, unit or job, and end with it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import LENIENT, write_configs, write_frames
from tests.support.waiting import wait_for

PROJECT = Path(__file__).parent.parent.parent
FLAGS = ("--max-mse", "0.9", "--allow-trivial", "--target-updates", "400")
CHUNKS = dict.fromkeys(("video_tokenizer", "latent_actions", "dynamics"), 100)


class LongRun:
    """A working root, and a ``tiw-fsm`` in it that runs this checkout's package, as an installed one would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        write_configs(root / "configs", {"loop": LENIENT | {"chunks": CHUNKS}})
        write_frames(root / "frames.h5")
        self.program = root / "bin" / "tiw-fsm"
        self.program.parent.mkdir()
        self.program.write_text(
            f"#!{sys.executable}\n"
            f"import os, sys\nos.environ.update(PYTHONPATH={str(PROJECT)!r}, OMP_NUM_THREADS='1')\n"
            f"sys.path.insert(0, {str(PROJECT)!r})\nfrom tiw_fsm.__main__ import main\nmain()\n"
        )
        self.program.chmod(0o755)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.program, *arguments], cwd=self.root, capture_output=True, text=True, check=False)

    def snippet(self, scheduler: str) -> str:
        return self.call("schedule", scheduler, "--repo-root", str(self.root)).stdout

    def begin(self) -> None:
        """The first start, by hand, which saves the flags; told to stop when it has begun to train."""
        process = subprocess.Popen([self.program, "run", *FLAGS], cwd=self.root, stderr=subprocess.DEVNULL)
        wait_for("the first checkpoint", lambda: self.generation() >= 3, 120)
        process.terminate()
        assert process.wait(60) == 75

    def state(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.root / "state/default/state.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def generation(self) -> int:
        return int(self.state().get("generation", 0))

    def ended(self) -> bool:
        return self.state().get("state") in ("PASSED", "FAILED")

    def events(self) -> list[str]:
        lines = (self.root / "state/default/journal.jsonl").read_text().splitlines()
        return [json.loads(line)["event"] for line in lines]

    def outcome(self) -> tuple[str, list[str]]:
        """The state it ended in, and the SHA-256 of each stage's weights and optimizer."""
        found = json.loads(self.call("status", "--json").stdout)
        return found["state"], [stage["checkpoint"]["sha256"] for stage in found["stages"].values()]

    def runners(self) -> list[int]:
        """Processes that run it now, by their command lines."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue  # it has just ended
            if words[1:3] == [str(self.program).encode(), b"run"]:
                found.append(int(path.parent.name))
        return found

    def kill(self) -> None:
        """Kill whoever runs it outright."""
        for process in self.runners():
            os.kill(process, signal.SIGKILL)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """What the run comes to when nobody disturbs it."""
    run = LongRun(tmp_path_factory.mktemp("undisturbed"))
    done = run.call("run", *FLAGS)
    assert done.returncode == 0, done.stderr
    return run.outcome()


@pytest.fixture
def long_run(tmp_path: Path) -> Iterator[LongRun]:
    run = LongRun(tmp_path)
    yield run
    run.kill()


def one_after_the_other(run: LongRun) -> bool:
    """Whether the journal counts its generations without a gap or a repeat, as it would not with two at work."""
    lines = (run.root / "state/default/journal.jsonl").read_text().splitlines()
    return [json.loads(line)["generation"] for line in lines] == list(range(1, len(lines) + 1))


# --- cron -------------------------------------------------------------------------------------------------------------

CRON = """
mount -t tmpfs none /var/spool/cron/crontabs && chmod 1730 /var/spool/cron/crontabs || exit 97
mount --bind /dev/null /etc/crontab; mount -t tmpfs none /etc/cron.d && mount -t tmpfs none /run || exit 97
crontab - && exec cron -f
"""
"""No table but this test's; in namespaces of its own, whose processes end with their first."""
APART = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture
def cron(long_run: LongRun) -> Iterator[subprocess.Popen[str]]:
    """The cron daemon, with the snippet as its only table."""
    if missing := [tool for tool in ("cron", "crontab", "unshare") if not shutil.which(tool)]:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: apt-get install cron)")
    if os.geteuid() or subprocess.run([*APART, "true"], capture_output=True, check=False).returncode:
        pytest.skip("cron needs root, and namespaces of its own, which this machine does not give")
    long_run.begin()
    daemon = subprocess.Popen(
        [*APART, "sh", "-c", CRON], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert daemon.stdin is not None
    daemon.stdin.write(long_run.snippet("cron"))
    daemon.stdin.close()
    try:
        try:
            daemon.wait(1)
        except subprocess.TimeoutExpired:
            yield daemon
        else:
            assert daemon.stdout is not None
            pytest.skip(f"cron does not start here: {daemon.stdout.read().strip()}")
    finally:
        daemon.kill()  # unshare passes on nothing but this
        daemon.wait()


def test_cron_restarts_a_killed_run_within_a_minute_and_never_a_second_one(
    long_run: LongRun, cron: subprocess.Popen[str], undisturbed: tuple[str, list[str]]
) -> None:
    for kill in range(3):
        before = long_run.generation()
        wait_for("a start within a minute", lambda: long_run.generation() > before + 3, 60 + 15)  # noqa: B023
        (runner,) = long_run.runners()
        if kill == 0:  # held until cron has tried again
            os.kill(runner, signal.SIGSTOP)
            held = long_run.events()
            wait_for("another start", lambda: len(long_run.runners()) == 2, 60 + 15)
            wait_for("its end", lambda: long_run.runners() == [runner], 30)  # noqa: B023
            assert long_run.events() == held
            os.kill(runner, signal.SIGCONT)
        long_run.kill()
        wait_for("its death", lambda: not long_run.runners(), 10)
    while not long_run.ended():
        before = long_run.generation()
        wait_for("progress", lambda: long_run.ended() or long_run.generation() > before, 60 + 15)  # noqa: B023
    assert long_run.outcome() == undisturbed
    assert long_run.events().count("started") == 4
    assert one_after_the_other(long_run)


# --- systemd ----------------------------------------------------------------------------------------------------------

MANAGER = """
mount -t tmpfs none /run && mkdir -p /run/systemd/system || exit 97
systemd --user --log-target=console
exit
"""
"""A user's manager wants to be told that systemd booted the machine, and will not be the first process of it."""
DOCUMENTED = re.search(r"schedule systemd \| (\(cd .*)", (PROJECT / "docs/scheduling.md").read_text())


class Manager:
    """A user's systemd, as the user types to it."""

    def __init__(self, home: Path) -> None:
        self.units = home / ".config/systemd/user"
        self.runtime = home / "run"
        for folder in (self.units, self.runtime):
            folder.mkdir(parents=True)
        self.runtime.chmod(0o700)
        self.environment = os.environ | {"HOME": str(home), "XDG_RUNTIME_DIR": str(self.runtime)}
        self.log = home / "log"
        with open(self.log, "wb") as log:
            command = [*APART, "sh", "-c", MANAGER]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Typed within the manager's namespaces: it answers no process that it cannot see."""
        first = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        command = ["nsenter", "--mount", "--pid", "--target", *first, "systemctl", "--user", *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)

    def is_up(self) -> bool:
        return self.systemctl("is-system-running").stdout.strip() in ("running", "degraded")


@pytest.fixture
def manager(long_run: LongRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """A user's systemd in namespaces of its own, with the snippet's units, stored as the documentation says."""
    if missing := [tool for tool in ("systemd", "systemctl", "unshare") if not shutil.which(tool)]:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: apt-get install systemd)")
    if os.geteuid() or subprocess.run([*APART, "true"], capture_output=True, check=False).returncode:
        pytest.skip("systemd needs root, and namespaces of its own, which this machine does not give")
    manager = Manager(tmp_path_factory.mktemp("home"))
    try:
        try:
            wait_for("systemd", lambda: manager.process.poll() is not None or manager.is_up(), 30)
            assert manager.process.poll() is None
        except AssertionError:
            pytest.skip(f"no systemd of a user's own starts here: {manager.log.read_text()[-1000:]}")
        assert DOCUMENTED is not None
        store = ["sh", "-c", DOCUMENTED[1]]
        subprocess.run(store, input=long_run.snippet("systemd"), text=True, env=manager.environment, check=True)
        assert manager.systemctl("daemon-reload").returncode == 0
        yield manager
        manager.systemctl("exit")
        wait_for("the end of systemd", lambda: manager.process.poll() is not None, 60)
    finally:
        manager.process.kill()
        manager.process.wait()


def test_systemd_starts_it_by_its_timer_restarts_it_when_killed_and_stops_it_saved(
    long_run: LongRun, manager: Manager, undisturbed: tuple[str, list[str]]
) -> None:
    long_run.begin()
    done = manager.systemctl("enable", "--now", "tiw-fsm-default.timer")
    assert done.returncode == 0, done.stderr

    def works(within: float) -> None:
        before = long_run.generation()
        wait_for("progress under systemd", lambda: long_run.generation() > before + 3, within)

    works(60 + 60 + 15)  # the timer's minute, and as much that systemd may add
    for _ in range(2):
        long_run.kill()
        wait_for("its death", lambda: not long_run.runners(), 10)
        works(10 + 30)
        assert len(long_run.runners()) == 1
    assert manager.systemctl("stop", "tiw-fsm-default.service").returncode == 0
    assert (long_run.runners(), long_run.events()[-1]) == ([], "interrupted")
    time.sleep(15)
    assert long_run.runners() == []  # it comes back from what befell it, not from what the user asked for
    manager.systemctl("start", "tiw-fsm-default.service")
    wait_for("the end", lambda: long_run.ended() and not long_run.runners(), 300)
    assert long_run.outcome() == undisturbed
    assert long_run.events().count("started") == 4
    assert one_after_the_other(long_run)
    ended = manager.systemctl("show", "--property=Result,ActiveState,NRestarts", "tiw-fsm-default.service").stdout
    assert {"Result=success", "ActiveState=inactive"} <= set(ended.split())


# --- Slurm ------------------------------------------------------------------------------------------------------------

SLURM = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={other_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
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
NodeName={host} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF State=UP
"""
"""One node, of which one job has the only processor; cred_expire is also how long a requeued job has to wait."""


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

    def state(self, number: str) -> str:
        return self.job(number).get("JobState", "")


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A cluster of one node on loopback."""
    tools = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
    if missing := [tool for tool in tools if not shutil.which(tool)]:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)")
    if os.geteuid():
        pytest.skip("Slurm's daemons need root here")
    folder = tmp_path_factory.mktemp("slurm")
    for parent in [folder, *folder.parents]:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)  # munged refuses folders that others may not enter
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    port, other_port = free_ports(2)
    (folder / "slurm.conf").write_text(
        SLURM.format(host=socket.gethostname().partition(".")[0], folder=folder, port=port, other_port=other_port)
    )
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
            for words in (["munged", "--foreground", "--force", *munge], ["slurmctld", "-D", "-c"], ["slurmd", "-D"]):
                daemons.append(
                    subprocess.Popen(
                        words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=folder, env=slurm.environment
                    )
                )
                if words[0] == "munged":
                    wait_for("munge", lambda: (folder / "munge.socket").exists() or daemons[0].poll() is not None, 10)
        try:
            wait_for("an idle node", lambda: "idle" in slurm.call("sinfo", "--noheader").stdout, 30)
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


def test_slurm_takes_the_script_and_requeues_it_on_notice_and_on_preemption(
    long_run: LongRun, slurm: Slurm, undisturbed: tuple[str, list[str]]
) -> None:
    script = long_run.snippet("slurm")
    tested = slurm.call("sbatch", "--test-only", "--time=4:00:00", script=script, within=long_run.root)
    assert tested.returncode == 0, tested.stderr
    long_run.begin()

    def works_on(number: str) -> None:
        before = long_run.generation()
        wait_for("work under Slurm", lambda: slurm.state(number) == "RUNNING", 90)
        wait_for("progress under Slurm", lambda: long_run.generation() > before + 2, 60)

    number = slurm.submit(script, "--time=4:00:00", within=long_run.root)
    works_on(number)
    slurm.call("scancel", "--batch", "--signal=USR1", number)
    wait_for("the requeue after a notice", lambda: slurm.job(number).get("Restarts") == "1", 60)
    assert long_run.events()[-1] == "interrupted"

    works_on(number)
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
