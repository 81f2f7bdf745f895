"""Where a start takes up a run: a new one is begun, one that was interrupted is reconciled with the machine, the
settings and the checkpoints that there are now, one that failed is reopened by a change of its budgets."""

from __future__ import annotations

import json
import os
import socket
import uuid
from contextlib import ExitStack
from pathlib import Path

from tiw_fsm.errors import RunChanged, StateDamaged, UsageProblem
from tiw_fsm.fsm.events import Event, Reopened, RunnerEvent, Started
from tiw_fsm.fsm.run_state import Fingerprint, Inexact, Runner, RunState
from tiw_fsm.fsm.states import TERMINAL, State
from tiw_fsm.run import fingerprint, sharing, warm_starts
from tiw_fsm.run.preflight import data_problems, frames_read
from tiw_fsm.run.session import Context, Session
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.storage import checkpoints, places
from tiw_fsm.storage.store import now

INEXACT_KEPT = 7
"""Changes of hardware that the state remembers beside the first one; the journal has them all."""


def begun(session: Session, config_sha256: str) -> RunState:
    """A new run. It is no run yet: ALIGN's commit is its first."""
    return RunState(
        run_id=uuid.uuid4().hex,
        run=session.store.paths.folder.name,
        root=session.settings.repo_root,
        train_stage=session.settings.train_stage,
        loop=session.settings.loop,
        flags=dict(session.flags),
        runner=_this_process(),
        config_sha256=config_sha256,
        created_at=now(),
    )


def resumed(ctx: Context, before: RunState, config_sha256: str) -> tuple[RunState, Event | RunnerEvent, Started]:
    """The run as this start goes on with it, and what to commit that by.

    Raises:
        UsageProblem: the frames cannot be used, or the run root is another run's.
        RunChanged: what decides the weights has changed, and was not accepted.
        StateDamaged: metrics, or all checkpoints of a stage, are not what the state vouches for.
    """
    session = ctx.session
    if problems := data_problems(session.settings, session.kind, begun=True):
        raise UsageProblem(problems)
    run, changed = reconciled(ctx, found_again(session, before))
    run = run.evolve(hosts=ctx.hello.hosts)
    sharing.say(ctx, run)
    facts = Started(changed=changed) if changed else Started()
    if ctx.hello.processes > 1:
        facts["hosts"] = sharing.hosts(ctx)
    ctx.claim_run_root(run)
    for stage, progress in run.stages.items():
        ctx.metrics[stage].verify(progress.metrics)
    run = _with_usable_checkpoints(ctx, run)
    if run.runner is not None:
        facts["died"] = run.runner.model_dump()
        session.log.warning(f"the run was interrupted without warning (process {run.runner.pid})")
        run = run.evolve(interruptions=run.interruptions + 1)
    run = run.evolve(
        loop=session.settings.loop,
        flags=dict(session.flags),
        runner=_this_process(),
        config_sha256=config_sha256,
        stalled_starts=run.stalled_starts + 1,
    )
    if run.state in TERMINAL:
        return run, Event.REOPENED, Reopened(budgets=run.loop.budgets.model_dump(), **facts)
    return run, RunnerEvent.STARTED, facts


def _this_process() -> Runner:
    return Runner(pid=os.getpid(), host=socket.gethostname(), started_at=now())


def reopens(session: Session, run: RunState) -> bool:
    """A failed run is reopened at its gate by a change of budgets or thresholds."""
    loop = session.settings.loop.evolve(on_finish=run.loop.on_finish, trackers=run.loop.trackers)
    return run.state is State.FAILED and run.failed_in is not None and run.loop != loop


def refuse_other_settings(session: Session, run: RunState) -> None:
    """An ended run stands for the settings and data it ended with.

    Raises:
        RunChanged: others were given.
    """
    old = run.fingerprint
    if old and (changes := fingerprint.settings_changes(old, session.settings, _warm_starts(session, run))):
        raise RunChanged(
            f"run {run.run!r} has ended ({run.outcome}), with other settings than these:\n  "
            + "\n  ".join(changes)
            + "\nBegin another run with --run NAME, or leave the settings as they were to see how it ended."
        )


