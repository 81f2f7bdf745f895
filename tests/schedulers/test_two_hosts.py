"""A run on two hosts, each with a network of its own, comes to the same weights whatever becomes of either.

``make test-schedulers`` runs it, as root, for the hosts; where there can be none it is skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.schedulers.long_run import FLAGS, PROJECT, LongRun, one_after_the_other
from tests.schedulers.two_hosts import NEAR, Host, Hosts, lacking, two_hosts
from tests.support.processes import children
from tests.support.run_folder import RunFolder
from tests.support.waiting import wait_for
from tiw_fsm.stages import Stage

PORT = 29433
ENDPOINT = f"{NEAR}:{PORT}"
SHORT = (*FLAGS[:-1], "60")
SILENCE = 15
"""Seconds after which a host is given up: more than a rank needs to begin on a busy machine."""
SOON = 10
"""Seconds within which nobody is left where a process has died, whose end all can see."""
CHILD = "/child.py"
"""In the command lines of launchers and ranks."""
AGAIN = 'until "$@"; do echo $? >> ends; sleep 0.5; done; echo 0 >> ends'
"""A joiner that ends joins again, as a scheduler has it."""


class Shared(LongRun):
    """A run in a working root that two hosts share."""

    def __init__(self, root: Path, hosts: Hosts) -> None:
        super().__init__(root, loop={"max_silence": SILENCE, "chunks": dict.fromkeys(map(str, Stage), 30)})
        self.hosts = hosts
        self.left = RunFolder(root)

    def start(self, *flags: str) -> subprocess.Popen[str]:
        """The controller, on the near host."""
        return self.hosts.near.start(self.program, "run", *SHORT, *flags, cwd=self.root)

    def start_shared(self) -> subprocess.Popen[str]:
        return self.start("--nnodes", "2", "--rdzv-endpoint", ENDPOINT)

    def join(self, endpoint: str = ENDPOINT, *flags: str) -> subprocess.Popen[str]:
        return self.hosts.far.start(self.program, "join", endpoint, *flags, cwd=self.root)

    def keep_joining(self) -> subprocess.Popen[str]:
        return self.hosts.far.start("sh", "-c", AGAIN, "again", self.program, "join", ENDPOINT, cwd=self.root)

    def ends(self) -> list[str]:
        """How each joiner ended that ``keep_joining`` started."""
        path = self.root / "ends"
        return path.read_text().split() if path.exists() else []

    def goes_on(self, run: subprocess.Popen[str]) -> None:
        """Until it has saved twice more."""
        before = self.generation()

        def further() -> bool:
            assert run.poll() is None, run.communicate()
            return self.generation() > before + 2

        wait_for("progress", further, 60)

    @contextmanager
    def disturbed(self, run: subprocess.Popen[str], within: float) -> Iterator[None]:
        """When the ``run`` has gone on, the block disturbs it: ``within`` these seconds no host has any of the
        launchers and ranks left that were there."""
        self.goes_on(run)
        there = self.working()
        assert [len(processes) for processes in there.values()] == [2, 2]
        yield
        wait_for("the end of all", lambda: not any(there[host] & now for host, now in self.working().items()), within)

    def working(self) -> dict[Host, set[int]]:
        """Launchers and ranks of each host."""
        return {host: host.processes(CHILD) for host in self.hosts}


def said(process: subprocess.Popen[str], status: int) -> str:
    """What a process had to say, up to its end with this status."""
    _, words = process.communicate(timeout=90)
    assert process.returncode == status, words
    return words


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    if reason := lacking():
        pytest.skip(reason)
    with two_hosts() as hosts:
        yield hosts


@pytest.fixture
def shared(tmp_path: Path, hosts: Hosts) -> Iterator[Shared]:
    yield Shared(tmp_path / "shared", hosts)
    for host in hosts:
        host.clear()


@pytest.fixture(scope="module")
def on_one_host(tmp_path_factory: pytest.TempPathFactory, hosts: Hosts) -> tuple[str, list[str]]:
    """What the run comes to with as many processes on one host, undisturbed."""
    run = Shared(tmp_path_factory.mktemp("one") / "host", hosts)
    said(run.start("--nproc-per-node", "2"), 0)
    return run.outcome()


def test_two_hosts_that_find_each_other_by_name_compute_what_one_does(
    shared: Shared, on_one_host: tuple[str, list[str]]
) -> None:
    run, joiner = shared.start("--nnodes", "2"), shared.join("near")
    said(run, 0)
    assert said(joiner, 0) == "run default has ended: tiw-fsm status --run default\n"
    assert shared.outcome() == on_one_host
    assert [host.name for host in shared.left.state.hosts] == ["near", "far"]


def test_whatever_becomes_of_either_host_the_run_comes_to_the_same_weights(
    shared: Shared, on_one_host: tuple[str, list[str]]
) -> None:
    run, joiner = shared.start_shared(), shared.keep_joining()
    with shared.disturbed(run, within=SILENCE + 5):
        shared.hosts.cut()
    shared.hosts.mend()

    with shared.disturbed(run, within=SOON):
        (join,) = shared.runners("join")
        (launcher,) = children(join)
        os.kill(launcher, signal.SIGKILL)

    with shared.disturbed(run, within=SOON):
        run.kill()
    run = shared.start_shared()
    assert shared.ends() == []

    with shared.disturbed(run, within=SOON):
        (join,) = shared.runners("join")
        os.kill(join, signal.SIGTERM)
    assert "all progress is saved" in said(run, 75)
    wait_for("the joiner's end", lambda: shared.ends() == ["75"], 10)
    assert shared.events()[-1] == "interrupted"

    said(shared.start_shared(), 0)
    assert joiner.wait(10) == 0
    assert shared.ends() == ["75", "0"]
    assert shared.outcome() == on_one_host
    assert [death["killed_by"] for death in shared.left.journal("killed")] == ["unknown", "unknown"]
    assert one_after_the_other(shared)


def test_a_host_is_waited_for_until_it_comes_and_no_longer_than_the_run_may_go_on(shared: Shared) -> None:
    run = shared.start_shared()
    refused = said(shared.join(ENDPOINT, "--run", "other"), 2)
    assert "is run 'default', not 'other'; give that one's name with --run" in refused
    joiner = shared.join()
    shared.goes_on(run)
    joiner.kill()
    wait_for("a death", lambda: shared.events()[-1] == "killed", 10)
    wait_for("its launcher's end", lambda: not shared.hosts.near.processes(CHILD), 10)
    wait_for("another launcher", lambda: shared.hosts.near.processes(CHILD), 10)
    run.terminate()
    run.wait(5)
    assert "all progress is saved" in said(run, 75)
    assert shared.events()[-2:] == ["killed", "interrupted"]


def test_a_host_that_never_comes_is_given_up(shared: Shared) -> None:
    words = said(shared.start_shared(), 75)
    assert f"2 machines, this one among them, did not come together within {SILENCE} s. Nothing was lost" in words


def test_a_port_that_something_else_listens_at_is_refused(shared: Shared) -> None:
    listen = f"import socket, sys; s = socket.create_server(('', {PORT})); print('so', file=sys.stderr); s.accept()"
    other = shared.hosts.near.start(sys.executable, "-c", listen, cwd=shared.root)
    assert other.stderr is not None
    assert other.stderr.readline() == "so\n"
    assert "something else listens on this port; give another" in said(shared.start_shared(), 2)


def test_a_host_with_other_code_is_refused_and_told_why(shared: Shared, tmp_path: Path) -> None:
    copy, program = tmp_path / "copy", tmp_path / "tiw-fsm"
    shutil.copytree(PROJECT / "tiw_fsm", copy / "tiw_fsm", ignore=shutil.ignore_patterns("__pycache__"))
    with open(copy / "tiw_fsm/tinyworlds/keys.py", "a") as file:
        file.write("# Not as it was.\n")
    program.write_text(shared.program.read_text().replace(repr(str(PROJECT)), repr(str(copy))))
    program.chmod(0o755)
    joiner = shared.hosts.far.start(program, "join", ENDPOINT, cwd=shared.root)
    refused = "on far there is other code of tiw_fsm than on the first machine"
    assert refused in said(shared.start_shared(), 5)
    assert refused in said(joiner, 75)
