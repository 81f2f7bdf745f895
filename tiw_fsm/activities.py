"""The work of each state. An activity returns what happened; the controller steps the machine and commits.

An activity changes nothing that the state names: it adds files, and the commit that follows makes them count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from tiw_fsm import advice, checkpoints, durable, fingerprint, frames, gates, pictures, reports
from tiw_fsm.config import Schedule, Settings, Tuning
from tiw_fsm.display import Display
from tiw_fsm.durable import Mark
from tiw_fsm.engines.protocol import Engine, Hello, InferRequest, TrainRequest, TrainResult
from tiw_fsm.errors import EngineCrashed, UsageProblem
from tiw_fsm.machine import Event
from tiw_fsm.paths import RunPaths
from tiw_fsm.run_state import ATTEMPTS_KEPT, CheckpointRef, FileRef, RunState, StageProgress
from tiw_fsm.stages import Stage
from tiw_fsm.states import TRAINING, State
from tiw_fsm.store import Store

LARGEST_RESULT = 1 << 26
"""Bytes of an attempt's result file: it has some figures for each step."""


@dataclass
class Context:
    """What activities work with."""

    settings: Settings
    paths: RunPaths
    store: Store
    engine: Engine
    hello: Hello
    display: Display
    log: FilteringBoundLogger

    def __post_init__(self) -> None:
        self.metrics = {stage: durable.Ledger(self.paths.metrics(stage)) for stage in Stage}


@dataclass
class Outcome:
    """What an activity found: an event, the run with the facts recorded in it, and facts for the journal."""

    event: Event
    run: RunState
    facts: Mapping[str, Any] = field(default_factory=dict)


# --- ALIGN ------------------------------------------------------------------------------------------------------


def align(ctx: Context, run: RunState) -> Outcome:
    """Check data and warm starts, and lay out the stages.

    Raises:
        UsageProblem: something cannot be used; nothing was changed.
    """
    settings, problems = ctx.settings, data_problems(ctx.settings)
    stages = {}
    for stage, config in settings.stages.items():
        progress = StageProgress(
            target=config.n_updates,
            tuning=Tuning(
                learning_rate=config.learning_rate,
                gradient_accumulation_steps=config.gradient_accumulation_steps,
                batch_size_per_gpu=config.batch_size_per_gpu,
                log_interval=min(config.log_interval, settings.loop.chunks[stage]),
            ),
            schedule=Schedule(start=0, end=config.n_updates),
        )
        if stage in settings.warm_starts:
            ref = _warm_start(ctx, stage, Path(settings.warm_starts[stage]), problems)
            progress = _begun_from(progress, ref, stage, settings) if ref else progress
        stages[stage] = progress
    if problems:
        raise UsageProblem(problems)
    for stage in Stage:
        if ctx.paths.metrics(stage).exists():
            aside = durable.set_aside(ctx.paths.metrics(stage))
            ctx.log.warning(f"an earlier run left its {stage} metrics in {ctx.paths.run_root}; they are now {aside}")
    run = run.but(stages=stages, fingerprint=fingerprint.take(settings, ctx.hello))
    warm = {stage: p.accepted.path for stage, p in stages.items() if p.accepted}
    ctx.log.info(f"configs aligned, data in order; training on {ctx.hello.device}", warm_starts=warm)
    return Outcome(Event.ALIGNED, run, {"warm_starts": warm, "device": ctx.hello.device})


def data_problems(settings: Settings) -> list[str]:
    """Why the frames cannot be trained and judged on; empty when they can."""
    if settings.engine == "simulated":
        return []
    config, source = settings.stages[Stage.VIDEO], settings.data
    path = Path(source.path)
    problems = frames.inspect(
        path,
        frame_size=config.frame_size,
        clip_length_train=config.context_length,
        clip_length_eval=settings.inference.frames,
        clips_eval=settings.loop.inference.clips,
        share_eval=settings.inference.preload_ratio,
        skip=source.skip,
        stride=source.stride,
        preload_ratio=source.preload_ratio,
    )
    if problems or settings.checkout is None:
        return problems
    processes = 1 if settings.device == "cpu" else settings.checkout.processes
    batch = processes * max(stage.batch_size_per_gpu for stage in settings.stages.values())
    share = source.preload_ratio
    wanted = [
        frames.Wanted("training", batch, config.context_length, share, "raise preload_ratio in training.yaml to"),
        frames.Wanted(
            "inference", 1, settings.inference.frames, settings.inference.preload_ratio, "give --preload-ratio"
        ),
    ]
    return frames.loader_problems(path, source.skip, source.stride, wanted)


