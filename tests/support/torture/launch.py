"""Start the tool's command line under the torture shim.

``python -m tests.support.torture.launch [--broken NAME] [--script JSON] -- run --run x ...`` runs one command line in
this process, as ``tiw-fsm`` would, but with a deliberately broken variant of the package (``broken.py``), or with what
the simulated engine shall do. The shim sees it if it is preloaded and told so by the environment (``shim.c``)::

    cc -shared -fPIC -O2 -o shim.so tests/support/torture/shim.c && head -c 8 /dev/zero > counter
    LD_PRELOAD=$PWD/shim.so TORTURE_ROOT=$ROOT TORTURE_COUNTER=counter TORTURE_LOG=log \\
        TORTURE_FAULT="fail 12 28 group" python -m tests.support.torture.launch -- \\
        run --repo-root $ROOT --engine simulated

Tests use ``Launcher``. It starts this module with ``--serve`` once, under the shim and with the package imported, and
asks it for a fork per command line: so a start costs milliseconds. Each fork leads a process group of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
SHIM = "TORTURE_ROOT", "TORTURE_COUNTER", "TORTURE_LOG", "TORTURE_FAULT", "TORTURE_REFUSE"
PR_SET_CHILD_SUBREAPER = 36
ORPHANS_END = 10.0
"""Seconds within which what a dead run left behind (the native engine's child) must have ended too."""


# --- in the process that is the tool ----------------------------------------------------------------------------


def run_tool(arguments: list[str], broken: str | None, script: Mapping[str, Any] | None) -> None:
    """What ``tiw-fsm ARGUMENTS`` does: ends with SystemExit."""
    from tests.support.torture.broken import BROKEN
    from tiw_fsm.__main__ import main as tool
    from tiw_fsm.engines.simulated import Script, SimulatedEngine, SimulatedKind

    if broken:
        BROKEN[broken]()
    if script is not None:
        played = Script.model_validate_json(json.dumps(script))
        SimulatedKind.make = lambda self, settings, paths: SimulatedEngine(played)  # type: ignore[method-assign]
    mark_commits()
    sys.argv = ["tiw-fsm", *arguments]
    tool()


def mark_commits() -> None:
    """Have the shim's log say when a commit has returned: from then on a power cut must not undo it."""
    from tiw_fsm.storage.store import Store

    libc = ctypes.CDLL(None)
    if not hasattr(libc, "torture_mark"):
        return
    commit = Store.commit

    def observed(self: Store, *arguments: Any, **named: Any) -> Any:
        after = commit(self, *arguments, **named)
        libc.torture_mark(f"committed {after.generation}".encode())
        return after

    Store.commit = observed  # type: ignore[method-assign]


def serve() -> None:
    """Read requests as JSON lines, fork for those that start something, answer in JSON lines."""
    warm_up()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "wait":
            answer = wait_for(request["pid"], request["timeout"])
        elif pid := os.fork():
            os.setpgid(pid, pid)  # here too, so that the group exists before anybody is told of it
            answer = {"pid": pid}
        else:
            become(request)
            return run_tool(request["arguments"], request["broken"], request["script"])
        print(json.dumps(answer), flush=True)
    return None


def warm_up() -> None:
    """Import, and fill the caches of, what a run needs: then no fork has to.

    And have the page's templates compiled once for all.
    """
    from tests.support.torture import broken  # noqa: F401
    from tiw_fsm import cli  # noqa: F401
    from tiw_fsm.reporting.html import loss, templating, writer  # noqa: F401
    from tiw_fsm.reporting.markdown import reports  # noqa: F401
    from tiw_fsm.run import check, launch, replay, verify  # noqa: F401

    # By the clock, a slow run would write more pages than a fast one, but the numbers of operations must not depend on
    # it. What is left is the page after the first commit, and the one at the end.
    writer.INTERVAL = math.inf

    for template in templating.environment().list_templates(extensions=["j2"]):
        templating.environment().get_template(template)
    gc.freeze()  # a fork need not look through, and thereby copy, what it shares


def become(request: Mapping[str, Any]) -> None:
    """Turn this fork into the process that was asked for."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a bench started with nohup ignores it, and its runs would too
    os.chdir(request["folder"])
    for descriptor, path in enumerate((os.devnull, request["stdout"], request["stderr"])):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.update(request["environment"])
    ctypes.CDLL(None).torture_arm()
    if request["user"] is not None:
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])


def wait_for(pid: int, timeout: float) -> dict[str, Any]:
    """How process ``pid`` ended. At the end of the timeout its group is killed; what outlives it counts as late too."""
    descriptor = os.pidfd_open(pid)
    late = not select.select([descriptor], [], [], timeout)[0]
    os.close(descriptor)
    if late:
        os.killpg(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    return {"status": status, "late": not group_ended(pid) or late}


def group_ended(group: int) -> bool:
    """Reap the orphans of a group; kill those that do not end by themselves."""
    deadline = time.monotonic() + ORPHANS_END
    try:
        while os.waitpid(-group, os.WNOHANG) != (0, 0) or time.monotonic() < deadline:
            time.sleep(0.001)
        os.killpg(group, signal.SIGKILL)
        while True:
            os.waitpid(-group, 0)
    except ChildProcessError:
        return time.monotonic() < deadline


# --- in the tests -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What shall go wrong at operation number ``at``, as ``shim.c`` says; ``marked`` is a death after commit ``at``,
    ``stop`` a standstill there."""

    how: Literal["before", "after", "torn", "fail", "fail-from", "short", "marked", "stop"]
    at: int
    errno: int = 0
    whom: Literal["group", "self"] = "group"

    def __str__(self) -> str:
        return f"{self.how} {self.at} {self.errno} {self.whom}"


@dataclass(frozen=True)
class Refusal:
    """What the system refuses, every time: every ``call`` on a path with ``part`` in it, while ``lasts`` is there."""

    call: Literal["open", "write", "rename", "mkdir", "unlink", "rmdir", "flock"]
    errno: int
    part: str
    lasts: Path

    def __str__(self) -> str:
        return f"{self.call} {self.errno} {self.part} {self.lasts}"


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int | None
    """None if a signal ended it."""
    signal: int | None
    stdout: str
    stderr: str
    operations: int
    """Calls that changed or synced files, the one that failed or killed included."""


class Started:
    """A run going on."""

    def __init__(self, launcher: Launcher, pid: int, files: Path) -> None:
        self.pid = pid
        """Also the number of its process group."""
        self._launcher = launcher
        self._files = files

    def operations(self) -> int:
        """How many there have been so far."""
        return int.from_bytes(self._files.with_suffix(".count").read_bytes(), sys.byteorder)

    def kill(self, number: int = signal.SIGKILL, *, group: bool = True) -> None:
        """Send a signal to the run's whole process group, or to the controller alone."""
        (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, timeout: float = 120) -> Ended:
        """Until it has ended, and everything it started too.

        Raises:
            TimeoutError: it had not, and was killed.
        """
        answer = self._launcher.ask({"do": "wait", "pid": self.pid, "timeout": timeout})
        out, err = (self._files.with_suffix(suffix).read_text(errors="replace") for suffix in (".out", ".err"))
        operations = self.operations()
        for suffix in (".out", ".err", ".count"):
            self._files.with_suffix(suffix).unlink()
        if answer["late"]:
            raise TimeoutError(f"after {timeout} s it, or a process it had started, had not ended:\n{out}\n{err}")
        code = os.waitstatus_to_exitcode(answer["status"])
        return Ended(code if code >= 0 else None, -code if code < 0 else None, out, err, operations)


class Launcher:
    """Starts the tool's command line under the shim, as forks of one server process.

    Args:
        folder: where the compiled shim and the files of runs in progress lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        shim = folder / "shim.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", shim, HERE / "shim.c", "-ldl"], check=True)
        import tiw_fsm

        assert tiw_fsm.__file__ is not None
        packages = [str(Path(tiw_fsm.__file__).parents[1]), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.torture.launch", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name not in SHIM}
            | {
                "LD_PRELOAD": str(shim),
                "PYTHONPATH": os.pathsep.join(filter(None, packages)),
                "PYTHONHASHSEED": "0",  # operation N shall be the same one in every run
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "COLUMNS": "200",
            },
        )

    @staticmethod
    def unavailable() -> str | None:
        """Why this machine cannot run the torture bench; None if it can."""
        if sys.platform != "linux":
            return "the torture bench watches system calls with LD_PRELOAD, which needs Linux"
        return None if shutil.which("cc") else "the torture bench needs a C compiler, and there is no cc"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def start(
        self,
        root: Path,
        *arguments: str,
        fault: Fault | None = None,
        log: Path | None = None,
        broken: str | None = None,
        script: Mapping[str, Any] | None = None,
        refusal: Refusal | None = None,
        user: int | None = None,
    ) -> Started:
        """Start the command line in ``root``.

        Args:
            log: gets what is done to files below ``root``; one that exists is continued.
            broken: name of a broken variant of the package.
            script: fields of the simulated engine's Script.
            user: number of the user who shall run it; else it is this one.
        """
        self._number += 1
        files = self._folder / str(self._number)
        files.with_suffix(".count").write_bytes(bytes(mmap.PAGESIZE))
        environment = {"TORTURE_ROOT": str(root), "TORTURE_COUNTER": str(files.with_suffix(".count"))}
        if fault:
            environment["TORTURE_FAULT"] = str(fault)
        if refusal:
            environment["TORTURE_REFUSE"] = str(refusal)
        if log:
            environment["TORTURE_LOG"] = str(log)
        answer = self.ask(
            {
                "do": "start",
                "folder": str(root),
                "arguments": arguments,
                "environment": environment,
                "stdout": str(files.with_suffix(".out")),
                "stderr": str(files.with_suffix(".err")),
                "broken": broken,
                "script": script,
                "user": user,
            }
        )
        return Started(self, answer["pid"], files)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The server's answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer


def main() -> None:
    if sys.argv[1:] == ["--serve"]:
        return serve()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broken", metavar="NAME", help="a variant from broken.py")
    parser.add_argument("--script", metavar="JSON", type=json.loads, help="fields of the simulated engine's Script")
    parser.add_argument("arguments", nargs="+", metavar="ARGUMENT", help="the tool's command line, after --")
    given = parser.parse_args()
    return run_tool(given.arguments, given.broken, given.script)


if __name__ == "__main__":
    main()
