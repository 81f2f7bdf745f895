"""Starts a program of the package by its file: ``python -P starter.py PROGRAM PARENT_PID …``.

So it is the package around this file, which is the parent's, that runs, whatever else of that name the interpreter
would find. It ends when its parent does: an orphan that went on writing would write into the next one's files.

With ``-`` for PROGRAM it is told later, on standard input, what it is to run, and imports meanwhile what it is bound to
need.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

PACKAGE = Path(__file__).absolute().parents[1]
PR_SET_PDEATHSIG = 1
LATER = "-"
"""In the place of PROGRAM."""
BETWEEN = 3
"""The exit status of a process that would not notice its parent's death."""


def command(program: str | Path, parent: int, *arguments: str, python: str = sys.executable) -> list[str]:
    """What starts ``program``, which finds these arguments in ``sys.argv`` behind its parent's number."""
    return [python, "-P", __file__, str(program), str(parent), *arguments]


def without_program(parent: int, *modules: str) -> list[str]:
    """What starts a process that imports these modules and then waits for ``order``."""
    return command(LATER, parent, *modules)


def order(started_by: Sequence[str], output: Path) -> bytes:
    """The line that has it run what the command ``started_by`` would have started, with its output in that file."""
    return json.dumps([os.fspath(output), *started_by[3:]]).encode() + b"\n"


def _ordered(modules: Sequence[str]) -> list[str]:
    """Program, parent's number and arguments, once they are told.

    What cannot be imported the program itself will miss, and tell of.
    """
    for name in modules:
        with suppress(Exception):
            import_module(name)
    line = sys.stdin.buffer.readline()
    if not line:
        os._exit(0)  # nobody has any use for it
    output, *words = map(str, json.loads(line))
    sink = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)
    return words


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere the end of standard input does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        return
    try:
        os.kill(parent, 0)
    except ProcessLookupError:  # it died before it could be asked for
        os._exit(0)
    print("another process stands between tiw-fsm and this Python: have what starts it `exec` it", file=sys.stderr)
    sys.exit(BETWEEN)


def _load_package() -> None:
    """Have ``import tiw_fsm`` mean the package around this file."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tiw_fsm"]:
        del sys.modules[name]  # an interpreter may import at its start what it likes
    spec = spec_from_file_location("tiw_fsm", PACKAGE / "__init__.py", submodule_search_locations=[str(PACKAGE)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["tiw_fsm"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)


if __name__ == "__main__":
    del sys.argv[0]
    _die_with_parent(int(sys.argv[1]))
    if sys.argv[0] == LATER:
        sys.argv[:] = _ordered(sys.argv[2:])
    _load_package()
    runpy.run_path(sys.argv[0], run_name="__main__")
