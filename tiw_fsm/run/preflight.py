"""ALIGN: are configs, data and warm starts in order? If so the stages are laid out; if not, nothing was changed."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from tiw_fsm.config.alignment import BACKBONE, FROM_TRAINING
from tiw_fsm.config.settings import Settings
from tiw_fsm.data import frames, supply
from tiw_fsm.data.content import Digests
from tiw_fsm.engines.protocol import EngineKind
from tiw_fsm.errors import UsageProblem
from tiw_fsm.fsm.events import Aligned, Event
from tiw_fsm.fsm.run_state import RunState, StageProgress
from tiw_fsm.reporting.history import WORDS
from tiw_fsm.reporting.wording import near
from tiw_fsm.run import fingerprint, pace, sharing, warm_starts
from tiw_fsm.run.ahead import FrameReading
from tiw_fsm.run.outcome import Outcome
from tiw_fsm.run.session import Context
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.storage import checkpoint_checks, checkpoints
from tiw_fsm.storage.torch_files import UnreadableFile
from tiw_fsm.system import durable
from tiw_fsm.tinyworlds.config import StageConfig
from tiw_fsm.values.frozen import CheckpointRef, LearningRateSchedule
from tiw_fsm.values.printable import quoted


def align(ctx: Context, run: RunState) -> Outcome:
    """Check data and warm starts, and lay out the stages.

    Raises:
        UsageProblem: something cannot be used; nothing was changed.
    """
    settings, problems = ctx.settings, data_problems(ctx.settings, ctx.session.kind)
    with ExitStack() as unpacked:
        paths = settings.warm_starts.items()
        named = {stage: _warm_start(ctx, stage, Path(path), unpacked, problems) for stage, path in paths}
        if problems:
            raise UsageProblem(problems)
        if ctx.hello.device.startswith("cpu"):
            threads = ctx.hello.threads * ctx.hello.processes
            if slow := pace.told(settings, ctx.session.kind, threads):
                ctx.log.warning(slow)
        read = frames_read(ctx)
        ctx.claim_run_root(run)
        begun_from = {stage: _kept(ctx, stage, checkpoint) for stage, checkpoint in named.items() if checkpoint}
    stages = {}
    for stage, config in settings.stages.items():
        progress = StageProgress(
            target=config.n_updates,
            tuning=config.tuning.evolve(log_interval=min(config.log_interval, run.loop.chunks[stage])),
            schedule=LearningRateSchedule(start=0, end=config.n_updates),
        )
        if stage in begun_from:
            progress = _begun_from(progress, begun_from[stage], stage, settings)
        stages[stage] = progress
    for stage in Stage:
        if ctx.paths.metrics(stage).exists():
            aside = durable.set_aside(ctx.paths.metrics(stage))
            ctx.log.warning(f"an earlier run left its {stage} metrics in {ctx.paths.run_root}; they are now {aside}")
    digests = {stage: ref.sha256 for stage, ref in begun_from.items()}
    run = run.evolve(
        stages=stages,
        fingerprint=fingerprint.take(settings, ctx.hello, digests, read),
        processes=ctx.hello.meant_for,
        hosts=ctx.hello.hosts,
    )
    sharing.say(ctx, run)
    warm = {stage.value: ref.path for stage, ref in begun_from.items()}
    facts = Aligned(warm_starts=warm, device=ctx.hello.device)
    if ctx.hello.processes > 1:
        facts["hosts"] = sharing.hosts(ctx)
    ctx.log.info(WORDS[Event.ALIGNED](dict(facts)), warm_starts=warm)
    if read is not None:
        ctx.log.info(f"frames {near(settings.data.path)}: {data_supply(settings)}")
    if ctx.settings.unheard:
        ctx.log.warning(f"without effect here: {'; '.join(ctx.settings.unheard)}")
    return Outcome(Event.ALIGNED, run, facts)


def data_problems(settings: Settings, kind: EngineKind, *, begun: bool = False) -> list[str]:
    """Why the frames cannot be trained and judged on, as far as can be told without reading them all, by a run that has
    ``begun`` or is to begin.

    Empty when they can, or when nobody reads them.
    """
    if not kind.needs_frames:
        return []
    # All stages train on clips of one length and size: ALIGN's rules see to it.
    config = next(iter(settings.stages.values()))
    problems = frames.inspect(
        settings.data,
        frame_size=config.frame_size,
        training_length=config.context_length,
        held_out=_held_out(settings),
        key_hints=settings.stages[Stage.LATENT].key_hint_weight > 0 and settings.trains(Stage.LATENT),
        begun=begun,
    )
    return problems or kind.data_problems(settings)


def data_supply(settings: Settings) -> supply.Supply:
    """What frames with which nothing is wrong have to train and to judge on.

    Raises:
        UsageProblem, DiskRefused: as ``supply.of``.
    """
    config = next(iter(settings.stages.values()))
    return supply.of(settings.data, training_length=config.context_length, held_out=_held_out(settings))


def _held_out(settings: Settings) -> supply.HeldOut:
    inference = settings.inference
    return supply.HeldOut(settings.loop.inference.clips, inference.frames, inference.preload_ratio)


def frames_read(ctx: Context) -> Digests | None:
    """Which frames the run is trained and judged on, all of them read once; None where nobody reads them.

    Raises:
        UsageProblem: a row cannot be decoded.
        Interrupted: asked to stop meanwhile.
    """
    if not ctx.settings.needs_frames:
        return None
    reading = ctx.reading or FrameReading(ctx.settings.data)
    with ctx.display.reading() as show:
        return reading.digests(show, ctx.stopping)


def _warm_start(ctx: Context, stage: Stage, path: Path, unpacked: ExitStack, problems: list[str]) -> Path | None:
    """The newest valid checkpoint at ``path``, be it ``unpacked`` for a while; if there is none that can be used,
    ``problems`` say why."""
    found = warm_starts.find(path, stage, unpacked)
    newest = found.folder
    for shown, reasons in found.passed_over if newest else ():
        ctx.log.warning(f"{shown} is not used: {reasons[0]}")
    if newest is None:
        why = "; ".join(f"{shown.name}: {reasons[0]}" for shown, reasons in found.passed_over) or (
            f"none of {stage} found" if os.path.exists(path) else "no such folder or file"
        )
        problems.append(
            f"{path}: no valid {stage} checkpoint to start from ({why}); name another folder, or begin without one"
        )
        return None
    if newest.resolve().parent == ctx.paths.checkpoints(stage).resolve():
        problems.append(
            f"{newest} lies where this run keeps its own {stage} checkpoints; give another --run or --run-root, "
            "or copy it elsewhere"
        )
        return None
    config = ctx.settings.stages[stage]
    if wrong := ctx.engine.problems(stage, config, newest, None):
        differing = other_sizes(newest, config)
        made = f" It was made with {differing}." if differing else ""
        problems += [f"{found.told(reason)}{made}" for reason in wrong]
        return None
    return newest


def other_sizes(checkpoint: Path, config: StageConfig) -> str | None:
    """In which sizes a checkpoint's own config differs from this one, in words; None if in none, or nobody knows."""
    try:
        made = checkpoint_checks.saved_config(checkpoint)
    except UnreadableFile:
        return None
    ours = config.model_dump()
    differing = [
        f"{key} {quoted(made[key])}, in the configs {ours[key]}"
        for key in (*FROM_TRAINING, *BACKBONE)
        if made.get(key) is not None and key in ours and made[key] != ours[key]
    ]
    return "; ".join(differing) or None


