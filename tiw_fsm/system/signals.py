"""What a run does when it is asked to stop: by Ctrl-C, by a scheduler, by a terminal that is closed.

The same signals mean the same thing everywhere. SIGUSR1 and SIGUSR2 are the notices that Slurm, LSF and Grid Engine
give ahead of a preemption, SIGXCPU is theirs and the kernel's when the processor time that was granted is used up.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tiw_fsm.errors import ExitCode

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
ONE_REQUEST = 1.0
"""Seconds within which signals are one request: `timeout` and others send one to a process and one to its group."""

AT_ONCE = b"ended at once, as asked. Whatever was committed stands, and the same command goes on from there.\n"


def exit_when_asked() -> None:
    """Until something is in hand, a signal ends the process at once: there is nothing to save."""
    for number in _heeded():
        signal.signal(number, _exit)


@contextmanager
def asked_to_stop(tell: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Within the block the first signal calls ``tell``, and the value of the block says so; a second ends at once.

    Ending at once is as safe as a power cut: the newest commit stands, and the child sees its standard input end. A
    second one is one that comes later than what belongs to the first; SIGXCPU is none, since the kernel repeats it
    every second.
    """
    asked: float | None = None

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        now = time.monotonic()
        if asked is None:
            asked = now
            tell()
        elif now - asked > ONE_REQUEST and number != signal.SIGXCPU:
            _exit(number, frame)

    before = {number: signal.signal(number, handle) for number in _heeded()}
    try:
        yield lambda: asked is not None
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


@contextmanager
def processor_time_heeded(tell: Callable[[], None]) -> Iterator[None]:
    """Within the block SIGXCPU alone, which the kernel sends to each process for its own time, calls ``tell``."""
    before = signal.signal(signal.SIGXCPU, lambda number, frame: tell())
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGXCPU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGXCPU, before)


def _heeded() -> list[signal.Signals]:
    """Those to heed: nohup has its programs ignore SIGHUP, and they shall."""
    return [number for number in STOP if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def _exit(number: int, frame: object) -> None:
    with suppress(OSError):  # a terminal that was closed
        os.write(2, AT_ONCE)  # a file object may be in the middle of a write of its own
    os._exit(ExitCode.INTERRUPTED)
