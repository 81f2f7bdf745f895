"""The native engine's child: ``child.py PARENT_PID PIPE_FD RESULT_FILE [LAUNCH]``, as ``system/starter.py`` starts it.

It reads requests as JSON lines from standard input, leaves each answer in RESULT_FILE as ``[status, content]`` and
then writes ``answered`` to the pipe, where it also reports progress. It ends when its controller does.

With LAUNCH it is the launcher of several such children that train together. Each of them is told by its environment
which rank it has. The first rank reads requests and answers them; on a machine that has joined another's, the first of
its ranks hears from there whether this machine is asked to stop.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from contextlib import nullcontext
from pathlib import Path


def serve(pipe_descriptor: int, result_file: Path) -> None:
    """Answer requests until standard input ends, or until the first rank says that it is over."""
    from tiw_fsm.engines import code

    digest = code.import_recorded()
    from tiw_fsm.engines.native import ranks
    from tiw_fsm.engines.native.worker import REFUSED, SHARED, Worker, answer
    from tiw_fsm.errors import refusal
    from tiw_fsm.system import durable, signals

    many = ranks.SILENCE in os.environ  # our launcher's word; RANK may be left by somebody else's
    pipe = os.fdopen(_own_pipe() if many else pipe_descriptor, "w", buffering=1)
    crew = ranks.ManyRanks() if many else ranks.Ranks()
    worker = Worker(lambda line: print(line, file=pipe), digest, crew)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            if json.loads(line)["kind"] == "stop":
                worker.stop.set()
                if crew.rank:
                    crew.ask_elsewhere()
            else:
                requests.put(line)
        os._exit(0)  # the controller is gone

    if crew.here == 0:
        threading.Thread(target=read, daemon=True).start()

    def asked() -> bytes:
        """The next request."""
        if crew.rank:
            return crew.hear()
        while True:
            try:
                line = requests.get(timeout=crew.every)
            except queue.Empty:
                crew.beat()
                continue
            if json.loads(line)["kind"] in (*SHARED, "end"):
                crew.tell(line)
            return line

    folder = result_file.parent
    held = durable.kept_to(folder, os.open(folder, os.O_RDONLY)) if crew.rank == 0 else nullcontext()
    with signals.processor_time_heeded(worker.stop.set), held:
        while json.loads(line := asked())["kind"] != "end":
            status, content = answer(worker, line)
            if crew.rank:
                if crew.here == 0 and status in REFUSED:  # people here shall know it, too
                    print(*([content] if isinstance(content, str) else content), sep="\n", file=sys.stderr, flush=True)
                continue
            try:
                durable.exchange(result_file, json.dumps([status, content]).encode(), synced=False)
            except OSError as exc:
                print(json.dumps(str(refusal("writing", result_file, exc))), file=pipe)
            print("answered", file=pipe)
    os._exit(0)


def _own_pipe() -> int:
    """A rank's: its launcher could leave it no other descriptor than standard output, which is the log's again."""
    pipe = os.dup(1)
    os.dup2(2, 1)
    return pipe


if __name__ == "__main__":
    if len(sys.argv) > 4:
        from tiw_fsm.engines.native.launcher import launch

        launch(Path(__file__), Path(sys.argv[3]), sys.argv[4])
    serve(int(sys.argv[2]), Path(sys.argv[3]))
