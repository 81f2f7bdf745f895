"""What the controller asks of an engine, and what it gets back: values that go through JSON."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from tiw_fsm.errors import RunChanged
from tiw_fsm.fsm.inference_gate import InferenceResult
from tiw_fsm.fsm.run_state import Host
from tiw_fsm.stages import Stage
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.tinyworlds.config import DataSource, InferenceConfig, OptimizerName, StageConfig
from tiw_fsm.values.frozen import CheckpointRef, FrozenModel, LearningRateSchedule, Tuning
from tiw_fsm.values.plain import JsonObject

if TYPE_CHECKING:
    from tiw_fsm.config.settings import Draft, Settings  # which the training process has no use for

OTHER_FRAMES = (
    "the frames in use are not those the run began with; nothing that was made of them is kept. Put the file back and "
    "start again, or take these in with --accept-changes, or begin another run with --run NAME."
)


class HelloRequest(FrozenModel):
    """Say what you compute on."""

    kind: Literal["hello"] = "hello"
    device: str
    threads: int | None
    """CPU threads to compute with, in each process; None takes what the machine has."""
    optimizers: tuple[OptimizerName, ...] = ()
    """Those to train with."""
    counts: list[int] | None = None
    """Numbers of processes that can share the global batches of what is still to be trained; None: any can."""
    here: int | None = None
    """So many processes, all on this machine, whatever else the settings say."""
    sharded: bool = False
    """Each process is to hold but a part of the model in training, where there are several."""
    data: DataSource | None = None
    """Frames that will be needed, so that they can be loaded while nothing is asked."""


class Hello(FrozenModel):
    """What decides the bits of a result, beside config, data and code; and where it is computed."""

    device: str
    """Model of the device, for example the GPU's name."""
    torch: str
    threads: int
    """Of each process."""
    processes: int = 1
    sharded: bool = False
    """Each process holds but a part of the model in training."""
    meant_for: int = 1
    """Processes that the batch sizes of the configuration are meant for."""
    hosts: list[Host] = []
    """In the order of their ranks."""
    own_code: str = ""
    """Digest of our own code as the process that computes has imported it; empty where the files' own is as good."""
    code: str = ""
    """Digest of code beside our own that decides the results."""
    dialect: JsonObject | None = None
    """What the engine found out about the code it drives."""

    def alike(self, other: Hello) -> bool:
        """Whether the same is computed, wherever that may be."""
        return self.evolve(hosts=other.hosts) == other


class HelloChanged(Exception):
    """A process that takes the place of one that died is not what that one said of itself; nothing was done yet.

    Whoever is told may ask again, and is served by the new one.
    """

    def __init__(self, hello: Hello) -> None:
        super().__init__(f"now it says {hello}")
        self.hello = hello


class ShapesRequest(FrozenModel):
    """Say which tensors a stage's checkpoint must hold."""

    kind: Literal["shapes"] = "shapes"
    stage: Stage
    config: StageConfig


class PackRequest(FrozenModel):
    """Write a checkpoint's weights and plain config into one file, as some checkouts want to read them."""

    kind: Literal["pack"] = "pack"
    folder: str
    config: dict[str, Any]
    file: str


class RunFrames(FrozenModel):
    """The frames that the run began with, by their digests."""

    file: str
    """Of the bytes, as ``data.frames.sha256`` takes it."""
    content: str | None
    """Of the rows in use, as ``UsedRows`` takes it."""

    def require(self, *used: str) -> None:
        """Hold what was used against them, by either digest.

        Raises:
            RunChanged: something else was used.
        """
        if not {self.file, self.content} >= set(used):
            raise RunChanged(OTHER_FRAMES)


