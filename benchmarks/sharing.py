"""What several processes gain on the same updates: as many as there are GPUs against one, or two on CPUs."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median

import torch
from workbench import RUN, Bench, Figure

from tiw_fsm.config.settings import Settings
from tiw_fsm.engines.native import child as child_program
from tiw_fsm.engines.native.engine import NativeEngine
from tiw_fsm.engines.native.settings import NativeSettings
from tiw_fsm.engines.protocol import HelloRequest, TrainRequest
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.storage import checkpoints
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.values.frozen import CheckpointRef, LearningRateSchedule

CHILD, SILENT = Path(child_program.__file__), Path(__file__).with_name("silent_child.py")


class Crew:
    """A number of processes, started by the real engine, that train the stages a few updates at a time."""

    def __init__(self, bench: Bench, settings: Settings, count: int, child: Path = CHILD) -> None:
        self.settings, self.folder = settings, bench.folder / f"{child.stem}{count}" / RUN
        self.folder.mkdir(parents=True)
        processes = NativeSettings(per_node=count)
        self.engine = NativeEngine(sys.executable, StatePaths(self.folder), settings.loop.max_silence, processes)
        child_program.__file__ = str(child)  # of which an engine's first words make a process
        self.hello = self.engine.hello(HelloRequest(device=bench.device_flag, threads=None, counts=[count]))
        child_program.__file__ = str(CHILD)
        self.newest: dict[Stage, CheckpointRef] = {}

    def close(self) -> None:
        self.engine.close()

    def rate(self, stage: Stage, updates: int) -> float:
        """Updates per second over the next few. The global batch is that of one process, whoever computes it."""
        config, before = self.settings.stages[stage], self.newest.get(stage)
        start = before.completed if before else 0
        stop_at = start + updates
        folder = str(self.folder / checkpoints.folder_name(stage, stop_at))
        request = TrainRequest(
            stage=stage,
            owner=RUN,
            run=RUN,
            attempt=1,
            config=config,
            tuning=config.tuning,
            schedule=LearningRateSchedule(start=0, end=config.n_updates),
            data=self.settings.data,
            seed=0,
            resume=before,
            start=start,
            stop_at=stop_at,
            inputs={each: self.newest[each] for each in STAGES[stage].inputs},
            checkpoint=folder,
        )
        result = self.engine.train(request, lambda done, total, loss: None)
        self.newest[stage] = CheckpointRef(path=folder, update=stop_at - 1, sha256=result.sha256)
        return updates / result.seconds


def sharing(bench: Bench) -> list[Figure]:
    """Updates per second of one process and of many, and what of an update goes with the exchange of gradients.

    All take turns, so that a machine that is slow for a while is so to all, and what is compared are turns that
    follow one another.
    """
    many = torch.cuda.device_count() if bench.device.type == "cuda" else 2
    if many < 2:
        return []
    settings, repeats, updates = bench.settings(share=0.03), bench.amount(7, 3), bench.amount(15, 5)
    figures = []
    with ExitStack() as crews:
        alone, together, silent = (
            crews.enter_context(closing(Crew(bench, settings, count, child)))
            for count, child in ((1, CHILD), (many, CHILD), (many, SILENT))
        )
        for stage in Stage:
            turns = [[crew.rate(stage, updates) for crew in (alone, together, silent)] for _ in range(1 + repeats)][1:]
            one, several, _ = (median(rates) for rates in zip(*turns, strict=True))
            gains = [with_all / by_one for by_one, with_all, _ in turns]
            shares = [100 * (1 - with_all / without) for _, with_all, without in turns]
            told = f"median of {repeats} × {updates} updates, in turns"
            figures += [
                Figure(f"{stage}, 1 process", one, "/s", f"{alone.hello.threads} threads; {told}"),
                Figure(
                    f"{stage}, {many} processes", several, "/s", f"{together.hello.threads} threads each; same clips"
                ),
                Figure(f"{stage}, gain", median(gains), "×", f"{min(gains):.2f} to {max(gains):.2f}, turn by turn"),
                Figure(
                    f"{stage}, exchange of gradients",
                    median(shares),
                    "% of an update",
                    f"{min(shares):.0f} to {max(shares):.0f}; against the same updates without it (no_sync)",
                ),
            ]
    return figures
