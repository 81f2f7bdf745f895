"""How fast a run is played here: ``python benchmarks/play.py [RUN] [--repo-root DIR] [--steps N] [--tabs N]``.

Starts the real ``tiw-fsm play`` and plays as a page does, over its websocket: one step asked for, one answer waited
for. A latency is from the moment a message is sent until all pixels of its answer are here; what a browser adds to draw
them is not in it. With several tabs, all play at once.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table
from websockets.sync.client import connect

WARM_UP = 5
TARGETS = {"frames/s": 10.0, "ms": 150.0}
"""At least so many frames a second, and at most so long from input to picture, in one tab at 56 pixels on two cores."""


def play(address: str, steps: int, latencies: list[float], frames: list[int]) -> None:
    """One tab: ``steps`` steps; adds the seconds that each took, and the frames that it gave."""
    with connect(address.replace("http://", "ws://") + "socket?session=&start=0", max_size=None) as socket:
        hello = json.loads(socket.recv())
        socket.recv()
        for step in range(-WARM_UP, steps):
            began = time.perf_counter()
            socket.send(json.dumps({"do": "step", "action": step % len(hello["actions"])}))
            answer = socket.recv()
            took = time.perf_counter() - began
            (length,) = struct.unpack_from("<I", answer)  # type: ignore[arg-type]
            if step >= 0:
                latencies.append(took)
                frames.append(json.loads(answer[4 : 4 + length])["dream"])


def measured(address: str, tabs: int, steps: int) -> tuple[float, list[float]]:
    """Frames per second and tab, and all latencies, with so many tabs at once."""
    latencies: list[float] = []
    frames: list[int] = []
    threads = [threading.Thread(target=play, args=(address, steps, latencies, frames)) for _ in range(tabs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(frames) / (sum(latencies) or 1), latencies


def main() -> None:
    """Start the server, measure, end it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="default")
    parser.add_argument("--repo-root", default=".")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tabs", type=int, nargs="*", default=[1, 2, 4])
    given = parser.parse_args()
    command = [sys.executable, "-m", "tiw_fsm", "play", given.run, "--repo-root", given.repo_root]
    command += ["--device", given.device, "--port", "0", "--no-browser"]
    began = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    ready = time.perf_counter() - began
    table = Table(
        "tabs", "frames/s in each", "median ms", "95th percentile ms", "at most ms", title=f"play {given.run}"
    )
    try:
        found = re.search(r"http://\S+", line)
        if found is None:
            raise SystemExit(server.wait() or 1)
        for tabs in given.tabs:
            rate, latencies = measured(found[0], tabs, given.steps)
            values = (median(latencies), quantiles(latencies, n=20)[-1], max(latencies))
            table.add_row(str(tabs), f"{rate:.1f}", *(f"{1e3 * value:.0f}" for value in values))
            if tabs == 1:
                fast, soon = rate >= TARGETS["frames/s"], 1e3 * values[1] <= TARGETS["ms"]
                targets = f"≥ 10 frames/s {'met' if fast else 'MISSED'}, ≤ 150 ms {'met' if soon else 'MISSED'}"
                table.caption = f"{given.steps} steps a tab; command to page {ready:.1f} s; one tab: {targets}"
    finally:
        began = time.perf_counter()
        server.send_signal(signal.SIGTERM)
        server.wait()
    Console().print(table)
    Console().print(f"ended {time.perf_counter() - began:.2f} s after SIGTERM, exit code {server.returncode}")


if __name__ == "__main__":
    main()
