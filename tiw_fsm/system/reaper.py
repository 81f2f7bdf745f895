"""Stands between the controller and a script: ``python -I reaper.py COMMAND …``. Nothing here is imported from tiw_fsm.

It runs the command in a session of its own and ends with the command's exit status. When its standard input ends,
its controller has let go or is gone, however that died: then the command and everything it started are ended too.
Orphans of the command become children of this process, so that nothing else is ever ended and nothing is left.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE = 5.0
"""Seconds an interrupted script has to let W&B write what it logged."""


def main(command: list[str]) -> int:
    libc = ctypes.CDLL(None)
    if sys.platform == "linux":
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)

    def prepare() -> None:
        if sys.platform == "linux":
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # should this process itself be killed
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # how it is asked to end

    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=prepare)

    def end_with_controller() -> None:
        while os.read(0, 1024):
            pass
        signal_group(child.pid, signal.SIGINT)
        time.sleep(GRACE)
        signal_group(child.pid, signal.SIGKILL)

    threading.Thread(target=end_with_controller, daemon=True).start()
    code = child.wait()
    signal_group(child.pid, signal.SIGKILL)  # workers it left behind
    end_orphans()
    return code if code >= 0 else 128 - code


def signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        return


def end_orphans() -> None:
    """Give what the command left behind (W&B's writer) a moment, then end it."""
    deadline = time.monotonic() + GRACE
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            if time.monotonic() > deadline:
                for orphan in children():
                    os.kill(orphan, signal.SIGKILL)
            time.sleep(0.02)


def children() -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == os.getpid():
            found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