class TrainRequest(FrozenModel):
    """Train one stage up to its next committed checkpoint."""

    kind: Literal["train"] = "train"
    stage: Stage
    owner: str
    """Id of the run; the checkpoint's manifest carries it."""
    run: str
    """Its name, for the picture's title."""
    attempt: int
    """Number of the chunk attempt, from 1; an accepted chunk and a repeated one both count on."""
    config: StageConfig
    tuning: Tuning
    schedule: LearningRateSchedule
    data: DataSource
    frames: RunFrames | None = None
    """What must be found there; an engine that finds anything else raises RunChanged before it trains."""
    seed: int
    processes: int = 1
    """How many the batch size is meant for: the global batch is that of as many, whatever number computes it."""
    resume: CheckpointRef | None = None
    """Where to begin; None means freshly initialised weights."""
    weights_only: bool = False
    """Take the weights of ``resume`` but not its optimizer: a warm start."""
    start: int
    """Completed updates at the beginning."""
    stop_at: int
    """Completed updates at which to save and return."""
    inputs: dict[Stage, CheckpointRef] = {}
    """Checkpoints of the stages that this one is trained against."""
    checkpoint: str
    """Folder to write the checkpoint to."""
    picture: str | None = None
    """PNG to draw at ``stop_at``."""


class TrainResult(FrozenModel):
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
    frames: list[str] = []
    """Digests of the frames that were used, of the file or of its content."""
    notes: list[str] = []
    """What was lost, repeated, passed over or done otherwise than asked, in sentences for the journal."""


class InferRequest(FrozenModel):
    """Standard inference on held-out clips."""

    kind: Literal["infer"] = "infer"
    run: str
    """Name of the run, for the picture's title."""
    number: int
    """Number of the inference attempt, from 1."""
    checkpoints: dict[Stage, CheckpointRef]
    configs: dict[Stage, StageConfig]
    data: DataSource
    frames: RunFrames | None = None
    """As in TrainRequest."""
    inference: InferenceConfig
    clips: int
    picture: str
    log: str


Progress = Callable[[int, int, float | None], None]
"""Called now and then with (done, total, loss)."""


class Engine(Protocol):
    """Trains and infers. Every call may raise EngineCrashed; every one but ``hello`` may raise HelloChanged."""

    saves_within_chunk: ClassVar[bool]
    """It keeps checkpoints of its own while it trains, so that one request can be a whole chunk."""

    def hello(self, request: HelloRequest) -> Hello:
        """Get ready and say what the results will depend on.

        Raises:
            UsageProblem: it never will be ready here.
        """

    def train(self, request: TrainRequest, progress: Progress) -> TrainResult:
        """Train until ``stop_at`` or until asked to stop, and leave a checkpoint."""

    def infer(self, request: InferRequest, progress: Progress) -> InferenceResult:
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


class EngineKind(ABC):
    """What an engine says of itself, before any is made: how ``--engine`` finds it, and what it wants of a run.

    A package of your own makes one known by an entry point of the group ``tiw_fsm.engines`` that names an instance.
    """

    name: ClassVar[str]
    """As ``--engine`` calls it."""
    waits_after_death: ClassVar[bool] = True
    """It computes in a process that something killed: before the next one, that something gets time to pass."""
    needs_frames: ClassVar[bool] = True
    """It reads the frames file, whose bytes then belong to the run's fingerprint."""
    interpreter_needs: ClassVar[str] = "tiw_fsm"
    """What ``--python-exec`` must have installed."""
    replays: ClassVar[bool] = False
    """The same request gives the same bytes on the same machine, and leaves nothing but what the request names: then
    ``verify --replay`` can make a checkpoint once more, and the one before it is kept for that."""
    loop_defaults: ClassVar[JsonObject] = {}
    """Keys of loop.yaml whose default is another with this engine."""

    hears_all_keys: ClassVar[bool] = False
    """It goes by the YAML files itself, so that nothing is known of keys without effect."""

    def read_settings(self, draft: Draft, problems: list[str]) -> FrozenModel | None:
        """What only this engine needs; it stands in ``Settings.engine_settings``, as plain JSON.

        What is wrong with ``draft`` for this engine is added to ``problems``, each with its remedy.
        """
        return None

    def data_problems(self, settings: Settings) -> list[str]:
        """What this engine cannot do with frames that are otherwise in order."""
        return []

    def waits_for(self, settings: Settings, run: str) -> str | None:
        """What a start of the ``run`` waits for before it can begin, in a sentence; None if for nothing."""
        return None

    def seconds_of_update(self, stage: Stage, config: StageConfig, threads: int) -> float | None:
        """About how long an update takes on so many ``threads`` of a CPU, before one was made; None if nobody knows."""
        return None

    @abstractmethod
    def make(self, settings: Settings, paths: StatePaths) -> Engine:
        """An engine for one start of a run whose state lies at ``paths``."""
