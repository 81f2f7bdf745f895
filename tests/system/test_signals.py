"""Signals that come together are one request to stop; one that comes later ends at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tiw_fsm.errors import ExitCode
from tiw_fsm.system import signals

WORKS = """
import signal, sys, time
from tiw_fsm.system import signals
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with signals.asked_to_stop(lambda: print("asked", flush=True)) as stopping:
    print("at work", flush=True)
    until = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < until:
        time.sleep(0.01)
    print("saved", flush=True)
"""
"""It takes so many seconds to save, asked to stop or not; and it heeds SIGHUP, should the tests run under nohup."""


def at_work(seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKS, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    return process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with process.stdout:
        rest = process.stdout.read()
    process.wait()
    return rest


@pytest.mark.parametrize("number", signals.STOP)
def test_to_the_process_and_its_group_at_once_is_one_request(number: signal.Signals) -> None:
    """As `timeout` sends it; whichever signal it is."""
    process = at_work(0.3)
    process.send_signal(number)
    os.killpg(process.pid, number)
    os.killpg(process.pid, signal.SIGCONT)
    assert (said(process), process.returncode) == ("asked\nsaved\n", 0)


def test_a_second_one_that_comes_later_ends_at_once() -> None:
    process = at_work(60)
    process.terminate()
    time.sleep(signals.ONE_REQUEST + 0.2)
    process.send_signal(signal.SIGINT)
    assert said(process) == f"asked\n{signals.AT_ONCE.decode()}"
    assert process.returncode == ExitCode.INTERRUPTED


def test_the_kernels_own_repetitions_of_sigxcpu_end_nothing() -> None:
    process = at_work(2 * signals.ONE_REQUEST)
    process.send_signal(signal.SIGXCPU)
    time.sleep(signals.ONE_REQUEST + 0.2)
    process.send_signal(signal.SIGXCPU)
    assert (said(process), process.returncode) == ("asked\nsaved\n", 0)
