"""A scripted engine without torch: the whole machine walks in milliseconds. Losses, MSE and faults come from a script.

Its checkpoints are real folders with real hashes; their content is a few bytes that depend only on what a real
checkpoint would depend on, so that two runs with the same updates have the same digests.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tiw_fsm.config.settings import Settings
from tiw_fsm.data import pictures
from tiw_fsm.engines.native.kind import NativeKind
from tiw_fsm.engines.protocol import Engine, Hello, HelloRequest, InferRequest, Progress, TrainRequest, TrainResult
from tiw_fsm.errors import EngineCrashed, Interrupted, disk_errors
from tiw_fsm.fsm.inference_gate import InferenceResult, UsedCheckpoint, skill
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.storage import checkpoint_checks, checkpoints
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.storage.torch_files import UnreadableFile
from tiw_fsm.system import durable
from tiw_fsm.tinyworlds.config import StageConfig
from tiw_fsm.tinyworlds.learning_rate import learning_rate
from tiw_fsm.values.death import Killer
from tiw_fsm.values.frozen import FrozenModel


class Script(FrozenModel, strict=False):
    """What shall happen. A list's last entry holds for everything after it."""

    losses: dict[Stage, list[float | None]] = {}
    """Loss of the nth chunk a stage begins; None is a loss that is not finite. A stage left out has its typical one."""
    mse: list[float] = [0.01]
    """MSE of the nth inference attempt."""
    delta_psnr: list[float | None] = [6.0]
    """Control, dB, in the nth inference attempt; None is one that cannot be measured."""
    motion: list[float | None] = [1.0]
    """Share of the true movement in the nth inference attempt."""
    key_agreement: list[float | None] = [None]
    """Agreement of actions and recorded keys in the nth inference attempt."""
    unique_actions: list[int] = [4]
    """Different actions in the nth inference attempt."""
    crashes: dict[Stage, int] = {}
    """How often a stage's child dies of itself before it works."""
    killed: dict[Stage, int] = {}
    """How often a stage's child is killed from outside before it works."""
    out_of_memory: dict[Stage, int] = {}
    """How often a stage runs out of memory before it works."""
    inference_crashes: int = 0
    baselines: dict[str, float] = {"copy_last": 0.03, "mean_frame": 0.04, "blurred_last": 0.02}
    device: str = "simulated"
    torch: str = "simulated"
    threads: int = 1


class SimulatedEngine:
    """Plays a script. Users may give their own to see what a run would do."""

    saves_within_chunk: ClassVar[bool] = False

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.calls: Counter[str] = Counter()
        self._stopping = False

    def hello(self, request: HelloRequest) -> Hello:
        return Hello(device=self.script.device, torch=self.script.torch, threads=self.script.threads)

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        if self._stopping:
            raise Interrupted("asked to stop before the first update")
        stage = request.stage
        if request.resume:
            checkpoint_checks.verified(request.resume)
        self._fault(f"{stage} out of memory", self.script.out_of_memory.get(stage, 0), Killer.MEMORY)
        self._fault(f"{stage} killed", self.script.killed.get(stage, 0), Killer.OUTSIDE)
        self._fault(f"{stage} crash", self.script.crashes.get(stage, 0), Killer.OWN)
        loss = _nth(self.script.losses.get(stage, [STAGES[stage].typical_loss]), request.attempt - 1)
        rows = [
            {
                "update": update,
                "loss": loss,
                "learning_rate": learning_rate(request.tuning.learning_rate, request.schedule, update),
                "grad_norm": 1.0,
                "unique_actions": 4,
                "action_entropy": 1.0,
            }
            for update in range(request.start, request.stop_at)
        ]
        progress(request.stop_at, request.stop_at, loss)
        folder = Path(request.checkpoint)
        before = request.resume.sha256 if request.resume else str(request.seed)
        with disk_errors("writing", folder):
            durable.clear(folder)
            folder.mkdir(parents=True)
            for name in checkpoints.FILES:
                (folder / name).write_text(json.dumps([stage, before, request.stop_at, request.tuning.model_dump()]))
        sha256 = checkpoints.write_manifest(folder, stage, request.stop_at, request.owner)
        if request.picture:
            _draw(Path(request.picture), f"{request.run}: simulated {stage}")
        return TrainResult(completed=request.stop_at, sha256=sha256, rows=rows, seconds=0.001 * len(rows))

    def infer(self, request: InferRequest, progress: Progress) -> InferenceResult:
        if self._stopping:
            raise Interrupted("asked to stop")
        self._fault("inference crash", self.script.inference_crashes, Killer.OWN)
        nth = request.number - 1
        mse = _nth(self.script.mse, nth)
        with disk_errors("writing", Path(request.log)), durable.open_new(Path(request.log)) as log:
            log.write(f"Inference stats:\nMean Squared Error (GT vs Pred): {mse:.6f}\n")
        _draw(Path(request.picture), f"{request.run}: simulated inference")
        steps = request.inference.generation_steps * request.inference.prediction_horizon
        won, control = skill(mse, self.script.baselines), _nth(self.script.delta_psnr, nth)
        return InferenceResult(
            status="ok",
            checkpoints={stage: UsedCheckpoint(**dict(ref)) for stage, ref in request.checkpoints.items()},
            frames_expected=steps * request.clips,
            frames_inferred=steps * request.clips,
            statistics={"mean": 0.5},
            mse=mse,
            mse_per_step=[mse] * steps,
            baselines=dict(self.script.baselines),
            baselines_per_step={name: [value] * steps for name, value in self.script.baselines.items()},
            skill_interval=None if won is None else [won, won],
            skill_per_step=None if won is None else [won] * steps,
            tokenizer_mse=mse / 2,
            delta_psnr=control,
            delta_psnr_interval=None if control is None else [control, control],
            delta_psnr_per_step=None if control is None else [control] * steps,
            motion=_nth(self.script.motion, nth),
            tokenizer_motion=1.0,
            key_agreement=_nth(self.script.key_agreement, nth),
            unique_actions=_nth(self.script.unique_actions, nth),
            distinct_actions=_nth(self.script.unique_actions, nth),
            n_actions=request.configs[Stage.LATENT].n_actions,
            unseen=0.5,
            keys_used=False,
            action_entropy=1.0,
            png=request.picture,
        )

    def problems(self, stage: Stage, config: StageConfig, folder: Path, sha256: str | None) -> list[str]:
        try:
            return checkpoint_checks.altered(folder, sha256 or checkpoints.digest(folder))
        except UnreadableFile as exc:
            return [str(exc)]

    def stop(self) -> None:
        self._stopping = True

    def close(self) -> None:
        pass

    def _fault(self, name: str, times: int, killed_by: Killer) -> None:
        if self.calls[name] < times:
            self.calls[name] += 1
            raise EngineCrashed(f"scripted: {name}", killed_by=killed_by)


def _nth(values: list[Any], n: int) -> Any:
    return values[min(n, len(values) - 1)]


def _draw(path: Path, title: str) -> None:
    pictures.draw_strips(path, title, [("frames", np.zeros((2, 8, 8, 3), np.uint8))])


class SimulatedKind(NativeKind):
    """Stands in for the native engine: what that refuses, this refuses too; but it needs no frames."""

    name = "simulated"
    waits_after_death = False
    needs_frames = False

    def waits_for(self, settings: Settings, run: str) -> str | None:
        return None

    def seconds_of_update(self, stage: Stage, config: StageConfig, threads: int) -> None:
        return None

    def make(self, settings: Settings, paths: StatePaths) -> Engine:
        return SimulatedEngine()


KIND = SimulatedKind()
