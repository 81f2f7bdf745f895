"""Locks of short work: one process at a time, however the one before ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tiw_fsm.errors import RunHeld
from tiw_fsm.system.locking import take_alone

HOLDS = """
import os, sys
from pathlib import Path
from tiw_fsm.system.locking import take_alone
path = Path(sys.argv[1])
take_alone(os.open(path, os.O_RDONLY), path, "held")
print("has it", flush=True)
sys.stdin.read()
"""


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture(params=["file", "folder"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "x"
    path.mkdir() if request.param == "folder" else path.touch()
    return path


def test_another_process_keeps_it_until_it_ends_even_by_a_kill(path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "has it\n"
        with opened(path) as descriptor, pytest.raises(RunHeld, match="another has it"):
            take_alone(descriptor, path, "another has it")
    finally:
        process.kill()
        process.communicate()
    with opened(path) as descriptor:
        take_alone(descriptor, path, "another has it", patience=60)


def test_what_lost_its_name_is_not_taken(path: Path) -> None:
    """As when the other one was done with it between opening and locking."""
    with opened(path) as descriptor:
        path.rename(path.with_name("done"))
        with pytest.raises(RunHeld):
            take_alone(descriptor, path, "held")
        path.touch()
        with pytest.raises(RunHeld):
            take_alone(descriptor, path, "held")
