"""The two sides that ``reference.py`` compares, each started as its user would, on one copy of a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import yaml
from workbench import STAGES

from tiw_fsm.engines.checkout.script_output import last_lines, updates_done
from tiw_fsm.stages import STAGES as SPECS
from tiw_fsm.stages import Stage
from tiw_fsm.storage.store import Store

CONFIGS = "aligned"
TILE = 8
"""Of the recorded game, pixels; a recording is an odd number of them wide."""
LEFT = shutil.ignore_patterns(".git", ".venv", "data", "results", "state", "wandb", "__pycache__")
FILES = ("training", *STAGES, "inference")


@dataclass(frozen=True)
class Scale:
    """What both sides train: the model, the batch, and how much of it is timed."""

    frame_size: int
    patch_size: int
    batch_size: int
    rows: int
    """Recorded frames."""
    updates: int
    """Of a stage, where single updates are timed."""
    warm: int
    """So many of them, the first, do not count."""

    @property
    def values(self) -> dict[str, Any]:
        """What the copies of the checkout's YAML files say, where those have the key."""
        return {
            "frame_size": self.frame_size,
            "patch_size": self.patch_size,
            "batch_size_per_gpu": self.batch_size,
            "gradient_accumulation_steps": 1,
            "context_length": 4,
            "latent_dim": 5,
            "num_bins": 4,
            "n_actions": 8,
            "embed_dim": 32,
            "num_heads": 8,
            "hidden_dim": 128,
            "num_blocks": 4,
            "amp": False,
            "tf32": False,
            "compile": False,
            "nproc_per_node": 1,
            "distributed": {"use_ddp": False, "use_fsdp": False},
            "device": "cpu",
            "dataset": "PONG",
            "preload_ratio": 1.0,
            "generation_steps": 12,
            "context_window": 2,
            "prediction_horizon": 1,
            "temperature": 0.5,
            "use_actions": True,
            "use_latest_checkpoints": False,
        }


@dataclass
class Ended:
    """A process that ended well."""

    seconds: float
    """Wall time, its start included."""
    marks: list[tuple[int, float]]
    """Updates done, and when, as its progress bar told them."""

    def per_update(self, warm: int) -> float:
        """Seconds of an update after the first ``warm``, by the progress bar."""
        (first, began), *_, (last, ended) = [mark for mark in self.marks if mark[0] >= warm]
        return (ended - began) / (last - first)


