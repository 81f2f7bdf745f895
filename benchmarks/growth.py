"""What grows with a run's length, and what does not: ``python benchmarks/growth.py [--commits N] [--real]``.

A run on the simulated engine commits every update, and leaves a picture every ten. It is measured after a thousand
commits and after ``--commits`` of them. Those between are written into its journal and metrics at once, as valid lines
that its state vouches for; with ``--real`` one process makes them all, which takes ten minutes or so for each 100,000.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from workbench import REPO, RUN, STAGES, Bench, Figure

from tiw_fsm.stages import Stage
from tiw_fsm.storage.paths import RunPaths
from tiw_fsm.storage.state_folder import written
from tiw_fsm.storage.store import Store
from tiw_fsm.values.plain import JsonObject, LogPosition

FEW, MANY = 1_000, 100_000
AT_WORK = 500
"""Commits that a process makes before it is measured, at least: its page is written, its memory has settled."""
CHUNK = 10
ENDLESS = 10**7
REPEATS = 3
COMMANDS = ("status", "verify", "history")


@dataclass
class Size:
    """What a run is after so many commits."""

    commits: int
    memory: float
    """MiB that the controller has resident, after it has written its page."""
    peak: float
    page: float
    """KiB."""
    state: float
    """KiB."""
    pictures: int
    picture_bytes: float
    """KiB of them all."""
    journal: float
    """MiB."""
    seconds: dict[str, float]
    """Of each command."""


UNITS = {
    "memory": ("controller's memory", "MiB"),
    "peak": ("controller's peak memory", "MiB"),
    "page": ("page", "KiB"),
    "state": ("state.json", "KiB"),
    "pictures": ("pictures", ""),
    "picture_bytes": ("all pictures", "KiB"),
    "journal": ("journal", "MiB"),
}


def growth(bench: Bench) -> list[Figure]:
    """Memory, page, pictures and commands after a thousand commits, and after a hundred times as many."""
    sizes = measured(bench, bench.amount(MANY, 10 * FEW), real=False)
    return [
        Figure(f"{name}, {size.commits:,} commits", value, unit, "simulated engine, a commit per update")
        for size in sizes
        for name, value, unit in rows_of(size)
    ]


def rows_of(size: Size) -> Iterator[tuple[str, float, str]]:
    for field, (name, unit) in UNITS.items():
        yield name, getattr(size, field), unit
    for command, seconds in size.seconds.items():
        yield f"`tiw-fsm {command}`", seconds, "s"


def measured(bench: Bench, many: int, *, real: bool) -> list[Size]:
    """The same run twice."""
    root = bench.root({**dict.fromkeys(STAGES, 1), Stage.VIDEO.value: ENDLESS}, CHUNK, 1)
    few = run_to(root, FEW)
    if not real:
        lengthen(root, many - AT_WORK)
    return [few, run_to(root, many)]


def run_to(root: Path, commits: int) -> Size:
    """Run until it has made so many commits and a page, and stop it."""
    store = Store(root / "state" / RUN)
    flags = ["--run", RUN, "--repo-root", str(root)]
    command = [sys.executable, "-m", "tiw_fsm", "run", *flags, "--engine", "simulated"]
    with open(root / "output", "wb") as output:
        process = subprocess.Popen(command, cwd=root, stdout=output, stderr=output)
    while generation(store) < commits:
        if process.poll() is not None:
            raise RuntimeError((root / "output").read_text())
        time.sleep(0.1)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    memory, peak = (int(status[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
    process.send_signal(signal.SIGTERM)
    process.wait()
    pictures = [path.stat().st_size for path in root.rglob("*.png")]
    return Size(
        commits=commits,
        memory=memory,
        peak=peak,
        page=store.paths.page.stat().st_size / 1024,
        state=store.paths.state.stat().st_size / 1024,
        pictures=len(pictures),
        picture_bytes=sum(pictures) / 1024,
        journal=store.paths.journal.stat().st_size / (1 << 20),
        seconds={name: seconds_of([sys.executable, "-m", "tiw_fsm", name, *flags]) for name in COMMANDS},
    )


def generation(store: Store) -> int:
    found = store.document()
    return int(found.state["generation"]) if found else 0


def seconds_of(command: list[str]) -> float:
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    return median(taken)


def lengthen(root: Path, commits: int) -> None:
    """Give a run that nobody works on the journal and the metrics of one that has made so many commits."""
    store = Store(root / "state" / RUN)
    found = store.document()
    assert found is not None
    stage, state = Stage.VIDEO.value, dict(found.stored)
    kinds = [line for line in store.stored_lines(found) if line["event"] in ("saved", "accepted")][-1 - CHUNK :]
    metrics = RunPaths(root / "results" / RUN, root).metrics(Stage.VIDEO)
    begun = state["generation"]
    rows = grown(metrics, state["stages"][stage]["metrics"]["bytes"], made_up_rows(metrics, commits - begun))
    state["generation"] = commits
    state["stages"] = {**state["stages"], stage: {**state["stages"][stage], "metrics": rows, "attempt_metrics": rows}}
    last = {"generation": commits, "stages": {stage: {"metrics": rows, "attempt_metrics": rows}}}
    lines = (
        {**kinds[n % len(kinds)], "generation": n, "changes": {"generation": n} if n < commits else last}
        for n in range(begun + 1, commits + 1)
    )
    mark = LogPosition(**grown(store.paths.journal, found.journal.bytes, lines))
    store.paths.state.write_bytes(written(state, mark))


def made_up_rows(metrics: Path, count: int) -> Iterator[JsonObject]:
    with open(metrics) as file:
        row = json.loads(file.readline())
    return ({**row, "update": row["update"] + n} for n in range(count))


def grown(path: Path, length: int, lines: Iterator[JsonObject]) -> JsonObject:
    """Cut a file and append lines; what a state says of it then."""
    with open(path, "r+b") as file:
        file.truncate(length)
        file.seek(length)
        file.writelines(json.dumps(line).encode() + b"\n" for line in lines)
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commits", type=int, default=MANY)
    parser.add_argument("--real", action="store_true", help="have one process make every commit")
    arguments = parser.parse_args()
    (REPO / "results").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="growth-", dir=REPO / "results") as temporary:
        folder = Path(temporary)
        bench = Bench(folder, REPO / "configs" / "demo", folder, "cpu", torch.device("cpu"), quick=False)
        few, many = measured(bench, arguments.commits, real=arguments.real)
    table = Table("", f"{few.commits:,} commits", f"{many.commits:,} commits", "")
    for (name, before, unit), (_, after, _) in zip(rows_of(few), rows_of(many), strict=True):
        table.add_row(name, shown(before), shown(after), unit)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
