"""What an update costs against frame size and batch: ``python benchmarks/cost.py PICTURE.png`` (needs matplotlib).

Both are drawn over the tokens of an update. What large frames cost more than a larger batch of small ones is then a
distance: attention grows with the square of a frame's patches. The frames are made up, the sizes are the demo's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from workbench import REPO, Bench, change_yaml, make_frames, train, trainer_of

from tiw_fsm.config.settings import load_settings
from tiw_fsm.engines import registry
from tiw_fsm.stages import Stage
from tiw_fsm.system import processors
from tiw_fsm.tinyworlds.clips import FrameData
from tiw_fsm.tinyworlds.config import StageConfig
from tiw_fsm.tinyworlds.determinism import make_deterministic
from tiw_fsm.tinyworlds.objectives import DynamicsObjective

SIZES = {"frame_size": (32, 56, 80, 112), "batch_size_per_gpu": (1, 2, 4, 8, 16, 32)}
"""What is varied, the rest being the demo's."""
MARKS = {"frame_size": "o-", "batch_size_per_gpu": "s--"}
PART, PARTS = 3, 5
"""Updates of a timing, and timings of a point."""


def main() -> None:
    """Measure every point, print it, draw them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    picture = parser.parse_args().picture
    try:
        from matplotlib import pyplot, ticker
    except ImportError:
        sys.exit("the plot is drawn by matplotlib, which is not installed: pip install matplotlib")
    make_deterministic(processors.share(torch.get_num_threads()))
    console = Console(highlight=False)
    figure, axes = pyplot.subplots(figsize=(7, 4.5), dpi=150)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary), REPO / "configs" / "demo", Path(), "cpu", torch.device("cpu"), quick=False)
        for number, stage in enumerate(Stage):
            for varied, values in SIZES.items():
                points = [point(bench, stage, varied, value) for value in values]
                for value, (tokens, ms) in zip(values, points, strict=True):
                    console.print(f"{stage:>16}  {varied} {value:>3}  {tokens:>6} tokens  {ms:6.1f} ms an update")
                label = f"{stage}, by {varied.split('_')[0]}"
                axes.loglog(*zip(*points, strict=True), MARKS[varied], color=f"C{number}", label=label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticker.ScalarFormatter())
        axis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("tokens of an update: batch × frames × patches")
    axes.set_ylabel("ms an update")
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(picture)
    console.print(f"drawn to {picture}")


def point(bench: Bench, stage: Stage, varied: str, value: int) -> tuple[int, float]:
    """Tokens of an update, and the milliseconds it takes."""
    root = bench.root({})
    change_yaml(root / "configs" / ("training.yaml" if varied == "frame_size" else f"{stage}.yaml"), **{varied: value})
    bench.frames = root / "frames.h5"
    settings = load_settings(bench.flags(), run="cost", repo_root=root, engine=registry.find("native"))
    config = settings.stages[stage]
    make_frames(bench.frames, size=config.frame_size, rows=400)
    return tokens_of(config), milliseconds(stage, config, FrameData(settings.data, bench.device))


def tokens_of(config: StageConfig) -> int:
    return config.batch_size_per_gpu * config.context_length * (config.frame_size // config.patch_size) ** 2


def milliseconds(stage: Stage, config: StageConfig, frames: FrameData) -> float:
    trainer, taken = trainer_of(stage, config, frames), []
    if isinstance(trainer.objective, DynamicsObjective):  # they tokenize each clip once
        trainer.objective.tokens.lookup(torch.arange(len(trainer.objective.tokens.starts)))
    for start in range(0, PART * (PARTS + 1), PART):
        began = time.perf_counter()
        train(trainer, start, start + PART)
        taken.append(1e3 * (time.perf_counter() - began) / PART)
    return median(taken[1:])


if __name__ == "__main__":
    main()
