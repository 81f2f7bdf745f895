"""What a run does when it is asked to stop: by Ctrl-C, by a scheduler, by a terminal that is closed.

The same four signals mean the same thing everywhere; SIGUSR1 is the notice Slurm gives ahead of a preemption.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tiw_fsm.errors import ExitCode

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def exit_when_asked() -> None:
    """Until something is in hand, a signal ends the process at once: there is nothing to save."""
    for number in _heeded():
        signal.signal(number, _exit)


@contextmanager
def asked_to_stop(tell: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Within the block the first signal calls ``tell``, and the value of the block says so; a second ends at once.

    Ending at once is as safe as a power cut: the newest commit stands, and the child sees its standard input end.
    """
    asked = False

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            _exit(number, frame)
        asked = True
        tell()

    before = {number: signal.signal(number, handle) for number in _heeded()}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def hold_back() -> None:
    """Let no signal through any more."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)


@contextmanager
def held_back() -> Iterator[None]:
    """Keep the signals back within the block; a process started in it never gets them, from its first instant on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _heeded() -> list[signal.Signals]:
    """Those to heed: nohup has its programs ignore SIGHUP, and they shall."""
    return [number for number in STOP if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def _exit(number: int, frame: object) -> None:
    os._exit(ExitCode.INTERRUPTED)
