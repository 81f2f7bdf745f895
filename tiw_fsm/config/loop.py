"""loop.yaml: chunks, gates, ladders, budgets."""

from __future__ import annotations

from typing import Literal

from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.tinyworlds.config import Baseline
from tiw_fsm.values.frozen import Count, FrozenModel, Positive, Rate

Metric = Literal["final", "late_over_mid", "rise", "unique_actions", "action_entropy"]
"""What a stage gate can bound."""
Least = float | Literal["none"]
"""What a figure has to be above. Not null where nothing is asked: in a state, null is what is left out."""
Verdict = Literal["continue", "watch", "retune"]
"""What a stage gate can decide by its bounds."""


class Bound(FrozenModel):
    """A closed interval a metric must lie in."""

    min: float | None = None
    max: float | None = None

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

    learning_rate_factor: Rate
    """What the learning rate is multiplied by."""
    accumulation_step: int = 0
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
    lr_decay: Rate = 0.7
    """Factor from one retune to the next."""
    lr_floor: Rate = 1e-6
    """The rate never falls below this."""


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
    on_finish: str | None = None
    """Shell command to run when a run has ended; the outcome stands in TIW_RUN, TIW_OUTCOME, and so on."""
