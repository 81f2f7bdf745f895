"""What a run knows about itself: the content of ``state.json``, as frozen values.

Nothing here reads or writes a file, and nothing changes in place: a step of the machine makes a new ``RunState``.
"""

from __future__ import annotations

from typing import Any, Self

from tiw_fsm.config.loop import LoopConfig
from tiw_fsm.fsm.inference_gate import Attempt, Figures
from tiw_fsm.fsm.states import SCHEMA_VERSION, TRAINING, State, gate_at
from tiw_fsm.stages import Stage
from tiw_fsm.values.frozen import CheckpointRef, FileRef, FrozenModel, LearningRateSchedule, Tuning
from tiw_fsm.values.plain import JsonObject, LogPosition

ATTEMPTS_KEPT = 8
LASTING = {
    *("mse", "own_mse", "baselines", "skill_interval", "delta_psnr", "delta_psnr_interval", "motion", "key_agreement")
}
"""Figures that the state keeps of an older attempt, so that it stays small; the journal has them all."""


class Made(FrozenModel):
    """How a checkpoint was made of the one before it: all that it takes to make it once more."""

    resume: CheckpointRef | None = None
    """Where it began, kept for that alone; None means freshly initialised weights."""
    weights_only: bool = False
    """Without the optimizer of ``resume``: a warm start."""
    start: int
    """Completed updates at the beginning."""
    attempt: int
    tuning: Tuning
    schedule: LearningRateSchedule
    inputs: dict[Stage, str] = {}
    """Digests of the checkpoints it was trained against."""
    fingerprint: str
    """Digest of the fingerprint that held."""

    def after(self, before: Made | None, *, pausing: bool) -> Made:
        """What is to be remembered of it if it goes on from what ``before`` made.

        Where only an interruption lies between the two, they are one: so a run remembers the same, interrupted or not.

        Args:
            pausing: it begins where an undisturbed run would not have paused to save.
        """
        if not pausing or before is None:
            return self
        alike = self.evolve(resume=before.resume, weights_only=before.weights_only, start=before.start) == before
        return before if alike else self


class StageProgress(FrozenModel):
    """How far one stage has come."""

    target: int
    """Updates after which the stage is done."""
    completed: int = 0
    """Updates contained in ``checkpoint``."""
    chunk_start: int = 0
    """Where the chunk in hand began: the updates of ``accepted``, or of the warm start."""
    attempt: int = 1
    """Number of the chunk attempt in hand; the metrics rows carry it."""
    checkpoint: CheckpointRef | None = None
    """The newest committed checkpoint: a resume starts here."""
    made: Made | None = None
    """How ``checkpoint`` was made; None where the checkpoint before it is not kept."""
    accepted: CheckpointRef | None = None
    """The newest checkpoint a gate accepted, or a warm start: a rejected chunk is repeated from here."""
    warm_start: bool = False
    """``accepted`` came from outside this run: its weights are taken, its optimizer is not."""
    tuning: Tuning
    schedule: LearningRateSchedule
    retries: int = 0
    crashes: int = 0
    crashed_at: int | None = None
    """Completed updates at the child's last own crash since the newest checkpoint; a second one there halves the
    batch."""
    metrics: LogPosition = LogPosition()
    """What this state vouches for of the metrics file."""
    attempt_metrics: LogPosition = LogPosition()
    """The same when the attempt in hand began."""
    picture: str | None = None
    """The last chunk's picture; None when the chunk left none that can be looked at."""
    verdict: str | None = None
    """The last gate's decision."""

    def rewound(self) -> Self:
        """Back at the beginning of the chunk in hand; its metrics rows so far no longer count."""
        return self.evolve(
            completed=self.chunk_start, checkpoint=self.accepted, made=None, metrics=self.attempt_metrics
        )

    def named_checkpoints(self) -> list[CheckpointRef]:
        """Those that the stage may need, each once."""
        refs = (self.checkpoint, self.accepted, self.made.resume if self.made else None)
        return list(dict.fromkeys(ref for ref in refs if ref is not None))


