"""The native engine's child: ``python -P child.py PARENT_PID PIPE_FD RESULT_FILE``.

It reads requests as JSON lines from standard input, leaves each answer in RESULT_FILE as ``[status, content]`` and
then writes ``answered`` to the pipe, where it also reports progress. It ends when its controller does: an orphan that
went on writing would write into the next one's files.

It is started by its file, not by its module's name: so it is the package around this file, which is the controller's,
that trains, whatever else of that name the interpreter would find.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import sys
import threading
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

PACKAGE = Path(__file__).absolute().parents[2]
PR_SET_PDEATHSIG = 1


def serve(pipe_descriptor: int, result_file: Path) -> None:
    """Answer requests until standard input ends."""
    from tiw_fsm.engines import code

    digest = code.import_recorded()
    from tiw_fsm.engines.native.worker import Worker, answer
    from tiw_fsm.system import durable, signals

    pipe = os.fdopen(pipe_descriptor, "w", buffering=1)
    worker = Worker(lambda line: print(line, file=pipe), digest)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            if json.loads(line)["kind"] == "stop":
                worker.stop.set()
            else:
                requests.put(line)
        os._exit(0)  # the controller is gone

    threading.Thread(target=read, daemon=True).start()
    folder = os.open(result_file.parent, os.O_RDONLY)
    with durable.kept_to(result_file.parent, folder), signals.processor_time_heeded(worker.stop.set):
        while True:
            content = json.dumps(answer(worker, requests.get()))
            try:
                durable.exchange(result_file, content.encode(), synced=False)
            except OSError as exc:
                print(json.dumps(f"the child's answer: {exc}"), file=pipe)
            print("answered", file=pipe)


def load_package() -> None:
    """Have ``import tiw_fsm`` mean the package around this file."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tiw_fsm"]:
        del sys.modules[name]  # an interpreter may import at its start what it likes
    spec = spec_from_file_location("tiw_fsm", PACKAGE / "__init__.py", submodule_search_locations=[str(PACKAGE)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["tiw_fsm"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere the end of standard input does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be asked for
        os._exit(0)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    load_package()
    serve(int(sys.argv[2]), Path(sys.argv[3]))
