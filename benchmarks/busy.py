"""What an update takes on a machine that has other work to do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from statistics import median

from sharing import Crew
from workbench import Bench, Figure

from tiw_fsm.stages import Stage

SETTLED = 0.3
"""Seconds until processes that have been started are at work."""


def busy(bench: Bench) -> list[Figure]:
    """Milliseconds of an update, quiet and beside as many busy processes as this process may use CPUs.

    Both take turns, in a training process that the real engine has started. The proportional limit is what an update
    would take if each of its threads got as much of the CPUs as each busy process: twice as long, if it has a thread
    for each CPU.
    """
    others, repeats, updates = len(os.sched_getaffinity(0)), bench.amount(5, 2), bench.amount(10, 3)
    figures = []
    with closing(Crew(bench, bench.settings(share=0.03), 1)) as crew:
        in_proportion = 1 + crew.hello.threads / others
        for stage in Stage:
            crew.rate(stage, updates)  # what torch does only once
            quiet, beside = [], []
            for _ in range(repeats):
                quiet.append(1e3 / crew.rate(stage, updates))
                with busy_processes(others):
                    beside.append(1e3 / crew.rate(stage, updates))
            note = f"median of {repeats} × {updates} updates, in turns; {crew.hello.threads} threads"
            figures += [
                Figure(f"{stage}, update, quiet", median(quiet), "ms", note),
                Figure(
                    f"{stage}, update, beside {others} busy processes",
                    median(beside),
                    "ms",
                    f"{min(beside):.0f} to {max(beside):.0f}; in proportion {in_proportion * median(quiet):.0f}",
                ),
            ]
    return figures


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Within the block, so many processes compute without end."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(SETTLED)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
