"""Every key of every YAML file, typed and validated where it is declared, and the effective values made of them.

Four files have TinyWorlds' own names and keys (training, video_tokenizer, latent_actions and dynamics, inference);
``loop.yaml`` holds what is ours. ``None`` in a file means that the file says nothing.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tiw_fsm.stages import Stage

LARGEST = 10**9
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
Several = Annotated[int, Field(ge=2, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]


class Value(BaseModel):
    """A frozen, strictly typed value; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)

    def but(self, **changes: Any) -> Self:
        """This value with some fields changed."""
        return self.model_copy(update=changes)

    @classmethod
    def meaning(cls, field: str) -> str | None:
        """What the docstring below ``field`` says; read from the source, since only error messages need it."""
        for owner in (c for c in cls.__mro__ if field in inspect.get_annotations(c)):
            body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
            assert isinstance(body, ast.ClassDef)
            for statement, below in itertools.pairwise(body.body):
                if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == field:
                    text = below.value if isinstance(below, ast.Expr) else None
                    return str(text.value) if isinstance(text, ast.Constant) else None
        return None


# --- TinyWorlds' files ------------------------------------------------------------------------------------------


class SharedKeys(Value):
    """Keys TinyWorlds takes from training.yaml first, else from the stage's own file."""

    dataset: str | None = None
    """A TinyWorlds name (ZELDA, PONG, …) or the path of an h5 file."""
    fps: Positive | None = None
    """Frames per second to keep of 60; the stride is 60 // fps."""
    preload_ratio: Share | None = None
    """Share of the rows to train on, from the first."""
    patch_size: Positive | None = None
    """Side of a square patch, in pixels."""
    context_length: Several | None = None
    """Frames in a training clip."""
    frame_size: Positive | None = None
    """Side of a square frame, in pixels."""
    latent_dim: Positive | None = None
    """Dimensions of a video token before quantization."""
    num_bins: Several | None = None
    """Quantization bins per latent dimension; the codebook has num_bins ** latent_dim codes."""
    n_actions: Several | None = None
    """Number of latent actions, a power of two."""
    embed_dim: Positive | None = None
    """Width of the transformer."""
    num_heads: Positive | None = None
    """Attention heads; divides embed_dim."""
    hidden_dim: Positive | None = None
    """Width of the feed-forward layer before SwiGLU's two thirds."""
    num_blocks: Positive | None = None
    """Transformer blocks."""
    batch_size_per_gpu: Positive | None = None
    """Clips per micro-batch."""
    gradient_accumulation_steps: Positive | None = None
    """Micro-batches per update."""
    n_updates: Positive | None = None
    """Updates after which the stage is done."""
    learning_rate: Rate | None = None
    """Peak learning rate."""
    log_interval: Positive | None = None
    """Updates between TinyWorlds' checkpoints."""
    amp: bool | None = None
    """bfloat16 autocast on CUDA."""
    tf32: bool | None = None
    """TensorFloat-32 matrix products on CUDA."""
    compile: bool | None = None
    """torch.compile the models."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Where to compute; auto takes CUDA if there is one."""
    distributed: dict[str, Any] | None = None
    """TinyWorlds' DDP and FSDP switches."""
    nproc_per_node: Positive | None = None
    """Processes per machine."""
    standalone: bool | None = None
    """torchrun's --standalone."""
    use_wandb: bool | None = None
    """Log to Weights & Biases; this tool keeps its own metrics files."""
    wandb_project: str | None = None
    """Weights & Biases project."""
    optimizer: str | None = None
    """adamw; the native engine has no other."""
    muon_momentum: float | None = None
    muon_backend_steps: int | None = None
    use_moe: bool | None = None
    """Mixture of experts; the native engine has none."""
    num_experts: int | None = None
    top_k_experts: int | None = None
    moe_aux_loss_coeff: float | None = None


class StageFile(SharedKeys):
    """video_tokenizer.yaml or latent_actions.yaml."""

    checkpoint: str | None = None
    """TinyWorlds' resume path; here it comes from --*-checkpoint."""


