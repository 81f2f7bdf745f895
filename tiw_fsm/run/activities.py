"""The work of each state. An activity returns what happened; the controller steps the machine and commits.

An activity changes nothing that the state names: it adds files, and the commit that follows makes them count. ALIGN's
is in ``preflight``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tiw_fsm.data import pictures
from tiw_fsm.engines.protocol import InferRequest, RunFrames, TrainRequest, TrainResult
from tiw_fsm.errors import EngineCrashed
from tiw_fsm.fsm import chunk_gate, inference_gate
from tiw_fsm.fsm.events import AttemptNumber, Event, GateDecided, Goal, Judged, Retuned, Saved
from tiw_fsm.fsm.inference_gate import InferenceResult
from tiw_fsm.fsm.run_state import Fingerprint, Made, RunState, StageProgress
from tiw_fsm.fsm.states import TRAINING, State
from tiw_fsm.reporting import advice
from tiw_fsm.reporting.markdown import reports
from tiw_fsm.run import deaths, fingerprint, preflight
from tiw_fsm.run.outcome import Outcome
from tiw_fsm.run.session import Context
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.storage import checkpoints, results
from tiw_fsm.system import durable
from tiw_fsm.values.frozen import CheckpointRef
from tiw_fsm.values.plain import LogPosition

# --- TRAIN ------------------------------------------------------------------------------------------------------


def train(ctx: Context, run: RunState) -> Outcome:
    """Train up to the next checkpoint of the chunk in hand; at the chunk's end, judge it."""
    stage, progress = TRAINING[run.state], run.progress()
    try:
        if progress.completed >= run.chunk_end(stage):
            return _judge(ctx, run, stage)
        return _advance(ctx, run, stage)
    except EngineCrashed as exc:
        return deaths.told(ctx.log, run, exc)


def _advance(ctx: Context, run: RunState, stage: Stage) -> Outcome:
    progress, end = run.stages[stage], run.chunk_end(stage)
    request = _train_request(ctx, run, stage, end)
    with ctx.display.training(stage, progress.completed, progress.target) as advance:
        result = ctx.engine.train(request, advance)
        require_frames(request, result)
        ctx.store.require_lock()
        advance(result.completed, request.stop_at, result.rows[-1]["loss"] if result.rows else None)
    for note in result.notes:
        ctx.log.warning(f"{stage}: {note}")
    metrics = _append_metrics(ctx, stage, progress, result)
    if any(row["loss"] is None for row in result.rows):
        return _judge(ctx, run.with_stage(stage, metrics=metrics), stage)
    final = ctx.paths.checkpoints(stage) / checkpoints.folder_name(stage, result.completed)
    checkpoints.publish(Path(request.checkpoint), final, run.run_id)
    ref = CheckpointRef(path=str(final), update=result.completed - 1, sha256=result.sha256)
    picture = progress.picture
    if result.completed >= end:
        picture = request.picture if pictures.is_png(request.picture) else None
    made = _made(ctx, run, request) if ctx.session.kind.replays else None
    run = run.with_stage(stage, completed=result.completed, checkpoint=ref, made=made, metrics=metrics, picture=picture)
    facts = Saved(stage=stage, completed=result.completed, checkpoint=ref.path, seconds=result.seconds)
    if result.notes:
        facts["notes"] = result.notes
    return Outcome(Event.SAVED, run, facts)