def found_again(session: Session, before: RunState) -> RunState:
    """The run where its files lie now. They are known by their content, which is looked at as at every start.

    Raises:
        RunChanged: they are not there.
    """
    run = _relocated(session, before)
    if run != before and (gone := [path for path in sorted(run.named_checkpoints()) if not Path(path).exists()]):
        raise RunChanged(
            f"run {run.run!r} is looked for in {session.settings.run_root}, where {gone[0]} is not; move all of its "
            "run root there, or give the --repo-root and --run-root where it lies"
        )
    return run.evolve(root=session.settings.repo_root)


def _relocated(session: Session, run: RunState) -> RunState:
    """The run with its paths below the working root and the run root of this start."""
    settings = session.settings
    run_root = run.fingerprint.config["run_root"] if run.fingerprint else settings.run_root
    if run.root in ("", settings.repo_root) and run_root == settings.run_root:
        return run
    document = run.model_dump(mode="json")
    if run.root:
        document = places.moved(document, Path(run.root), Path(settings.repo_root))
    if run.fingerprint:
        document = places.moved(document, Path(document["fingerprint"]["config"]["run_root"]), Path(settings.run_root))
    return RunState.model_validate_json(json.dumps(document))


def _warm_starts(session: Session, run: RunState) -> dict[Stage, str]:
    """Digests of the checkpoints that stages began from; only one that is named anew is looked at again.

    Raises:
        UsageProblem: there is none where a flag says.
    """
    digests, missing = {}, []
    known = run.fingerprint.config if run.fingerprint else {}
    for stage, path in session.settings.warm_starts.items():
        before, key = run.flags.get(STAGES[stage].checkpoint_flag), fingerprint.warm_start_key(stage)
        if before is not None and Path(path) == Path(os.path.normpath(Path(session.settings.repo_root) / before)):
            digests[stage] = known.get(key, "")
            continue
        with ExitStack() as holding:
            if newest := warm_starts.find(Path(path), stage, holding).folder:
                digests[stage] = checkpoints.digest(newest)
            else:
                missing.append(f"{path}: no valid {stage} checkpoint; leave the flag out, the run has its own copy")
    if missing:
        raise UsageProblem(missing)
    return digests


def reconciled(ctx: Context, run: RunState) -> tuple[RunState, list[str]]:
    """The run with what differs from its fingerprint accepted and recorded, and that in words.

    Raises:
        UsageProblem: the frames cannot be read.
        RunChanged: what decides the weights has changed, and was not accepted.
    """
    session = ctx.session
    old, new = run.fingerprint, fingerprint.take(session.settings, ctx.hello, _warm_starts(session, run))
    if old is None:
        return run, []
    changes = fingerprint.changes(old, new)
    if changes and not session.accept_changes:
        raise RunChanged(
            f"what decides the weights has changed since run {run.run!r} began:\n  "
            + "\n  ".join(changes)
            + "\nPut it back, or take it into this run with --accept-changes, or begin another with --run NAME."
        )
    if refused := fingerprint.unacceptable(old, new) if changes else []:
        raise RunChanged(
            f"run {run.run!r} cannot follow a change of {', '.join(refused)} once it has begun; "
            "put it back, or begin another run with --run NAME"
        )
    hardware = fingerprint.hardware_changes(old, new)
    if hardware and session.require_exact:
        raise RunChanged(
            "with --require-exact this run goes on only where it is bitwise the same:\n  " + "\n  ".join(hardware)
        )
    new = _with_content(ctx, old, new)
    if not changes and not hardware:
        return run.evolve(fingerprint=new), []
    for what in changes + hardware:
        session.log.warning(f"from here on not bitwise the same run: {what}")
    stage = run.stage or Stage.DYNAMICS
    new_entries = [
        Inexact(stage=stage, completed=run.stages[stage].completed, what=what) for what in changes + hardware
    ]
    first, *later = [*run.inexact, *new_entries]
    inexact = [first, *later[-INEXACT_KEPT:]]
    run = _with_new_training_config(run, old, new).evolve(fingerprint=new, inexact=inexact)
    return run, changes + hardware