def _warm_start(ctx: Context, stage: Stage, path: Path, problems: list[str]) -> CheckpointRef | None:
    """The newest valid checkpoint at ``path``, pinned by its digest."""
    newest, passed_over = checkpoints.newest_valid(path, stage)
    for folder, reasons in passed_over:
        ctx.log.warning(f"{folder} is not used: {reasons[0]}")
    if newest is None:
        found = "; ".join(f"{folder.name}: {reasons[0]}" for folder, reasons in passed_over) or "none found"
        problems.append(
            f"{path}: no valid {stage} checkpoint to start from ({found}); name another folder, or begin without one"
        )
        return None
    if newest.resolve().parent == ctx.paths.checkpoints(stage).resolve():
        problems.append(
            f"{newest} lies where this run keeps its own {stage} checkpoints; give another --run or --run-root, "
            "or copy it elsewhere"
        )
        return None
    if wrong := ctx.engine.problems(stage, ctx.settings.stages[stage], newest, None):
        problems += [f"{newest}: {reason}" for reason in wrong]
        return None
    completed = checkpoints.completed_of(newest) or 1
    return CheckpointRef(path=str(newest.resolve()), update=completed - 1, sha256=checkpoints.digest(newest))


def _begun_from(progress: StageProgress, ref: CheckpointRef, stage: Stage, settings: Settings) -> StageProgress:
    """A stage that starts from given weights. Dynamics keeps its absolute update; the others count from 0."""
    begun = ref.completed if stage is Stage.DYNAMICS or not settings.trains(stage) else 0
    target = begun + progress.target if settings.trains(stage) else begun
    return progress.but(
        target=target,
        completed=begun,
        chunk_start=begun,
        checkpoint=ref,
        accepted=ref,
        warm_start=True,
        schedule=Schedule(start=begun, end=target),
    )


# --- TRAIN ------------------------------------------------------------------------------------------------------


def train(ctx: Context, run: RunState) -> Outcome:
    """Train up to the next checkpoint of the chunk in hand; at the chunk's end, judge it."""
    stage, progress = TRAINING[run.state], run.progress()
    try:
        if progress.completed >= run.chunk_end(stage):
            return _judge(ctx, run, stage)
        return _advance(ctx, run, stage)
    except EngineCrashed as exc:
        ctx.log.warning(f"{stage}: the training process died at or after update {progress.completed}: {exc}")
        event = Event.OUT_OF_MEMORY if exc.out_of_memory else Event.CRASHED
        return Outcome(event, run, {"stage": stage, "completed": progress.completed, "error": str(exc)[-2000:]})


def _advance(ctx: Context, run: RunState, stage: Stage) -> Outcome:
    progress, end = run.stages[stage], run.chunk_end(stage)
    request = _train_request(ctx, run, stage, end)
    with ctx.display.training(stage, progress.completed, progress.target) as advance:
        result = ctx.engine.train(request, advance)
        advance(result.completed, request.stop_at, result.rows[-1]["loss"] if result.rows else None)
    for note in result.notes:
        ctx.log.warning(f"{stage}: {note}")
    metrics = _append_metrics(ctx, stage, progress, result)
    if any(row["loss"] is None for row in result.rows):
        return _judge(ctx, run.with_stage(stage, metrics=metrics), stage)
    final = ctx.paths.checkpoints(stage) / checkpoints.folder_name(stage, result.completed)
    checkpoints.publish(Path(request.checkpoint), final, run.run_id)
    ref = CheckpointRef(path=str(final.resolve()), update=result.completed - 1, sha256=result.sha256)
    picture = progress.picture
    if result.completed >= end:
        picture = request.picture if pictures.is_png(request.picture) else None
    run = run.with_stage(stage, completed=result.completed, checkpoint=ref, metrics=metrics, picture=picture)
    facts = {"stage": stage, "completed": result.completed, "checkpoint": ref.path, "seconds": result.seconds}
    return Outcome(Event.SAVED, run, facts | ({"notes": result.notes} if result.notes else {}))