class DynamicsFile(StageFile):
    """dynamics.yaml."""

    use_actions: bool | None = None
    """Condition the dynamics on latent actions."""
    video_tokenizer_path: str | None = None
    """Left empty: injected at run time."""
    latent_actions_path: str | None = None
    """Left empty: injected at run time."""


class TrainingFile(SharedKeys):
    """training.yaml: where the shared keys live."""

    video_tokenizer_config: str | None = None
    """Here the folder and the --*-config flags say it."""
    latent_actions_config: str | None = None
    """Here the folder and the --*-config flags say it."""
    dynamics_config: str | None = None
    """Here the folder and the --*-config flags say it."""
    run_video_tokenizer: bool | None = None
    """Here --train-stage says it."""
    run_latent_actions: bool | None = None
    """Here --train-stage says it."""
    run_dynamics: bool | None = None
    """Here --train-stage says it."""


class InferenceFile(Value):
    """inference.yaml."""

    video_tokenizer_path: str | None = None
    """Left empty: injected at run time."""
    latent_actions_path: str | None = None
    """Left empty: injected at run time."""
    dynamics_path: str | None = None
    """Left empty: injected at run time."""
    use_latest_checkpoints: bool | None = None
    """Always off: the checkpoints are the ones the state names."""
    dataset: str | None = None
    """Must be the dataset trained on."""
    preload_ratio: Share | None = None
    """Share of the held-out rows to draw clips from."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Where to compute; auto takes CUDA if there is one."""
    generation_steps: Positive | None = None
    """Frames to generate, a prediction horizon at a time."""
    context_window: Several | None = None
    """Frames the model sees before each step."""
    fps: Positive | None = None
    """Frame rate of TinyWorlds' video; unused here."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """Sampling temperature; 0 takes the likeliest token."""
    teacher_forced: bool | None = None
    """Feed true frames instead of generated ones."""
    prediction_horizon: Positive | None = None
    """Frames decoded together in one step."""
    decode_steps: Positive | None = None
    """MaskGIT decoding steps per prediction."""
    use_actions: bool | None = None
    """Here actions are always inferred from the true clip."""
    use_gt_actions: bool | None = None
    """Here actions are always inferred from the true clip."""
    use_interactive_mode: bool | None = None
    """Always off."""
    seed: Count | None = None
    """Seed of clips, random actions and sampling."""
    sample_index: Count | None = None
    """TinyWorlds' single clip; here several held-out clips are judged."""
    amp: bool | None = None
    """bfloat16 autocast on CUDA."""
    tf32: bool | None = None
    """TensorFloat-32 matrix products on CUDA."""
    compile: bool | None = None
    """torch.compile the models."""


# --- loop.yaml --------------------------------------------------------------------------------------------------

Metric = Literal["final", "late_over_mid", "rise", "unique_actions", "action_entropy"]
Verdict = Literal["continue", "watch", "retune"]
Baseline = Literal["copy_last", "mean_frame", "blurred_last"]


class Bound(Value):
    """A closed interval a metric must lie in."""

    min: float | None = None
    max: float | None = None

    def holds(self, value: float | None) -> bool:
        """Whether ``value`` lies inside; a value that was not measured does not."""
        if value is None:
            return False
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


class StageGate(Value):
    """When a chunk of a stage is accepted."""

    from_update: Count = 0
    """A chunk that ends by this many completed updates is `watch` if it is finite and has not doubled its loss."""
    verdicts: dict[Verdict, dict[Metric, Bound]]
    """The first of retune, continue, watch whose bounds all hold is the verdict; else retune."""


class Ladder(Value):
    """One step of a stage's retune."""

    learning_rate_factor: Rate
    """What the learning rate is multiplied by."""
    accumulation_step: int = 0
    """Added to gradient_accumulation_steps, which never falls below 1."""
    log_interval_floor: Positive
    """log_interval is halved down to this, and never exceeds the chunk."""
    learning_rate_floor: Rate = 1e-6
    """The rate never falls below this."""


