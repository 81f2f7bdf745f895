"""loop.yaml: chunks, gates, ladders, budgets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_serializer

from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.tinyworlds.config import Baseline
from tiw_fsm.values.frozen import LARGEST, Count, FrozenModel, Positive, Rate
from tiw_fsm.values.plain import HIDDEN

Metric = Literal["final", "late_over_mid", "rise", "unique_actions", "action_entropy", "expert_entropy"]
"""What a stage gate can bound."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Change = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Factor = Annotated[float, Field(gt=0, le=10)]
LONGEST_COMMAND = 4000
"""Letters."""
Least = Finite | Literal["none"]
"""What a figure has to be above. Not null where nothing is asked: in a state, null is what is left out."""
Verdict = Literal["continue", "watch", "retune"]
"""What a stage gate can decide by its bounds."""


class Command(SecretStr):
    """A shell command that may have a password in it: wherever it is written out, a word stands in its place.

    Raises:
        ValueError: it is too long for a setting.
    """

    def __init__(self, secret_value: str) -> None:
        if len(secret_value) > LONGEST_COMMAND:
            raise ValueError(
                f"a command of {len(secret_value)} letters, and at most {LONGEST_COMMAND} can be kept; "
                "write it into a script, and name that here"
            )
        super().__init__(secret_value)

    def _display(self) -> str:
        return HIDDEN


class Bound(FrozenModel):
    """A closed interval a metric must lie in."""

    min: Finite | None = None
    max: Finite | None = None

    def holds(self, value: float | None) -> bool:
        """Whether ``value`` lies inside; a value that was not measured does not."""
        if value is None:
            return False
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


class StageGate(FrozenModel):
    """When a chunk of a stage is accepted."""

    from_update: Count = 0
    """A chunk that ends by this many completed updates is `watch` if it is finite and has not doubled its loss."""
    verdicts: dict[Verdict, dict[Metric, Bound]]
    """The first of retune, continue, watch whose bounds all hold is the verdict; else retune."""


class Ladder(FrozenModel):
    """One step of a stage's retune."""

    learning_rate_factor: Factor
    """What the learning rate is multiplied by."""
    accumulation_step: Change = 0
    """Added to gradient_accumulation_steps, which never falls below 1."""
    log_interval_floor: Positive
    """log_interval is halved down to this, and never exceeds the chunk."""
    learning_rate_floor: Rate = 1e-6
    """The rate never falls below this."""


class Budgets(FrozenModel):
    """How often each thing may go wrong. They never mix."""

    max_train_retries: Count = 5
    """Rejected chunks in a row, per stage."""
    max_inference_retries: Count = 2
    """Retunes after a failed inference gate."""
    max_crashes: Count = 5
    """Dead children in a row, per stage; a committed checkpoint resets it."""
    max_stalled_starts: Count = 50
    """Starts in a row without a committed checkpoint or a state left."""


class InferenceGate(FrozenModel):
    """When a world model has proved itself."""

    max_mse: Rate = 0.03
    """Largest MSE of generated frames, pixels in [0, 1]."""
    beat: tuple[Baseline, ...] = ("copy_last", "mean_frame", "blurred_last")
    """Baselines whose MSE the rollout must be below."""
    beat_first_step: bool = True
    """It must be below theirs at the first generated frame alone, too."""
    min_skill: Least = 0.0
    """Skill that the low end of its interval must be above; `none` asks for nothing."""
    min_delta_psnr: Least = 0.5
    """Control, dB, that the low end of its interval must be above; `none` asks for nothing."""
    min_motion: Least = 0.2
    """Movement, as a share of the true frames', that the rollout must be above; `none` asks for nothing."""
    allow_trivial: bool = False
    """Judge without baselines, skill, control and motion; the verdict says so."""
    clips: Positive = 8
    """Held-out clips to judge on."""


class Retune(FrozenModel):
    """What follows a failed inference gate."""

    chunk: Positive = 2000
    """Dynamics updates added by each retune."""
    init_learning_rate: Rate = 0.0005
    """Peak learning rate of the first retune."""
    lr_decay: Factor = 0.7
    """Factor from one retune to the next."""
    lr_floor: Rate = 1e-6
    """The rate never falls below this."""


Tracker = Literal["wandb", "tensorboard"]
"""Each is called as its package is, and as the extra that brings it."""


class LoopConfig(FrozenModel):
    """loop.yaml: chunks, gates, ladders, budgets."""

    seed: Count = 0
    """Seed of initial weights, batch order, masks and clips."""
    checkpoint_interval: Positive = 500
    """At most so many updates lie between two committed checkpoints."""
    chunks: dict[Stage, Positive] = {stage: spec.chunk for stage, spec in STAGES.items()}
    """Updates between two gates of a stage."""
    gates: dict[Stage, StageGate] = {
        stage: StageGate.model_validate({"verdicts": spec.gate}) for stage, spec in STAGES.items()
    }
    """When a chunk of a stage is accepted."""
    ladders: dict[Stage, Ladder] = {stage: Ladder.model_validate(spec.ladder) for stage, spec in STAGES.items()}
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
    on_finish: Command | None = None
    """Shell command to run when a run has ended; the outcome stands in TIW_RUN, TIW_OUTCOME, and so on. It may hold
    a secret: it is kept in a file of its own that only its owner can read, and shown nowhere."""

    trackers: tuple[Tracker, ...] = ()
    """Where losses, verdicts, pictures and rollouts are shown while the run goes on: wandb, tensorboard, or both. Each
    is an extra."""

    @field_serializer("on_finish")
    def _hidden(self, command: Command | None) -> str | None:
        return str(command) if command else None
