"""The engines as a user meets them: a working root for each, and a way to interrupt a run in the midst of its work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import yaml

from tests.support.checkout.checkout_runs import processes_below
from tests.support.checkout.miniature import make_checkout, write_faults
from tests.support.configs import merged, write_configs, write_frames
from tests.support.run_folder import RunFolder
from tests.support.torture.launch import Fault, Launcher
from tests.support.waiting import wait_for
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import State
from tiw_fsm.stages import Stage

NAMES = tuple(stage.value for stage in Stage)
WATCHED: dict[str, dict[str, dict[str, Any]]] = {
    "video_tokenizer": {"watch": {"final": {"max": 1e9}}},
    "latent_actions": {"watch": {"final": {"max": 1e9}, "unique_actions": {"min": 0}}},
    "dynamics": {"retune": {"final": {"min": 1e9}}, "watch": {"late_over_mid": {"max": 1e9}, "rise": {"max": 1e9}}},
}
"""Bounds that let any finite chunk through: what a real checkout learns in a few updates is left to chance."""
LONGEST = 1200.0
"""Seconds that a start may take; a real checkout needs some ten for each process."""


class Backend(RunFolder, ABC):
    """One engine and a root for it, with configs that train in seconds."""

    engine: ClassVar[str]
    exact: ClassVar[bool] = False
    """An interrupted run ends with bitwise the same weights."""
    saves_within_chunk: ClassVar[bool] = True
    """Killed within a chunk, a run goes on within it."""
    chunk: ClassVar[int] = 20
    interval: ClassVar[int] = 5
    """Updates from one checkpoint within a chunk to the next."""

    configs: ClassVar[tuple[str, ...]] = ()
    """Flags that name its configs, where they are not in the usual place."""

    @property
    def target(self) -> int:
        """Updates per stage."""
        return 2 * self.chunk

    @property
    def tiny(self) -> dict[str, dict[str, Any]]:
        """What every root's configs say, by file."""
        loop = {
            "chunks": dict.fromkeys(NAMES, self.chunk),
            "checkpoint_interval": self.interval,
            "inference": {"clips": 2, "max_mse": 0.9, "allow_trivial": True},
            "retune": {"chunk": self.chunk},
        }
        stages = {name: {"n_updates": self.target, "log_interval": self.interval} for name in NAMES}
        gates = {name: {"from_update": 0, "verdicts": verdicts} for name, verdicts in WATCHED.items()}
        return {"loop": loop | {"gates": gates}, **stages}

    @abstractmethod
    def prepare(self) -> Self:
        """Lay the root out."""

    @abstractmethod
    def configure(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the configs, with changes by file."""

    def flags(self) -> list[str]:
        """What names the engine; saved at the first start."""
        return ["--engine", self.engine, *self.configs]

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tiw_fsm", *arguments],
            cwd=self.root,
            env=os.environ | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=LONGEST,
        )

    def run(self, *flags: str) -> subprocess.CompletedProcess[str]:
        return self.call("run", *self.flags(), *flags)

    def interrupt(self, moment: State, number: signal.Signals) -> None:
        """Start, and send the controller a signal in the midst of ``moment``; afterwards nothing of the run is left."""
        with open(self.root / "interrupted.log", "ab") as log:
            command = [sys.executable, "-m", "tiw_fsm", "run", *self.flags()]
            runner = subprocess.Popen(command, cwd=self.root, stdout=log, stderr=log)
        wait_for(moment, lambda: self.is_within(moment) or runner.poll() is not None, LONGEST, pause=0.002)
        assert runner.poll() is None, (self.root / "interrupted.log").read_text()
        runner.send_signal(number)
        code = runner.wait(LONGEST)
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else ExitCode.INTERRUPTED)
        wait_for("the end of all it started", lambda: not processes_below(self.root), 15)

    def is_within(self, moment: State) -> bool:
        """Whether the run is in a state, and there has begun work that it could lose."""
        state = self.store.load()
        if state is None or state.state is not moment:
            return False
        return state.stage is None or self.saved_within_chunk(state)

    def saved_within_chunk(self, state: RunState) -> bool:
        """Whether the chunk in hand has left a checkpoint, but not its last."""
        return 0 < state.progress().completed < state.chunk_end(Stage(state.stage or ""))

    # --- what a run came to -------------------------------------------------------------------------------------

    def checkpoints(self) -> dict[Stage, str]:
        """The folder of each stage's checkpoint."""
        found = {stage: progress.checkpoint for stage, progress in self.state.stages.items()}
        return {stage: ref.path for stage, ref in found.items() if ref}

    def digests(self) -> dict[Stage, str]:
        return {stage: ref.sha256 for stage, p in self.state.stages.items() if (ref := p.checkpoint)}


class Native(Backend):
    engine = "native"
    exact = True

    def prepare(self) -> Self:
        write_frames(self.root / "frames.h5")
        self.configure({})
        return self

    def configure(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        long = {"inference": {"generation_steps": 14}}  # to be met in the midst of it
        write_configs(self.root / "configs", merged(merged(self.tiny, long), changes))


class Simulated(Native):
    """Done in milliseconds, so that it is killed by the number of its commits."""

    engine = "simulated"
    saves_within_chunk = False

    def __init__(self, root: Path, launcher: Launcher) -> None:
        super().__init__(root)
        self._launcher = launcher

    def interrupt(self, moment: State, number: signal.Signals) -> None:
        run = self._launcher.start(self.root, "run", *self.flags(), fault=Fault("marked", 3))
        assert run.wait().signal == signal.SIGKILL


class Checkout(Backend):
    engine = "checkout"

    def saved_within_chunk(self, state: RunState) -> bool:
        """A script's checkpoints are published when it has ended."""
        attempt = f"attempts/{state.run_id[:8]}_{state.progress().attempt}"
        saved = self.root.glob(f"results/default/{state.stage}/{attempt}/process_*/{state.stage}/checkpoints/*")
        # The first save of a process is worth one update; state.pt is the last file of a save.
        return len([folder for folder in saved if (folder / "state.pt").exists()]) >= 2


class Miniature(Checkout):
    """A checkout of our own writing that keeps TinyWorlds' contract, in one of its dialects."""

    def __init__(self, root: Path, spoken: str, templates: Path) -> None:
        super().__init__(root)
        self._spoken = spoken
        self._templates = templates

    def prepare(self) -> Self:
        make_checkout(self.root, self._spoken, self._templates)
        self.configure({})
        return self

    def configure(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        data = {"training": {"dataset": "PONG", "fps": 60}}
        write_configs(self.root / "configs", merged(merged(self.tiny, data), changes))

    def flags(self) -> list[str]:
        return [*super().flags(), "--python-exec", sys.executable]

    def interrupt(self, moment: State, number: signal.Signals) -> None:
        write_faults(self.root, {"what": "slow", "seconds": 0.03})
        super().interrupt(moment, number)
        write_faults(self.root)


class Real(Checkout):
    """A copy of a real checkout, with aligned small copies of its own configs, on frames of a real game."""

    chunk = 12
    interval = 4
    configs = ("--config-dir", "aligned")
    SMALL: ClassVar[dict[str, Any]] = {
        "patch_size": 8,
        "context_length": 4,
        "frame_size": 40,
        "latent_dim": 5,
        "num_bins": 4,
        "n_actions": 8,
        "embed_dim": 32,
        "num_heads": 4,
        "hidden_dim": 64,
        "num_blocks": 2,
        "batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 1,
        "learning_rate": 0.001,
        "amp": False,
        "tf32": False,
        "compile": False,
        "dataset": "PONG",
        "preload_ratio": 1.0,
        "generation_steps": 4,
        "device": "cpu",
        "checkpoint": None,
        "video_tokenizer_path": None,
        "latent_actions_path": None,
        "dynamics_path": None,
    }

    def __init__(self, root: Path, source: Path, python: Path, frames: Path) -> None:
        super().__init__(root)
        self._source = source
        self._python = python
        self._frames = frames

    def prepare(self) -> Self:
        left = shutil.ignore_patterns(".git", ".venv", "data", "results", "state", "wandb", "__pycache__")
        shutil.copytree(self._source, self.root, ignore=left, dirs_exist_ok=True)
        (self.root / "data").mkdir()
        shutil.copyfile(self._frames, self.root / "data/pong_frames.h5")
        self.configure({})
        return self

    def configure(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        aligned = self.root / "aligned"
        aligned.mkdir(exist_ok=True)
        asked = merged(self.tiny, changes)
        for name in ("training", *NAMES, "inference"):
            theirs = yaml.safe_load((self.root / "configs" / f"{name}.yaml").read_text()) or {}
            small = {key: value for key, value in self.SMALL.items() if key in theirs}
            content = {**theirs, **small, **asked.get(name, {})}
            (aligned / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        (aligned / "loop.yaml").write_text(yaml.safe_dump(asked["loop"]))

    def flags(self) -> list[str]:
        return [*super().flags(), "--python-exec", str(self._python)]

    def computes(self, folders: Mapping[Stage, str], frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the checkout's own models compute from frames [B, T, C, H, W], with weights from ``folders``."""
        question, answer = self.root / "question.pt", self.root / "answer.pt"
        torch.save({"frames": frames, **{stage.value: folder for stage, folder in folders.items()}}, question)
        command = [self._python, Path(__file__).with_name("theirs.py"), question, answer]
        subprocess.run(command, cwd=self.root, env=os.environ | {"PYTHONPATH": str(self.root)}, check=True)
        found: dict[str, torch.Tensor] = torch.load(answer, weights_only=True)
        return found