def _kept(ctx: Context, stage: Stage, checkpoint: Path) -> CheckpointRef:
    """The run's own copy of a checkpoint, whose owner may remove it while the run still needs it.

    Raises:
        UsageProblem: it changed, or went, meanwhile.
    """
    try:
        sha256, own = checkpoints.digest(checkpoint), checkpoints.keep(checkpoint, ctx.paths.warm_start(stage))
        wrong = ctx.engine.problems(stage, ctx.settings.stages[stage], own, sha256)
    except UnreadableFile as exc:
        wrong = [str(exc)]
    if wrong:
        raise UsageProblem(f"{checkpoint} changed while it was looked at ({wrong[0]}); run again once it is left alone")
    return CheckpointRef(path=str(own), update=(checkpoints.completed_of(own) or 1) - 1, sha256=sha256)


def _begun_from(progress: StageProgress, ref: CheckpointRef, stage: Stage, settings: Settings) -> StageProgress:
    """A stage that starts from given weights, and counts on from their updates or from 0."""
    begun = ref.completed if STAGES[stage].counts_on or not settings.trains(stage) else 0
    target = begun + progress.target if settings.trains(stage) else begun
    return progress.evolve(
        target=target,
        completed=begun,
        chunk_start=begun,
        checkpoint=ref,
        accepted=ref,
        warm_start=True,
        schedule=LearningRateSchedule(start=begun, end=target),
    )
