"""The native engine's child: ``python -m tiw_fsm.engines.native.child PARENT_PID PIPE_FD RESULT_FILE``.

It reads requests as JSON lines from standard input, leaves each answer in RESULT_FILE as ``[status, content]`` and
then writes ``answered`` to the pipe, where it also reports progress. It ends when its controller does: an orphan that
went on writing would write into the next one's files.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path

from tiw_fsm.system import durable

PR_SET_PDEATHSIG = 1


def serve(pipe_descriptor: int, result_file: Path) -> None:
    """Answer requests until standard input ends."""
    from tiw_fsm.engines.native.worker import Worker, answer  # torch takes seconds to import; first things first

    pipe = os.fdopen(pipe_descriptor, "w", buffering=1)
    worker = Worker(lambda line: print(line, file=pipe))
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            if json.loads(line)["kind"] == "stop":
                worker.stop.set()
            else:
                requests.put(line)
        os._exit(0)  # the controller is gone

    threading.Thread(target=read, daemon=True).start()
    while True:
        content = json.dumps(answer(worker, requests.get()))
        try:
            durable.exchange(result_file, content.encode(), synced=False)
        except OSError as exc:
            print(json.dumps(f"the child's answer: {exc}"), file=pipe)
        print("answered", file=pipe)


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere the end of standard input does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be asked for
        os._exit(0)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    answers = Path(sys.argv[3])
    with durable.kept_to(answers.parent, os.open(answers.parent, os.O_RDONLY)):
        serve(int(sys.argv[2]), answers)