class Budgets(Value):
    """How often each thing may go wrong. They never mix."""

    max_train_retries: Count = 5
    """Rejected chunks in a row, per stage."""
    max_inference_retries: Count = 2
    """Retunes after a failed inference gate."""
    max_crashes: Count = 5
    """Dead children in a row, per stage; a committed checkpoint resets it."""
    max_stalled_starts: Count = 50
    """Starts in a row without a committed checkpoint or a state left."""


class InferenceGate(Value):
    """When a world model has proved itself."""

    max_mse: Rate = 0.03
    """Largest MSE of generated frames, pixels in [0, 1]."""
    beat: tuple[Baseline, ...] = ("copy_last", "mean_frame")
    """Baselines whose MSE the rollout must be below."""
    allow_trivial: bool = False
    """Judge without the baselines; the report says so."""
    clips: Positive = 8
    """Held-out clips to judge on."""


class Retune(Value):
    """What follows a failed inference gate."""

    chunk: Positive = 2000
    """Dynamics updates added by each retune."""
    init_learning_rate: Rate = 0.0005
    """Peak learning rate of the first retune."""
    lr_decay: Rate = 0.7
    """Factor from one retune to the next."""
    lr_floor: Rate = 1e-6
    """The rate never falls below this."""


class LoopConfig(Value):
    """loop.yaml: chunks, gates, ladders, budgets."""

    seed: Count = 0
    """Seed of initial weights, batch order, masks and clips."""
    checkpoint_interval: Positive = 500
    """At most so many updates lie between two committed checkpoints."""
    chunks: dict[Stage, Positive] = {Stage.VIDEO: 5000, Stage.LATENT: 1000, Stage.DYNAMICS: 2000}
    """Updates between two gates of a stage."""
    gates: dict[Stage, StageGate] = {
        Stage.VIDEO: StageGate(
            verdicts={
                "continue": {"final": Bound(max=0.01), "late_over_mid": Bound(max=1.05)},
                "watch": {"final": Bound(max=0.02)},
            }
        ),
        Stage.LATENT: StageGate(
            verdicts={
                "continue": {
                    "final": Bound(max=0.06),
                    "unique_actions": Bound(min=2),
                    "action_entropy": Bound(min=0.4),
                },
                "watch": {"final": Bound(max=0.1), "unique_actions": Bound(min=2)},
            }
        ),
        Stage.DYNAMICS: StageGate(
            verdicts={
                "retune": {"final": Bound(min=6.0), "rise": Bound(min=0.0)},
                "continue": {
                    "late_over_mid": Bound(max=1.02),
                    "rise": Bound(max=0.2),
                    "final": Bound(max=5.0),
                },
                "watch": {"late_over_mid": Bound(max=1.08), "rise": Bound(max=0.5)},
            }
        ),
    }
    """When a chunk of a stage is accepted."""
    ladders: dict[Stage, Ladder] = {
        Stage.VIDEO: Ladder(learning_rate_factor=0.5, accumulation_step=1, log_interval_floor=500),
        Stage.LATENT: Ladder(learning_rate_factor=0.8, log_interval_floor=250),
        Stage.DYNAMICS: Ladder(learning_rate_factor=0.2, accumulation_step=-1, log_interval_floor=500),
    }
    """What a rejected chunk is repeated with."""
    budgets: Budgets = Budgets()
    """How often each thing may go wrong."""
    inference: InferenceGate = InferenceGate()
    """When the world model has proved itself."""
    retune: Retune = Retune()
    """What follows a failed inference gate."""
    max_silence: Positive = 1800
    """Seconds without a sign of life after which a training process counts as hung, and is ended as a crash."""
    retune_policy: Literal["dynamics", "cause"] = "dynamics"
    """What a retune trains: dynamics alone, or the stage at fault and then dynamics."""
    on_finish: str | None = None
    """Shell command to run when a run has ended; the outcome stands in TIW_RUN, TIW_OUTCOME, and so on."""


