"""What an update costs at the least, and whether it costs at the twenty-thousandth what it did at the first.

By itself (``python benchmarks/updates.py FRAMES UPDATES``) it is the process that is watched: it trains a tokenizer too
small to hide anything, and prints a JSON line for each thousand updates.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, median

import torch
from torch import nn
from workbench import Bench, Figure, make_frames, train, trainer_of

from tiw_fsm.stages import Stage
from tiw_fsm.tinyworlds import division
from tiw_fsm.tinyworlds.clips import FrameData, draw_batch
from tiw_fsm.tinyworlds.config import DataSource, StageConfig
from tiw_fsm.tinyworlds.determinism import make_deterministic
from tiw_fsm.tinyworlds.training import MAX_GRAD_NORM, autocast

THOUSAND, PART = 1_000, 20
"""Updates of a line, and of a timing."""
STUDENT = {8: 2.306, 18: 2.101}
"""97.5th percentile of Student's t, by degrees of freedom."""
TINY = {
    "learning_rate": 1e-3,
    "gradient_accumulation_steps": 1,
    "batch_size_per_gpu": 1,
    "log_interval": THOUSAND,
    "context_length": 2,
    "frame_size": 16,
    "patch_size": 8,
    "embed_dim": 8,
    "num_heads": 2,
    "hidden_dim": 8,
    "num_blocks": 1,
    "latent_dim": 2,
    "num_bins": 2,
    "n_actions": 2,
}


def bare_updates(bench: Bench) -> list[Figure]:
    """The limit of an update: forward, backward, clipping and step of the same models on a batch that is ready."""
    settings, repeats = bench.settings(share=0.03), bench.amount(40, 10)
    frames, figures = FrameData(settings.data, bench.device), []
    for stage, config in settings.stages.items():
        trainer = trainer_of(stage, config, frames)
        random = torch.Generator().manual_seed(0)
        drawn = division.micro_batch(config.tuning, 1)
        batch = trainer.objective.batch(draw_batch(trainer.clips, drawn, random), slice(0, drawn), random)
        losses: list[torch.Tensor] = []

        def forward() -> None:
            with autocast(bench.device, config.amp):  # noqa: B023 - called before the loop goes on
                losses[:] = [trainer.step.loss(batch)[0]]  # noqa: B023

        def backward() -> None:
            losses[0].backward()  # noqa: B023

        def step() -> None:
            nn.utils.clip_grad_norm_(trainer.model.parameters(), MAX_GRAD_NORM)  # noqa: B023
            trainer.optimizer.step()  # noqa: B023
            trainer.optimizer.zero_grad()  # noqa: B023

        turns = [[1e3 * bench.timed(work) for work in (forward, backward, step)] for _ in range(3 + repeats)][3:]
        parts = dict(zip(("forward", "backward", "step"), map(median, zip(*turns, strict=True)), strict=True))
        note = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
        figures.append(Figure(f"bare update, {stage}", median(map(sum, turns)), "ms", f"median of {repeats}; {note}"))
    return figures


def flat_updates(bench: Bench) -> list[Figure]:
    """Slope of an update's time, and growth of peak memory, over a long training in a process of its own."""
    total = bench.amount(20, 10) * THOUSAND
    path = bench.folder / "tiny.h5"
    make_frames(path, size=16, rows=400)
    command = [sys.executable, __file__, str(path), str(total)]
    lines = [
        json.loads(line) for line in subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()
    ]
    times = [line["ms"] for line in lines]
    slope, half = slope_of(times)
    growth = lines[-1]["peak"] / lines[0]["peak"]
    note = f"{total:,} of a tiny tokenizer: {times[0]:.2f} ms in the first thousand, {times[-1]:.2f} in the last"
    return [
        Figure("slope of an update's time", 1e3 * slope, "µs per 1,000 updates", note),
        Figure("the same, away from zero", abs(slope) / half, "of its 95 % interval's half", "", 1),
        Figure("growth of peak memory", growth, "× that after 1,000 updates", f"{lines[0]['peak']:.0f} MiB then", 1.01),
    ]


def slope_of(values: list[float]) -> tuple[float, float]:
    """Least-squares slope over 0, 1, 2, …, and half of its 95 % interval."""
    n = len(values)
    at = [i - (n - 1) / 2 for i in range(n)]
    spread, mean = sum(x * x for x in at), fmean(values)
    slope = sum(x * y for x, y in zip(at, values, strict=True)) / spread
    rest = sum((y - mean - slope * x) ** 2 for x, y in zip(at, values, strict=True))
    return slope, STUDENT[n - 2] * (rest / (n - 2) / spread) ** 0.5


def grow(path: Path, total: int) -> None:
    """Train, and print for each thousand updates the median time of one, ms, and the peak memory, MiB."""
    make_deterministic(1)
    config = StageConfig(n_updates=total, **TINY)
    frames = FrameData(DataSource(path=str(path), skip=0, stride=1), torch.device("cpu"))
    trainer = trainer_of(Stage.VIDEO, config, frames)
    for line in range(0, total, THOUSAND):
        taken = []
        for start in range(line, line + THOUSAND, PART):
            began = time.perf_counter()
            train(trainer, start, start + PART)
            taken.append(1e3 * (time.perf_counter() - began) / PART)
        status = dict(text.split(":", 1) for text in Path("/proc/self/status").read_text().splitlines())
        print(json.dumps({"ms": median(taken), "peak": int(status["VmHWM"].split()[0]) / 1024}), flush=True)


if __name__ == "__main__":
    grow(Path(sys.argv[1]), int(sys.argv[2]))
