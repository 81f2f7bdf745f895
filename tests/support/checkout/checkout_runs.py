"""Runs of a miniature checkout through the real command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.checkout.miniature import write_faults
from tests.support.processes import Tiw
from tests.support.run_folder import RunFolder


class Checkout(RunFolder):
    """A miniature checkout, and the runs in it."""

    def __init__(self, root: Path, tiw: Tiw) -> None:
        super().__init__(root)
        self._tiw = tiw

    def command(self, *more: str) -> list[str]:
        return ["run", "--engine", "checkout", "--repo-root", ".", "--python-exec", sys.executable, *more]

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        return self.call(*self.command(*more))

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._tiw(self.root, *arguments)

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start a run and come back at once."""
        with open(self.root / "started.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tiw_fsm", *self.command(*more)], cwd=self.root, stdout=log, stderr=log
            )

    def faults(self, *faults: dict[str, Any]) -> None:
        write_faults(self.root, *faults)

    def asked(self, script: str) -> list[dict[str, str]]:
        """What each start of a script was given."""
        lines = (self.root / "asked.jsonl").read_text().splitlines()
        return [given for given in map(json.loads, lines) if script in given["script"]]

    def wait_for(self, pattern: str, seconds: float = 30) -> Path:
        """Wait until a file is there."""
        deadline = time.monotonic() + seconds
        while not (found := sorted(self.root.glob(pattern))):
            assert time.monotonic() < deadline, f"no {pattern}; {(self.root / 'started.log').read_text()}"
            time.sleep(0.02)
        return found[-1]


MakeCheckout = Callable[..., Checkout]


def processes_below(root: Path) -> list[int]:
    """Processes that work in ``root``: scripts and their guards."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(folder / "cwd")) == root and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
