"""The real cron and systemd keep a run going that they, or the test, kill: to the same weights, one process at a
time.

``make test-schedulers`` runs it, as root, for the daemons. Each part is skipped where its daemon is missing or does
not start. The daemons are this test's own: they know no other crontab, unit or job, and end with it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.schedulers.long_run import PROJECT, LongRun, one_after_the_other
from tests.support.waiting import wait_for

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