def _with_content(ctx: Context, old: Fingerprint, new: Fingerprint) -> Fingerprint:
    """``new`` with the digest of its frames' content. Frames that are taken in are read, all of them; so are those of a
    state that does not know it, since an older version made it.

    Raises:
        UsageProblem: they are others than those that were hashed just now, or a row cannot be decoded.
    """
    if fingerprint.same_rows(old, new):
        return new.evolve(content=old.content)
    read = frames_read(ctx)
    if read and read.file != new.data:
        raise UsageProblem(f"{ctx.settings.data.path}: is being written to; let its writer come to an end, start again")
    return new.evolve(content=read and read.content)


def _with_usable_checkpoints(ctx: Context, run: RunState) -> RunState:
    """Named checkpoints verified by their hashes; a damaged newest one falls back to the one before it.

    Raises:
        StateDamaged: no checkpoint of a stage is left that could be used in its place.
    """
    previous = ctx.store.previous()
    previous = previous and _relocated(ctx.session, previous)
    for stage, progress in run.stages.items():
        candidates = [progress]
        if progress.checkpoint != progress.accepted:
            if previous and previous.state is run.state and previous.stages[stage].attempt == progress.attempt:
                candidates.append(previous.stages[stage])
            candidates.append(progress.rewound())
        damage = []
        for candidate in candidates:
            ref = candidate.checkpoint
            if ref is None:
                break
            wrong = ctx.engine.problems(stage, ctx.settings.stages[stage], Path(ref.path), ref.sha256)
            if not wrong:
                break
            damage.append(f"{ref.path}: {wrong[0]}")
        else:
            raise StateDamaged(
                "\n".join(dict.fromkeys(damage))
                + "\nNo checkpoint before it can take its place. Nothing was overwritten: put the folder back from "
                "a backup, or begin anew with another --run."
            )
        if candidate is not progress and progress.checkpoint:
            checkpoints.set_aside_own(Path(progress.checkpoint.path), ctx.paths.checkpoints(stage), run.run_id)
            ctx.log.warning(f"{damage[0]}; going back to update {candidate.completed} of {stage}")
            run = run.with_stage(stage, **dict(candidate))
        _warn_of_damaged_accepted(ctx, run, stage)
    return run


def _warn_of_damaged_accepted(ctx: Context, run: RunState, stage: Stage) -> None:
    """An accepted checkpoint that is not the newest is needed only if the chunk in hand is rejected."""
    ref = run.stages[stage].accepted
    if ref is None or ref == run.stages[stage].checkpoint:
        return
    if wrong := ctx.engine.problems(stage, ctx.settings.stages[stage], Path(ref.path), ref.sha256):
        checkpoints.set_aside_own(Path(ref.path), ctx.paths.checkpoints(stage), run.run_id)
        ctx.log.warning(f"{wrong[0]} The run goes on; should the chunk in hand be rejected, it cannot.")


def _with_new_training_config(run: RunState, old: Fingerprint, new: Fingerprint) -> RunState:
    """Changed training settings take effect in the stages that are not done; a new target moves the schedule's end."""
    unfinished = {stage: p for stage, p in run.stages.items() if p.completed < p.target}
    for stage, progress in unfinished.items():
        changed = {
            key.partition(".")[2]: value
            for key, value in new.config.items()
            if key.startswith(f"{stage}.") and old.config.get(key) != value
        }
        tuning = {key: value for key, value in changed.items() if key in type(progress.tuning).model_fields}
        run = run.with_stage(stage, tuning=progress.tuning.evolve(**tuning))
        if "n_updates" in changed:
            target = max(progress.completed, progress.target + changed["n_updates"] - old.config[f"{stage}.n_updates"])
            run = run.with_stage(stage, target=target, schedule=progress.schedule.evolve(end=target))
    return run