# --- effective values -------------------------------------------------------------------------------------------


class StageConfig(Value):
    """What one stage trains with, all sources merged. The keys are TinyWorlds'."""

    n_updates: Positive
    learning_rate: Rate
    gradient_accumulation_steps: Positive
    batch_size_per_gpu: Positive
    log_interval: Positive
    context_length: Positive
    frame_size: Positive
    patch_size: Positive
    embed_dim: Positive
    num_heads: Positive
    hidden_dim: Positive
    num_blocks: Positive
    latent_dim: Positive
    num_bins: Positive
    n_actions: Positive
    use_actions: bool = True
    amp: bool = False
    tf32: bool = False
    compile: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.frame_size % self.patch_size:
            problems.append(
                f"frame_size {self.frame_size} is not divisible by patch_size {self.patch_size}; "
                f"try frame_size {self.frame_size // self.patch_size * self.patch_size or self.patch_size}"
            )
        if self.embed_dim % self.num_heads:
            problems.append(f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}")
        if self.embed_dim % 2 or self.embed_dim < 6:
            problems.append(
                f"embed_dim {self.embed_dim} cannot be split into even parts for x, y and time; "
                "use an even number, at least 6"
            )
        if self.n_actions & (self.n_actions - 1):
            problems.append(
                f"n_actions {self.n_actions} is not a power of two; use {1 << self.n_actions.bit_length() - 1} "
                f"or {1 << self.n_actions.bit_length()}"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Tuning(Value):
    """The settings a stage ladder may change; the rest of a stage's config never moves during a run."""

    learning_rate: float
    gradient_accumulation_steps: int
    batch_size_per_gpu: int
    log_interval: int


class Schedule(Value):
    """Warm-up and cosine run from update ``start`` to update ``end``."""

    start: int
    end: int


class DataSource(Value):
    """The rows a run is trained and judged on."""

    path: str
    skip: Count
    stride: Positive
    preload_ratio: Share | None = None


class InferenceConfig(Value):
    """What the inference gate runs with, all sources merged."""

    generation_steps: Positive = 12
    context_window: Several = 2
    prediction_horizon: Positive = 1
    decode_steps: Positive = 10
    temperature: Annotated[float, Field(ge=0)] = 0.5
    teacher_forced: bool = False
    preload_ratio: Share | None = None
    seed: Count = 0
    amp: bool = False
    tf32: bool = False
    compile: bool = False

    @property
    def frames(self) -> int:
        """Frames a clip must have: the context and everything generated."""
        return self.context_window + self.generation_steps * self.prediction_horizon


class CheckoutSettings(Value):
    """What only the checkout engine needs."""

    dataset: str
    """The name its scripts know."""
    configs: dict[str, str]
    """Its YAML files, by name."""
    torchrun: str | None = None
    processes: Positive = 1
    processes_typed: bool = False
    """The number was typed; else it is training.yaml's, which holds where the device allows."""
    shards: bool = False
    """FSDP instead of DDP."""
    mixture: bool = False
    """Dynamics is a mixture of experts, which our own models are not."""
    sample_index: int | None = None
    """inference.yaml's clip, where it names one."""


class Settings(Value):
    """One run's effective configuration: files, typed flags and built-in defaults merged."""

    run_root: str
    repo_root: str
    data: DataSource
    device: str
    train_stage: Literal["none", "all", "video_tokenizer", "latent_actions", "dynamics"]
    stages: dict[Stage, StageConfig]
    inference: InferenceConfig
    loop: LoopConfig
    warm_starts: dict[Stage, str] = {}
    engine: Literal["native", "checkout", "simulated"] = "native"
    python_exec: str
    checkout: CheckoutSettings | None = None
    """Set for the checkout engine alone."""
    alignment: list[tuple[str, str, str]] = []
    """For the reports: key, where it was read, value."""

    def trains(self, stage: Stage) -> bool:
        """Whether this run trains ``stage``."""
        return self.train_stage in ("all", stage.value)
