"""Two hosts with a cable between them: network namespaces of this machine, with names and addresses of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

NEAR, FAR = "192.168.231.1", "192.168.231.2"
NOBODY = "02:00:00:00:00:99"
"""Hardware address that no card has."""
TOOLS = ("ip", "unshare", "hostname")
NETNS = Path("/etc/netns")
"""Where ``ip netns exec`` looks for files that shall lie in /etc of one namespace."""


class Host(NamedTuple):
    """One of the two. Its programs see no network but its own.

    As Debian has it, it takes its own name for an address of its loopback, and the other's for what it is.

    Attributes:
        space: its namespace.
        card: its end of the cable.
    """

    name: str
    address: str
    space: str
    card: str

    def start(self, *words: str | Path, cwd: Path) -> subprocess.Popen[str]:
        """A program of this host; whoever signals the process signals the program."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.space, *named, *words], cwd=cwd, stderr=subprocess.PIPE, text=True
        )

    def processes(self, word: str = "") -> set[int]:
        """Those of its processes that have this in their command line."""
        found = set()
        for pid in ip("netns", "pids", self.space).split():
            with suppress(FileNotFoundError, ProcessLookupError):
                if word in Path(f"/proc/{pid}/cmdline").read_text():
                    found.add(int(pid))
        return found

    def clear(self) -> None:
        """End all its processes."""
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


class Hosts(NamedTuple):
    """Both."""

    near: Host
    far: Host

    def cut(self) -> None:
        """From now on nothing arrives in either direction, and nobody is told: frames go to a card that nobody has."""
        for host, other in (self, self[::-1]):
            ip(
                "-n",
                host.space,
                "neigh",
                "replace",
                other.address,
                "lladdr",
                NOBODY,
                "dev",
                host.card,
                "nud",
                "permanent",
            )

    def mend(self) -> None:
        for host, other in (self, self[::-1]):
            ip("-n", host.space, "neigh", "del", other.address, "dev", host.card)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


def lacking() -> str | None:
    """Why there can be no such hosts here, if that is so."""
    if os.geteuid():
        return "network namespaces need root"
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"not installed: {', '.join(missing)}"
    try:
        ip("netns", "add", f"tiw{os.getpid()}")
        ip("netns", "del", f"tiw{os.getpid()}")
        subprocess.run(["unshare", "--uts", "true"], check=True, capture_output=True)
    except subprocess.CalledProcessError as exc:
        return f"no network namespaces here: {exc.stderr}"
    return None


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Within the block they are there; nothing of them is left behind it."""
    number = os.getpid()
    hosts = Hosts(
        *(Host(name, at, f"tiw{number}{name}", f"{name}{number}") for name, at in (("near", NEAR), ("far", FAR)))
    )
    near, far = hosts
    try:
        for host, other in (hosts, hosts[::-1]):
            ip("netns", "add", host.space)
            ip("-n", host.space, "link", "set", "lo", "up")
            (NETNS / host.space).mkdir(parents=True)
            names = f"127.0.0.1 localhost\n127.0.1.1 {host.name}\n{other.address} {other.name}\n"
            (NETNS / host.space / "hosts").write_text(names)
        ip("link", "add", near.card, "netns", near.space, "type", "veth", "peer", "name", far.card, "netns", far.space)
        for host in hosts:
            ip("-n", host.space, "address", "add", f"{host.address}/30", "dev", host.card)
            ip("-n", host.space, "link", "set", host.card, "up")
        yield hosts
    finally:
        for host in hosts:
            _remove(host)


def _remove(host: Host) -> None:
    shutil.rmtree(NETNS / host.space, ignore_errors=True)
    with suppress(OSError):  # others have theirs there
        NETNS.rmdir()
    with suppress(subprocess.CalledProcessError):  # it never was
        host.clear()
        ip("netns", "del", host.space)