@dataclass
class Processes:
    """Starts one process at a time, tells of it, and keeps its wall time."""

    say: Callable[[str], None]
    label: str = ""
    """What the processes are for at the moment."""
    kept: list[dict[str, Any]] = field(default_factory=list)

    def run(
        self, name: str, command: Sequence[str | Path], cwd: Path, environment: Mapping[str, str], updates: int = 0
    ) -> Ended:
        """Run ``command`` to its end.

        Args:
            updates: what its progress bar counts up to, if it has one.
        """
        self.say(f"{self.label}, {name}")
        output, marks = "", []
        began = time.perf_counter()
        with subprocess.Popen(
            command, cwd=cwd, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            while new := os.read(process.stdout.fileno(), 1 << 16).decode(errors="replace"):
                output += new
                if updates and (done := updates_done(new, updates)) is not None:
                    marks.append((done, time.perf_counter()))
        seconds = time.perf_counter() - began
        if process.returncode != 0:
            raise SystemExit(f"{name} ended with {process.returncode}:\n{last_lines(output, 30)}")
        self.kept.append({"for": self.label, "process": name, "seconds": seconds})
        return Ended(seconds, marks)


@dataclass
class Theirs:
    """The checkout's scripts, started by hand one after the other."""

    root: Path
    python: Path
    processes: Processes

    def script(self, name: str, path: str, words: Sequence[str], run_root: Path, updates: int = 0) -> Ended:
        environment = {"PYTHONPATH": str(self.root), "NG_RUN_ROOT_DIR": str(run_root), "WANDB_MODE": "disabled"}
        return self.processes.run(f"theirs: {name}", [self.python, path, *words], self.root, environment, updates)

    def train(self, stage: Stage, run_root: Path, end: int, start: int = 0) -> Ended:
        """One process that trains up to update ``end``, from nothing or from its checkpoint at ``start``."""
        given = {"n_updates": end, "log_interval": end - start, "device": "cpu"}
        given |= {f"{each}_path": saved(run_root, each, end) for each in SPECS[stage].inputs}
        given |= {"checkpoint": saved(run_root, stage, start)} if start else {}
        files = ["--config", f"{CONFIGS}/{stage}.yaml", "--training_config", f"{CONFIGS}/training.yaml"]
        words = [*files, *(f"{key}={value}" for key, value in given.items())]
        return self.script(f"{stage}, updates {start + 1} to {end}", SPECS[stage].script, words, run_root, end)

    def infer(self, folders: Mapping[Stage, Path]) -> Ended:
        """Its one clip, with the checkpoints in ``folders``."""
        paths = {f"{stage}_path": folder for stage, folder in folders.items() if stage is not Stage.DYNAMICS}
        paths["dynamics_path"] = folders[Stage.DYNAMICS]
        words = ["--config", f"{CONFIGS}/inference.yaml", "--", *(f"{key}={value}" for key, value in paths.items())]
        return self.script("inference", "scripts/run_inference.py", words, self.root)


def saved(run_root: Path, stage: Stage, updates: int) -> Path:
    """Where a script of theirs has left its last checkpoint."""
    return run_root / stage / "checkpoints" / f"{stage}_step_{updates - 1}"


@dataclass
class Ours:
    """``tiw-fsm run`` with the native engine, on the same configs and frames."""

    root: Path
    processes: Processes

    def run(
        self, run: str, *flags: str | Path, updates: int = 1, chunk: int = 1, interval: int = 1, clips: int = 8
    ) -> tuple[Ended, Store]:
        """A whole run; what it took, and its journal. Gates let every finite chunk and every rollout pass."""
        loop = {
            "chunks": dict.fromkeys(STAGES, chunk),
            "checkpoint_interval": interval,
            "gates": {stage: {"from_update": 10**9} for stage in STAGES},
            "inference": {"max_mse": 1e9, "allow_trivial": True, "clips": clips},
        }
        loop_file = self.root / CONFIGS / f"{run}.yaml"
        loop_file.write_text(yaml.safe_dump(loop))
        words = ["--run", run, "--config-dir", CONFIGS, "--loop-config", loop_file, "--device", "cpu"]
        words += ["--target-updates", str(updates), *flags]
        command = [sys.executable, "-m", "tiw_fsm", "run", *words]
        ended = self.processes.run(f"ours: tiw-fsm run, {run}", command, self.root, {})
        return ended, Store(self.root / "state" / run)


@dataclass
class Sides:
    """A copy of the checkout with frames and aligned configs of one scale, and both sides at work there."""

    root: Path
    scale: Scale
    theirs: Theirs
    ours: Ours

    @classmethod
    def prepare(cls, root: Path, scale: Scale, checkout: Path, python: Path, processes: Processes) -> Sides:
        shutil.copytree(checkout, root, ignore=LEFT)
        record(root / "data" / "pong_frames.h5", scale, processes)
        (root / CONFIGS).mkdir()
        for name in FILES:
            stock = yaml.safe_load((root / "configs" / f"{name}.yaml").read_text()) or {}
            given = {key: value for key, value in scale.values.items() if key in stock}
            if name == "inference":
                given |= {"preload_ratio": None}
            (root / CONFIGS / f"{name}.yaml").write_text(yaml.safe_dump({**stock, **given}, sort_keys=False))
        return cls(root, scale, Theirs(root, python, processes), Ours(root, processes))

    @cached_property
    def trained(self) -> dict[Stage, Path]:
        """Checkpoints that both sides read: of a short run of ours."""
        _, store = self.ours.run("trained", updates=2, chunk=2, interval=2)
        state = store.load()
        assert state is not None
        return {stage: Path(progress.checkpoint.path) for stage, progress in state.stages.items()}


def record(path: Path, scale: Scale, processes: Processes) -> None:
    """Frames of ``tiw-fsm record``, of the next size that it can, cut down to that of ``scale``."""
    path.parent.mkdir()
    tiles = -(-scale.frame_size // TILE)
    size = (tiles + 1 - tiles % 2) * TILE
    whole = path.with_name("recorded.h5")
    asked = {"--frames": scale.rows, "--size": size, "--map-size": 20, "--episode-length": 100}
    words = [str(word) for pair in asked.items() for word in pair]
    command = [sys.executable, "-m", "tiw_fsm", "record", whole, *words]
    processes.run(f"ours: tiw-fsm record, {scale.rows} frames", command, path.parent, {})
    with h5py.File(whole) as source, h5py.File(path, "w") as target:
        side = scale.frame_size
        target.create_dataset("frames", data=source["frames"][:, :side, :side], compression="gzip", compression_opts=1)
        for name in ("actions", "episode"):
            source.copy(name, target)
    whole.unlink()
