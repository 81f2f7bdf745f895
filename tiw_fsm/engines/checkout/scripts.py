"""Run one script of a checkout as a child: its output streamed to the run's log, a hang or a stop ended."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tiw_fsm.errors import disk_errors
from tiw_fsm.system import durable, reaper
from tiw_fsm.system.child import Child
from tiw_fsm.values.death import Killer

LONGEST_OUTPUT = 1 << 20
"""Bytes of a script's output that are read for what it said, the last ones."""
POLL = 0.05


class Ended(NamedTuple):
    """How a script ended."""

    how: Literal["done", "failed", "hung", "stopped"]
    code: int
    words: str
    """The same in words, to follow its name."""
    output: str
    killed_by: Killer


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
    with disk_errors("opening", log), open(log, "ab") as run_log:
        run_log.write(f"$ {' '.join(command)}\n".encode())
    how: Literal["hung", "stopped"] | None = None
    reaped = [sys.executable, "-I", reaper.__file__, *command]
    letters = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end in the middle of one
    with (
        Child(reaped, output=output, max_silence=max_silence, environment=environment, cwd=cwd) as child,
        disk_errors("writing", log),
        open(log, "ab") as run_log,
    ):
        while True:
            ended = child.poll()
            if new := child.new_output():
                run_log.write(new)
                run_log.flush()
                relay(letters.decode(new))
            elif ended is not None:
                break
            elif how is None and (stopping() or child.hangs()):
                how = "stopped" if stopping() else "hung"
                child.let_go()  # the reaper sees to it
            else:
                time.sleep(POLL)
        words, output_end, killed_by = child.how_it_ended(), child.last_words(LONGEST_OUTPUT), child.killed_by()
    return Ended(how or ("failed" if ended else "done"), ended, words, output_end, killed_by)
