"""What killed a process is told by its status, its words and the kernel's counters; what cannot be told is unknown."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cgroups import made_cgroup
from tiw_fsm.system import killer
from tiw_fsm.values.death import Killer

OURS = Path("/sys/fs/cgroup")
MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    ("status", "words", "kills", "expected"),
    [
        (1, "ValueError: no", False, Killer.OWN),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", False, Killer.MEMORY),
        (1, "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", False, Killer.MEMORY),
        (1, "RuntimeError: could not create a primitive", False, Killer.MEMORY),
        (1, "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling", False, Killer.MEMORY),
        (1, "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8 GiB", False, Killer.MEMORY),
        (1, "ImportError: libtorch_cpu.so: failed to map segment from shared object", False, Killer.MEMORY),
        (-signal.SIGABRT, "terminate called after throwing an instance of 'std::bad_alloc'", False, Killer.MEMORY),
        (-signal.SIGSEGV, "", True, Killer.OWN),
        (128 + signal.SIGSEGV, "", False, Killer.OWN),
        (-signal.SIGKILL, "", True, Killer.MEMORY),
        (-signal.SIGKILL, "out of memory, it had said", False, Killer.OUTSIDE),
        (128 + signal.SIGKILL, "", None, Killer.UNKNOWN),
        (-signal.SIGTERM, "", None, Killer.OUTSIDE),
        (
            1,
            "  exitcode  : -9 (pid: 4711)\n  traceback : Signal 9 (SIGKILL) received by PID 4711",
            False,
            Killer.OUTSIDE,
        ),
        (1, "  exitcode  : -9 (pid: 4711)", True, Killer.MEMORY),
        (0, "", False, Killer.OWN),
    ],
)
def test_a_death_is_laid_at_the_right_door(status: int, words: str, kills: bool | None, expected: Killer) -> None:
    assert killer.judge(status, words, kills) is expected


def test_a_shortage_is_known_by_its_type_its_number_or_its_words_and_by_what_it_caused() -> None:
    caused = ValueError("a checkpoint cannot be read")
    caused.__cause__ = MemoryError()
    short = [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        caused,
    ]
    assert all(map(killer.is_shortage, short))
    others = [
        OSError(errno.ENOSPC, "No space left"),
        ValueError("out of memory, says a config"),
        RuntimeError("shapes"),
    ]
    assert not any(map(killer.is_shortage, others))


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A cgroup of either version with 64 MiB, if this machine lets us make one."""
    parents = [folder for folder in (OURS / "memory", OURS) if (folder / "cgroup.procs").exists()]
    with made_cgroup(parents, to_64_mebibytes) as folder:
        yield folder


def to_64_mebibytes(folder: Path) -> None:
    """Write the limit to a new cgroup's own file."""
    found = [path for name in ("memory.max", "memory.limit_in_bytes") if (path := folder / name).exists()]
    if not found:
        raise FileNotFoundError(folder / "memory.max")
    found[0].write_text(str(64 * MEBIBYTE))


def test_the_kernels_memory_killer_is_told_from_a_kill(small_cgroup: Path) -> None:
    """A process that takes too much, and one that somebody kills, in the same cgroup."""
    takes = "import sys; sys.stdin.readline(); held = [bytearray(b'x' * (1 << 20)) for _ in range(int(sys.argv[1]))]"
    for mebibytes, expected in ((1000, Killer.MEMORY), (0, Killer.OUTSIDE)):
        command = [sys.executable, "-c", f"{takes}; sys.stdin.readline()", str(mebibytes)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert process.stdin is not None
        (small_cgroup / "cgroup.procs").write_text(str(process.pid))
        watch = killer.MemoryKills(process.pid)
        if not mebibytes:
            process.kill()
        else:
            process.stdin.write(b"\n")
            process.stdin.flush()
        assert killer.judge(process.wait(), "", watch.seen()) is expected
        process.stdin.close()