def _train_request(ctx: Context, run: RunState, stage: Stage, end: int) -> TrainRequest:
    progress, interval = run.progress(), _interval(run)
    stop_at = end if ctx.engine.saves_within_chunk else min(end, (progress.completed // interval + 1) * interval)
    folder = ctx.paths.checkpoints(stage)
    picture = ctx.paths.chunk_picture(stage, end - 1, progress.attempt)
    durable.make_folder(folder)
    durable.make_folder(picture.parent)
    return TrainRequest(
        stage=stage,
        owner=run.run_id,
        run=run.run,
        attempt=progress.attempt,
        config=ctx.settings.stages[stage],
        tuning=progress.tuning,
        schedule=progress.schedule,
        data=ctx.settings.data,
        frames=frames_of(run.fingerprint),
        seed=run.loop.seed,
        processes=run.processes,
        resume=progress.checkpoint,
        weights_only=progress.warm_start and progress.checkpoint == progress.accepted,
        start=progress.completed,
        stop_at=stop_at,
        inputs={needed: ref for needed, ref in _named(run).items() if needed in STAGES[stage].inputs},
        checkpoint=str(checkpoints.temporary_name(folder, stage, stop_at)),
        picture=str(picture) if stop_at == end else None,
    )


def _interval(run: RunState) -> int:
    """Updates between two checkpoints of the stage in training."""
    return min(run.progress().tuning.log_interval, run.loop.checkpoint_interval)


def _made(ctx: Context, run: RunState, request: TrainRequest) -> Made:
    """How the request's checkpoint is made, for those who want to make it once more."""
    assert run.fingerprint is not None, "ALIGN took it"
    progress = run.progress()
    made = Made(
        resume=request.resume,
        weights_only=request.weights_only,
        start=request.start,
        attempt=request.attempt,
        tuning=request.tuning,
        schedule=request.schedule,
        inputs={stage: ref.sha256 for stage, ref in request.inputs.items()},
        fingerprint=fingerprint.digest(run.fingerprint),
    )
    undisturbed = request.start == progress.chunk_start or (
        not ctx.engine.saves_within_chunk and request.start % _interval(run) == 0
    )
    return made.after(progress.made, pausing=not undisturbed)


def _append_metrics(ctx: Context, stage: Stage, progress: StageProgress, result: TrainResult) -> LogPosition:
    lines = (json.dumps({"attempt": progress.attempt, **row}) + "\n" for row in result.rows)
    return ctx.metrics[stage].append(progress.metrics, "".join(lines).encode())


def _judge(ctx: Context, run: RunState, stage: Stage) -> Outcome:
    """The stage gate: metrics, then the checkpoint, then the picture."""
    progress = run.stages[stage]
    verdict = chunk_gate.judge_chunk(_chunk_rows(ctx, stage, progress), run.loop.gates[stage], progress.completed)
    if verdict.accepted and progress.checkpoint:
        folder = Path(progress.checkpoint.path)
        if wrong := ctx.engine.problems(stage, ctx.settings.stages[stage], folder, progress.checkpoint.sha256):
            verdict = verdict._replace(decision="restart_stage", reason=f"no valid checkpoint: {wrong[0]}")
            run = _without_unusable(ctx, run, stage)
        elif progress.picture is None:
            verdict = verdict._replace(decision="retune", reason="the chunk left no new picture")
    facts = Judged(
        stage=stage,
        completed=progress.completed,
        attempt=progress.attempt,
        decision=verdict.decision,
        reason=verdict.reason,
        metrics=verdict.metrics,
        tuning=progress.tuning.model_dump(),
        checkpoint=progress.checkpoint.path if progress.checkpoint else None,
        accepted=progress.accepted.path if progress.accepted else None,
        picture=progress.picture,
    )
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
                anew = progress.schedule.evolve(start=0)
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
        f"inference attempt {number}: {run.loop.inference.clips} held-out clips, "
        f"{ctx.settings.inference.generation_steps} steps",
        checkpoints={stage: ref.path for stage, ref in refs.items()},
    )
    picture = _picture(ctx, run)
    log = ctx.paths.attempt_log(number)
    durable.make_folder(picture.parent)
    durable.make_folder(log.parent)
    request = InferRequest(
        run=run.run,
        number=number,
        checkpoints=refs,
        configs=ctx.settings.stages,
        data=ctx.settings.data,
        frames=frames_of(run.fingerprint),
        inference=ctx.settings.inference,
        clips=run.loop.inference.clips,
        picture=str(picture),
        log=str(log),
    )
    try:
        with ctx.display.inferring(ctx.settings.inference.generation_steps) as advance:
            result = ctx.engine.infer(request, advance)
            require_frames(request, result)
            ctx.store.require_lock()
    except EngineCrashed as exc:
        return deaths.told(ctx.log, run, exc)
    path = ctx.paths.attempt(number)
    filed = result.evolve(
        number=number,
        path=str(path),
        png_valid=pictures.is_png(result.png),
        settings=ctx.settings.inference.model_dump(),
    )
    pending = results.write(path, filed, Path(run.root))
    run = run.evolve(inference=run.inference.evolve(pending=pending))
    return Outcome(Event.INFERRED, run, AttemptNumber(attempt=number))


def frames_of(known: Fingerprint | None) -> RunFrames | None:
    """Those the run began with; None where it reads none."""
    return RunFrames(file=known.data, content=known.content) if known and known.content else None


def require_frames(request: TrainRequest | InferRequest, result: TrainResult | InferenceResult) -> None:
    """Before anything of a result is kept: what was used is what the run began with.

    Raises:
        RunChanged: it is not.
    """
    if request.frames:
        request.frames.require(*result.frames)


def _named(run: RunState) -> dict[Stage, CheckpointRef]:
    return {stage: p.checkpoint for stage, p in run.stages.items() if p.checkpoint is not None}


def _picture(ctx: Context, run: RunState) -> Path:
    """A name TinyWorlds would give, that no other run and no other attempt has; of an attempt that is made again, the
    one it has."""
    folder, prefix = ctx.paths.inference_results, "inference_results_gt_vs_pred"
    mine = f"{run.mark}_{run.inference.started}.png"
    return next(folder.glob(f"{prefix}_*_{mine}"), folder / f"{prefix}_{datetime.now(UTC):%Y%m%d_%H%M%S}_{mine}")


def gate(ctx: Context, run: RunState) -> Outcome:
    """Judge the attempt that ran. One whose result is lost or altered is made again: it comes out the same."""
    pending = run.inference.pending
    assert pending is not None, "INFER leaves a result"
    try:
        result = results.read(Path(pending.path), pending.sha256, Path(run.root))
    except ValueError:
        what = f"{pending.path} is not the result that attempt {run.inference.started} left"
        ctx.log.warning(f"{what}; inferring again")
        return Outcome(Event.RESULT_LOST, run, AttemptNumber(attempt=run.inference.started))
    attempt = inference_gate.judge_inference(
        result,
        {stage.value: ref.sha256 for stage, ref in _named(run).items()},
        run.loop.inference,
        number=run.inference.started,
        updates=run.stages[Stage.DYNAMICS].completed,
    ).evolve(result_sha256=pending.sha256)
    run = run.evolve(inference=run.inference.with_judged(attempt))
    verdict = attempt.model_dump(mode="json")
    ctx.log.info(advice.verdict_line(verdict), **verdict)
    if result.error:
        ctx.log.warning(f"inference attempt {attempt.number}: {result.error}")
    event = Event.GATE_PASSED if attempt.passed else Event.GATE_FAILED
    return Outcome(event, run, GateDecided(attempt=verdict, error=result.error))


def announce_retune(ctx: Context, run: RunState) -> Outcome:
    """Say what the failed gate's row has planned."""
    planned = {stage: p for stage, p in run.stages.items() if p.completed < p.target}
    stages = {stage.value: Goal(target=p.target, learning_rate=p.tuning.learning_rate) for stage, p in planned.items()}
    facts = Retuned(retune=run.retunes, stages=stages)
    goals = ", then ".join(
        f"{stage} to update {p.target} with peak learning rate {p.tuning.learning_rate:g}"
        for stage, p in planned.items()
    )
    ctx.log.info(f"retune {run.retunes}: {goals}", **facts)
    return Outcome(Event.RETUNED, run, facts)


# --- REPORT -----------------------------------------------------------------------------------------------------


def report(ctx: Context, run: RunState) -> Outcome:
    """Write the three Markdown reports, whatever the end."""
    written = reports.write(run, ctx.store.lines(), ctx.settings, ctx.paths, ctx.store.paths)
    return Outcome(Event.REPORTED, run.evolve(reports=[str(path) for path in written]))


ACTIVITIES: dict[State, Callable[[Context, RunState], Outcome]] = {
    State.ALIGN: preflight.align,
    **dict.fromkeys(TRAINING, train),
    State.INFER: infer,
    State.GATE: gate,
    State.RETUNE: announce_retune,
    State.REPORT: report,
}
