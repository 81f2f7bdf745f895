"""How fast it is here: ``python benchmarks/bench.py [--device auto|cpu|cuda] [--json FILE] [--quick]``.

Sizes are those of configs/demo (``--config-dir`` takes others), frames those of data/planet_frames.h5 if it has been
recorded, else made up. Everything is measured on the disk that holds results/, in a folder that is removed afterwards.
Takes up to four minutes on two processors; ``--quick`` does less of everything and says how much.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import busy
import growth
import parts
import runs
import sharing
import updates
from rich.console import Console
from workbench import REPO, Bench, Figure, frames_of, table_of

from tiw_fsm.engines.native.ranks import Ranks
from tiw_fsm.engines.native.worker import Worker
from tiw_fsm.engines.protocol import HelloRequest
from tiw_fsm.tinyworlds import determinism

MEASUREMENTS = (
    runs.starts,
    runs.whole_run,
    runs.training,
    updates.bare_updates,
    runs.cold_status,
    parts.commit,
    parts.checkpoint,
    parts.tokens,
    parts.rollout,
    runs.flat_state,
    updates.flat_updates,
    sharing.sharing,
    busy.busy,
    growth.growth,
)
"""In the order in which they are made: some need the finished run that ``whole_run`` leaves."""


def main() -> None:
    """Measure everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--config-dir", type=Path, default=REPO / "configs" / "demo", help="profile to measure")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="do less of everything")
    arguments = parser.parse_args()
    for name, value in determinism.ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # as the native engine's child has it, before CUDA is first used
    console, began = Console(highlight=False), time.monotonic()
    worker = Worker(lambda line: None, "", Ranks())
    hello = worker.hello(HelloRequest(device=arguments.device, threads=None))  # sets torch up as in the child
    (REPO / "results").mkdir(exist_ok=True)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=REPO / "results") as temporary:
        folder = Path(temporary)
        frames, told = frames_of(folder, arguments.config_dir)
        facts = {name: hello[name] for name in ("device", "torch", "threads")} | {
            "frames": told,
            "profile": arguments.config_dir.name,
        }
        bench = Bench(folder, arguments.config_dir, frames, arguments.device, worker.device, arguments.quick)
        for number, measure in enumerate(MEASUREMENTS, 1):
            name = measure.__name__.replace("_", " ")
            console.print(f"{time.monotonic() - began:5.0f} s  {number} of {len(MEASUREMENTS)}: {name}")
            figures += measure(bench)
    console.print(table_of(figures, facts))
    console.print(f"{time.monotonic() - began:.0f} s in all{', --quick' if arguments.quick else ''}")
    if arguments.json:
        values = [{**asdict(figure), "met": figure.met} for figure in figures]
        arguments.json.write_text(json.dumps({**facts, "quick": arguments.quick, "figures": values}, indent=1) + "\n")


if __name__ == "__main__":
    main()