class InferenceProgress(FrozenModel):
    started: int = 0
    """Attempts begun; recorded before the work."""
    crashes: int = 0
    pending: FileRef | None = None
    """Result file of an attempt that ran and has not been judged."""
    attempts: list[Attempt] = []
    """The last ``ATTEMPTS_KEPT`` judged attempts; the journal has them all."""
    best: Attempt | None = None
    """The best one, once it is no longer among them."""

    @property
    def best_attempt(self) -> Attempt | None:
        """The attempt with the least MSE."""
        known = [*self.attempts, *([self.best] if self.best else [])]
        measured = [attempt for attempt in known if attempt.mse is not None]
        return min(measured, key=lambda attempt: (attempt.mse, -attempt.number), default=None)

    def with_judged(self, attempt: Attempt) -> Self:
        """These attempts and a newly judged one; of those before it the lasting figures."""
        dropped = dict.fromkeys(Figures.model_fields.keys() - LASTING)
        before = [each.evolve(**dropped) for each in self.attempts if each.number != attempt.number]
        best = self.evolve(attempts=[*before, attempt]).best_attempt
        kept = [*before, attempt][-ATTEMPTS_KEPT:]
        return self.evolve(attempts=kept, best=None if best in kept else best)


class Fingerprint(FrozenModel):
    """What decides the weights bit for bit."""

    config: dict[str, Any]
    data: str
    """SHA-256 of the frames file, and of those its rows lie in; the engine's name where it reads none."""
    content: str | None = None
    """Digest of the rows in use, decoded; None where no frames are read, and in states of older versions."""
    code: str
    torch: str
    device: str
    threads: int
    """Of each process."""
    processes: int = 1
    sharded: bool = False
    """Each of them held but a part of the model in training."""
    dialect: JsonObject | None = None
    """What the engine found out about the code it drives, as it says it; None where it drives none."""


class Inexact(FrozenModel):
    """From ``completed`` updates of ``stage`` on, the run is no longer bitwise what one machine would have made."""

    stage: Stage | None = None
    completed: int
    what: str


class Host(FrozenModel):
    """A machine, and what of it takes part in a run."""

    name: str
    device: str
    processes: int = 1


class Runner(FrozenModel):
    """The process that is, or was, running this run."""

    pid: int
    host: str
    started_at: str


class RunState(FrozenModel):
    """Everything a run needs to go on. ``generation`` grows by one with each commit."""

    schema_version: int = SCHEMA_VERSION
    generation: int = 0
    run_id: str
    run: str
    root: str = ""
    """Working root of the last start; as the state folder sees it, in the file, and absolute in memory."""
    state: State = State.ALIGN
    outcome: str | None = None
    """``passed`` or ``failed`` once REPORT is done."""
    reason: str | None = None
    """Why REPORT was entered, in a sentence."""
    failed_in: State | None = None
    """The state whose budget ran out: where a raised budget reopens the run."""
    budget_used: str | None = None
    """That budget's name in loop.yaml."""
    stages: dict[Stage, StageProgress] = {}
    inference: InferenceProgress = InferenceProgress()
    retunes: int = 0
    interruptions: int = 0
    stalled_starts: int = 0
    """Starts in a row in which no checkpoint was committed and no state left."""
    runner: Runner | None = None
    train_stage: str = "all"
    loop: LoopConfig
    flags: dict[str, Any] = {}
    fingerprint: Fingerprint | None = None
    processes: int = 1
    """How many the batch sizes are meant for, since the run began: the global batch stays that of as many."""
    hosts: list[Host] = []
    """Where the last start computed."""
    config_sha256: str | None = None
    """Of the effective configuration, as the last start saved it beside the state."""
    inexact: list[Inexact] = []
    reports: list[str] = []
    created_at: str = ""
    updated_at: str = ""

    @property
    def deaths(self) -> int:
        """Of the child, in a row without progress, in the state it is in: what `max_crashes` allows for."""
        return self.progress().crashes if self.stage else self.inference.crashes

    @property
    def stage(self) -> Stage | None:
        """The stage in training now, if any."""
        return TRAINING.get(self.state)

    @property
    def mark(self) -> str:
        """What names of files in folders that runs share tell this run by: its name, and enough of its id to be alone
        with it."""
        return f"{self.run}_{self.run_id[:8]}"

    def progress(self) -> StageProgress:
        """Progress of the stage in training now.

        Raises:
            KeyError: the run is not in a TRAIN state.
        """
        return self.stages[TRAINING[self.state]]

    def with_stage(self, stage: Stage, **changes: Any) -> Self:
        """This state with fields of one stage's progress changed."""
        return self.evolve(stages={**self.stages, stage: self.stages[stage].evolve(**changes)})

    def chunk_end(self, stage: Stage) -> int:
        """Completed updates at which the chunk in hand is judged."""
        progress = self.stages[stage]
        return gate_at(progress.chunk_start, self.loop.chunks[stage], progress.target)

    def named_checkpoints(self) -> set[str]:
        """Folders that must not be removed while this state may be loaded."""
        return {ref.path for progress in self.stages.values() for ref in progress.named_checkpoints()}
