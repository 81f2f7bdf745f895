"""Run one script of a checkout as a child: its output streamed to the run's log, a hang or a stop ended."""

from __future__ import annotations

import codecs
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tiw_fsm.engines.checkout import reaper
from tiw_fsm.errors import disk_errors
from tiw_fsm.system import durable, signals

LONGEST_OUTPUT = 1 << 20
"""Letters of a script's output that are kept in memory, the last ones; its files have all of it."""
POLL = 0.05


class Ended(NamedTuple):
    """How a script ended."""

    how: Literal["done", "failed", "hung", "stopped"]
    code: int
    output: str


def run_script(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    output: Path,
    log: Path,
    max_silence: float,
    stopping: Callable[[], bool],
    relay: Callable[[str], None],
) -> Ended:
    """Run ``command`` until it ends; end it when asked to stop, or when it has said nothing for too long.

    Args:
        output: file of its own for what it writes; what is new goes on to ``log`` and to ``relay``.

    Raises:
        DiskRefused: its files cannot be opened, or the log not be written.
    """
    durable.require_plain(log)
    how: Literal["hung", "stopped"] | None = None
    with disk_errors("opening", output), open(output, "wb") as sink, open(log, "ab") as run_log:
        run_log.write(f"$ {' '.join(command)}\n".encode())
        with signals.held_back():
            child = subprocess.Popen(
                [sys.executable, "-I", reaper.__file__, *command],
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
            )
        assert child.stdin is not None
    text, last = "", time.monotonic()
    letters = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end in the middle of one
    with disk_errors("writing", log), child, open(output, "rb") as source, open(log, "ab") as run_log:
        while True:
            ended = child.poll()
            if new := source.read():
                last = time.monotonic()
                run_log.write(new)
                run_log.flush()
                told = letters.decode(new)
                text = (text + told)[-LONGEST_OUTPUT:]
                relay(told)
            elif ended is not None:
                break
            elif how is None and (stopping() or time.monotonic() - last > max_silence):
                how = "stopped" if stopping() else "hung"
                child.stdin.close()  # the guard sees to it
            else:
                time.sleep(POLL)
    return Ended(how or ("failed" if ended else "done"), ended, text)
