"""What the controller asks of an engine, and what it gets back: values that go through JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from tiw_fsm.config import DataSource, InferenceConfig, Schedule, StageConfig, Tuning, Value
from tiw_fsm.dialect import Dialect
from tiw_fsm.run_state import CheckpointRef
from tiw_fsm.stages import Stage


class HelloRequest(Value):
    """Say what you compute on."""

    kind: Literal["hello"] = "hello"
    device: str
    threads: int | None
    """CPU threads to compute with; None takes what the machine has."""


class Hello(Value):
    """What decides the bits of a result, beside config, data and code."""

    device: str
    """Model of the device, for example the GPU's name."""
    torch: str
    threads: int
    processes: int = 1
    code: str = ""
    """Digest of code beside our own that trains: a checkout's."""
    dialect: Dialect | None = None
    """What a checkout can do."""


class ShapesRequest(Value):
    """Say which tensors a stage's checkpoint must hold."""

    kind: Literal["shapes"] = "shapes"
    stage: Stage
    config: StageConfig


class PackRequest(Value):
    """Write a checkpoint's weights and plain config into one file, as some checkouts want to read them."""

    kind: Literal["pack"] = "pack"
    folder: str
    config: dict[str, Any]
    file: str


class TrainRequest(Value):
    """Train one stage up to its next committed checkpoint."""

    kind: Literal["train"] = "train"
    stage: Stage
    owner: str
    """Id of the run; the checkpoint's manifest carries it."""
    attempt: int
    """Number of the chunk attempt, from 1; an accepted chunk and a repeated one both count on."""
    config: StageConfig
    tuning: Tuning
    schedule: Schedule
    data: DataSource
    seed: int
    resume: CheckpointRef | None = None
    """Where to begin; None means freshly initialised weights."""
    weights_only: bool = False
    """Take the weights of ``resume`` but not its optimizer: a warm start."""
    start: int
    """Completed updates at the beginning."""
    stop_at: int
    """Completed updates at which to save and return."""
    video_tokenizer: CheckpointRef | None = None
    latent_actions: CheckpointRef | None = None
    checkpoint: str
    """Folder to write the checkpoint to."""
    picture: str | None = None
    """PNG to draw at ``stop_at``."""


class TrainResult(Value):
    """What one TrainRequest did."""

    completed: int
    """Below ``stop_at`` if asked to stop, or if the loss was no longer finite; above it by less than the number of
    saves in a chunk where a checkout saves only every so many updates."""
    sha256: str
    """Digest of the checkpoint written; empty if the loss was no longer finite."""
    rows: list[dict[str, Any]]
    """One per update: update, loss (None if not finite), learning_rate, grad_norm, and what the stage adds."""
    seconds: float
    """Time inside updates."""
    notes: list[str] = []
    """What was lost, repeated, passed over or done otherwise than asked, in sentences for the journal."""


class InferRequest(Value):
    """Standard inference on held-out clips."""

    kind: Literal["infer"] = "infer"
    number: int
    """Number of the inference attempt, from 1."""
    checkpoints: dict[Stage, CheckpointRef]
    configs: dict[Stage, StageConfig]
    data: DataSource
    inference: InferenceConfig
    clips: int
    picture: str
    log: str


InferResult = dict[str, Any]
"""status ("ok" or "error"), error, checkpoints, frames_expected, frames_inferred, statistics, mse, mse_per_step,
mse_with_context, mse_random_actions, baselines, baselines_per_step, skill_per_step, blur_sigma, tokenizer_mse,
unique_actions, action_entropy, png, png_valid, seconds; own_mse (ours) where mse is what a script said."""

Progress = Callable[[int, int, float | None], None]
"""Called now and then with (done, total, loss)."""


class Engine(Protocol):
    """Trains and infers. Every call may raise EngineCrashed."""

    saves_within_chunk: ClassVar[bool]
    """It keeps checkpoints of its own while it trains, so that one request can be a whole chunk."""

    def hello(self, request: HelloRequest) -> Hello:
        """Get ready and say what the results will depend on."""

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        """Train until ``stop_at`` or until asked to stop, and leave a checkpoint."""

    def infer(self, request: InferRequest, progress: Progress) -> InferResult:
        """Roll out, measure, draw. An error inside inference is a result; only a dead child raises.

        Raises:
            Interrupted: asked to stop; the attempt leaves nothing.
        """

    def problems(self, stage: Stage, config: StageConfig, folder: Path, sha256: str | None) -> list[str]:
        """Why a checkpoint folder of ``stage`` cannot be used; empty when it can."""

    def stop(self) -> None:
        """Ask the work in hand to save and return after the update in hand. Safe to call from a signal handler."""

    def close(self) -> None:
        """Let go of everything."""