def _train_request(ctx: Context, run: RunState, stage: Stage, end: int) -> TrainRequest:
    progress = run.progress()
    interval = min(progress.tuning.log_interval, run.loop.checkpoint_interval)
    stop_at = end if ctx.engine.saves_within_chunk else min(end, (progress.completed // interval + 1) * interval)
    folder = ctx.paths.checkpoints(stage)
    picture = ctx.paths.visualizations(stage) / f"{stage}_step_{end - 1}_attempt_{progress.attempt}.png"
    durable.make_folder(folder)
    durable.make_folder(picture.parent)
    return TrainRequest(
        stage=stage,
        owner=run.run_id,
        attempt=progress.attempt,
        config=ctx.settings.stages[stage],
        tuning=progress.tuning,
        schedule=progress.schedule,
        data=ctx.settings.data,
        seed=run.loop.seed,
        resume=progress.checkpoint,
        weights_only=progress.warm_start and progress.checkpoint == progress.accepted,
        start=progress.completed,
        stop_at=stop_at,
        video_tokenizer=run.stages[Stage.VIDEO].checkpoint if stage is Stage.DYNAMICS else None,
        latent_actions=run.stages[Stage.LATENT].checkpoint if stage is Stage.DYNAMICS else None,
        checkpoint=str(folder / f".tmp-{checkpoints.folder_name(stage, stop_at)}"),
        picture=str(picture) if stop_at == end else None,
    )


def _append_metrics(ctx: Context, stage: Stage, progress: StageProgress, result: TrainResult) -> Mark:
    lines = (json.dumps({"attempt": progress.attempt, **row}) + "\n" for row in result.rows)
    return ctx.metrics[stage].append(progress.metrics, "".join(lines).encode())


def _judge(ctx: Context, run: RunState, stage: Stage) -> Outcome:
    """The stage gate: metrics, then the checkpoint, then the picture."""
    progress = run.stages[stage]
    verdict = gates.judge_chunk(_chunk_rows(ctx, stage, progress), run.loop.gates[stage], progress.completed)
    if verdict.accepted and progress.checkpoint:
        folder = Path(progress.checkpoint.path)
        if wrong := ctx.engine.problems(stage, ctx.settings.stages[stage], folder, progress.checkpoint.sha256):
            verdict = verdict._replace(decision="restart_stage", reason=f"no valid checkpoint: {wrong[0]}")
            run = _without_unusable(ctx, run, stage)
        elif progress.picture is None:
            verdict = verdict._replace(decision="retune", reason="the chunk left no new picture")
    facts = {
        "stage": stage,
        "completed": progress.completed,
        "attempt": progress.attempt,
        "decision": verdict.decision,
        "reason": verdict.reason,
        "metrics": verdict.metrics,
        "tuning": progress.tuning.model_dump(),
        "checkpoint": progress.checkpoint.path if progress.checkpoint else None,
        "accepted": progress.accepted.path if progress.accepted else None,
        "picture": progress.picture,
    }
    ctx.log.info(f"{stage} gate at update {progress.completed}: {verdict.decision} ({verdict.reason})", **facts)
    event = Event.ACCEPTED if verdict.accepted else Event.REJECTED
    return Outcome(event, run.with_stage(stage, verdict=verdict.decision), facts)


def _without_unusable(ctx: Context, run: RunState, stage: Stage) -> RunState:
    """The newest checkpoint set aside; when the accepted one is no better, the stage begins anew."""
    progress = run.stages[stage]
    refs = {progress.checkpoint, progress.accepted} - {None}
    for ref in refs:
        assert ref is not None
        if ctx.engine.problems(stage, ctx.settings.stages[stage], Path(ref.path), ref.sha256):
            checkpoints.set_aside_own(Path(ref.path), ctx.paths.checkpoints(stage), run.run_id)
            if ref == progress.accepted:
                anew = progress.schedule.but(start=0)
                run = run.with_stage(stage, accepted=None, warm_start=False, chunk_start=0, schedule=anew)
    return run


def _chunk_rows(ctx: Context, stage: Stage, progress: StageProgress) -> list[dict[str, Any]]:
    content = ctx.metrics[stage].read(progress.attempt_metrics, progress.metrics)
    return [json.loads(line) for line in content.splitlines()]


# --- INFER, GATE, RETUNE ----------------------------------------------------------------------------------------


def infer(ctx: Context, run: RunState) -> Outcome:
    """Standard inference with the three checkpoints the state names."""
    number = run.inference.started
    refs = _named(run)
    ctx.log.info(
        f"inference attempt {number}: {ctx.settings.loop.inference.clips} held-out clips, "
        f"{ctx.settings.inference.generation_steps} steps",
        checkpoints={stage: ref.path for stage, ref in refs.items()},
    )
    picture = _new_picture(ctx.paths.inference_results)
    log = ctx.paths.attempt_log(number)
    durable.make_folder(picture.parent)
    durable.make_folder(log.parent)
    request = InferRequest(
        number=number,
        checkpoints=refs,
        configs=ctx.settings.stages,
        data=ctx.settings.data,
        inference=ctx.settings.inference,
        clips=ctx.settings.loop.inference.clips,
        picture=str(picture),
        log=str(log),
    )
    try:
        with ctx.display.inferring(ctx.settings.inference.generation_steps) as advance:
            result = ctx.engine.infer(request, advance)
    except EngineCrashed as exc:
        ctx.log.warning(f"inference attempt {number}: the process died: {exc}")
        return Outcome(Event.CRASHED, run, {"attempt": number, "error": str(exc)[-2000:]})
    path = ctx.paths.attempt(number)
    result |= {"number": number, "path": str(path), "png_valid": pictures.is_png(result.get("png"))}
    result["settings"] = ctx.settings.inference.model_dump()
    content = json.dumps(result, indent=1).encode()
    durable.replace(path, content)
    pending = FileRef(path=str(path), sha256=hashlib.sha256(content).hexdigest())
    return Outcome(Event.INFERRED, run.but(inference=run.inference.but(pending=pending)), {"attempt": number})


def _named(run: RunState) -> dict[Stage, CheckpointRef]:
    return {stage: p.checkpoint for stage, p in run.stages.items() if p.checkpoint is not None}


def _new_picture(folder: Path) -> Path:
    """A name TinyWorlds would give, that no file has yet."""
    stem = f"inference_results_gt_vs_pred_{datetime.now(UTC):%Y%m%d_%H%M%S}"
    candidates = [folder / f"{stem}.png", *(folder / f"{stem}_{n}.png" for n in range(1, 100))]
    return next(path for path in candidates if not path.exists())


def gate(ctx: Context, run: RunState) -> Outcome:
    """Judge the attempt that ran. One whose result is lost or altered is made again: it comes out the same."""
    pending = run.inference.pending
    assert pending is not None, "INFER leaves a result"
    path = Path(pending.path)
    try:
        content = durable.read_small(path, LARGEST_RESULT)
    except ValueError:
        content = b""
    if hashlib.sha256(content).hexdigest() != pending.sha256:
        ctx.log.warning(f"{path} is not the result that attempt {run.inference.started} left; inferring again")
        return Outcome(Event.RESULT_LOST, run, {"attempt": run.inference.started})
    result = json.loads(content)
    attempt = gates.judge_inference(
        result,
        {stage: ref.sha256 for stage, ref in _named(run).items()},
        run.loop.inference,
        number=run.inference.started,
        updates=run.stages[Stage.DYNAMICS].completed,
    ).but(result_sha256=pending.sha256)
    judged = [a for a in run.inference.attempts if a.number != attempt.number] + [attempt]
    measured = [a for a in (attempt, run.inference.best) if a is not None and a.mse is not None]
    best = min(measured, key=lambda a: a.mse or 0.0, default=None)
    run = run.but(inference=run.inference.but(attempts=judged[-ATTEMPTS_KEPT:], best=best))
    told = attempt.model_dump(mode="json")
    ctx.log.info(advice.verdict_line(told), **told)
    if error := result.get("error"):
        ctx.log.warning(f"inference attempt {attempt.number}: {error}")
    event = Event.GATE_PASSED if attempt.passed else Event.GATE_FAILED
    return Outcome(event, run, {"attempt": told, "error": result.get("error")})


def announce_retune(ctx: Context, run: RunState) -> Outcome:
    """Say what the failed gate's row has planned."""
    planned = {stage: p for stage, p in run.stages.items() if p.completed < p.target}
    facts = {
        "retune": run.retunes,
        "stages": {
            stage: {"target": p.target, "learning_rate": p.tuning.learning_rate} for stage, p in planned.items()
        },
    }
    goals = ", then ".join(
        f"{stage} to update {p.target} with peak learning rate {p.tuning.learning_rate:g}"
        for stage, p in planned.items()
    )
    ctx.log.info(f"retune {run.retunes}: {goals}", **facts)
    return Outcome(Event.RETUNED, run, facts)


# --- REPORT -----------------------------------------------------------------------------------------------------


def report(ctx: Context, run: RunState) -> Outcome:
    """Write the three Markdown reports, whatever the end."""
    written = reports.write(run, ctx.store.journal(), ctx.settings, ctx.paths, ctx.store.paths)
    return Outcome(Event.REPORTED, run.but(reports=[str(path) for path in written]))


ACTIVITIES: dict[State, Callable[[Context, RunState], Outcome]] = {
    State.ALIGN: align,
    **dict.fromkeys(TRAINING, train),
    State.INFER: infer,
    State.GATE: gate,
    State.RETUNE: announce_retune,
    State.REPORT: report,
}
