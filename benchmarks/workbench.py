"""What the measurements share: where to work, on which frames and device, how much; and what a figure is."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml
from rich.table import Table

from tiw_fsm.config.settings import Settings, load_settings
from tiw_fsm.engines import registry
from tiw_fsm.stages import STAGES as TABLE
from tiw_fsm.stages import Stage
from tiw_fsm.tinyworlds.clips import FrameData
from tiw_fsm.tinyworlds.config import StageConfig
from tiw_fsm.tinyworlds.objectives import make_model
from tiw_fsm.tinyworlds.training import Trainer
from tiw_fsm.values.frozen import LearningRateSchedule

REPO = Path(__file__).resolve().parents[1]
RECORDED = REPO / "data" / "planet_frames.h5"
RUN = "bench"
STAGES = tuple(stage.value for stage in Stage)


@dataclass
class Figure:
    """One line of the table. A target is the most a value may be, or the least if ``at_least``."""

    name: str
    value: float | None
    unit: str
    note: str = ""
    target: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.target is None or self.value is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


def table_of(figures: list[Figure], facts: Mapping[str, Any]) -> Table:
    """The figures as a table for the terminal, under what was found out about the machine."""
    table = Table(title="  ".join(f"{name}: {value}" for name, value in facts.items()), title_justify="left")
    for name, justify in (("what", "left"), ("value", "right"), ("unit", "left"), ("target", "left"), ("how", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for figure in figures:
        value = "not measured" if figure.value is None else f"{figure.value:.3g}"
        if figure.value is not None and figure.value >= 100:
            value = f"{figure.value:.0f}"
        sign = "≥" if figure.at_least else "≤"
        target = "" if figure.target is None else f"{sign} {figure.target:g} {'met' if figure.met else 'MISSED'}"
        table.add_row(figure.name, value, figure.unit, target, figure.note)
    return table


@dataclass
class Bench:
    """What the benchmarks share: where to work, on which frames and device, and how much."""

    folder: Path
    config_dir: Path
    frames: Path
    device_flag: str
    device: torch.device
    quick: bool
    state_file: Path | None = None
    """state.json of a finished run, left by ``whole_run`` for those that need a real one."""
    roots: list[Path] = field(default_factory=list)

    def amount(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def root(
        self,
        updates: Mapping[str, int],
        chunk: int | None = None,
        interval: int | None = None,
        share: float | None = None,
    ) -> Path:
        """A new working root: the profile, with ``updates`` per stage and gates that let every finite chunk pass.

        ``None`` for ``chunk``, ``interval`` or ``share`` (of the rows to train on) leaves what the profile says.
        """
        root = self.folder / f"root{len(self.roots)}"
        self.roots.append(root)
        shutil.copytree(self.config_dir, root / "configs", ignore=lambda _, names: [n for n in names if "." not in n])
        loop_file = root / "configs" / "loop.yaml"
        loop = yaml.safe_load(loop_file.read_text()) if loop_file.exists() else {}
        loop["gates"] = {stage: {**loop.get("gates", {}).get(stage, {}), "from_update": 10**9} for stage in STAGES}
        loop.setdefault("inference", {}).update(max_mse=1e9, allow_trivial=True)
        if chunk:
            loop["chunks"] = dict.fromkeys(STAGES, chunk)
        if interval:
            loop["checkpoint_interval"] = interval
        loop_file.write_text(yaml.safe_dump(loop))
        for stage, n_updates in updates.items():
            change_yaml(root / "configs" / f"{stage}.yaml", n_updates=n_updates)
        if share:
            change_yaml(root / "configs" / "training.yaml", preload_ratio=share)
        return root

    def flags(self) -> dict[str, str]:
        return {"dataset": str(self.frames), "device": self.device_flag}

    def command(self) -> list[str]:
        """The real ``tiw-fsm run``."""
        flags = [text for name, value in self.flags().items() for text in (f"--{name}", value)]
        return [sys.executable, "-m", "tiw_fsm", "run", "--run", RUN, *flags]

    def settings(self, share: float | None = None) -> Settings:
        """Of a new working root; ``share`` as in ``root``."""
        root = self.root({}, share=share)
        return load_settings(self.flags(), run=RUN, repo_root=root, engine=registry.find("native"))

    def sync(self) -> None:
        """Wait for what was asked of the GPU, so that a clock read next counts it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds that ``work`` takes, the GPU's share included."""
        self.sync()
        began = time.perf_counter()
        work()
        self.sync()
        return time.perf_counter() - began


def trainer_of(stage: Stage, config: StageConfig, frames: FrameData) -> Trainer:
    """A stage in training against models that have learnt nothing."""
    frozen = {
        each: make_model(each, config).to(frames.device).eval().requires_grad_(False) for each in TABLE[stage].inputs
    }
    return Trainer(stage, config, frames, frames.device, 0, frozen)


def train(trainer: Trainer, start: int, stop_at: int) -> None:
    """Do updates ``start`` to ``stop_at - 1``."""
    config = trainer.config
    schedule = LearningRateSchedule(start=0, end=config.n_updates)
    trainer.train(start, stop_at, config.tuning, schedule, lambda: False, lambda done, loss: None)


def change_yaml(path: Path, **values: object) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))


def make_frames(path: Path, *, size: int, rows: int) -> None:
    """A bright square that walks over a dark field, in episodes of 100 frames; ``actions`` are its steps."""
    rng = np.random.default_rng(0)
    side = size // 4
    steps = rng.integers(-1, 2, (rows, 2))
    places = np.cumsum(steps, axis=0) % (size - side)
    frames = np.full((rows, size, size, 3), 30, np.uint8)
    for frame, (y, x) in zip(frames, places, strict=True):
        frame[y : y + side, x : x + side] = (220, 180, 60)
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=frames, chunks=(16, size, size, 3), compression="gzip", compression_opts=4)
        file.create_dataset("episode", data=np.arange(rows) // 100)
        file.create_dataset("actions", data=np.roll((steps + 1) @ [3, 1], -1))
        file.attrs["stride"] = 1


def frames_of(folder: Path, config_dir: Path) -> tuple[Path, str]:
    """The recorded demo frames, if they are there and fit the profile; else made-up ones."""
    training = yaml.safe_load((config_dir / "training.yaml").read_text())
    size = training["frame_size"]
    if RECORDED.is_file():
        with h5py.File(RECORDED, "r") as file:
            if file["frames"].shape[1] == size:
                return RECORDED, f"{len(file['frames'])} of the planet"
    path = folder / "frames.h5"
    make_frames(path, size=size, rows=12_000)
    return path, f"12000 made up, {size} pixels"
