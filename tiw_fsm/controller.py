"""The loop: do the state's work, take the row, commit. Everything that must survive goes through ``_commit``."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from tiw_fsm import checkpoints, durable, fingerprint, signals
from tiw_fsm.activities import ACTIVITIES, Context, data_problems
from tiw_fsm.config import Settings
from tiw_fsm.display import Display
from tiw_fsm.engines.protocol import Engine, Hello, HelloRequest
from tiw_fsm.errors import ExitCode, Interrupted, RunChanged, StateDamaged, UsageProblem
from tiw_fsm.machine import Event, Machine
from tiw_fsm.paths import RunPaths
from tiw_fsm.run_state import Fingerprint, Inexact, Runner, RunState
from tiw_fsm.stages import Stage
from tiw_fsm.states import TERMINAL, State
from tiw_fsm.store import Store, now

INEXACT_KEPT = 7
"""Changes of hardware that the state remembers beside the first one; the journal has them all."""
MakeEngine = Callable[[Settings, Store], Engine]


class Controller:
    """Runs one run from wherever it is to its end, to an interruption, or to an error.

    Use inside ``store.hold()``. ``before`` is what ``store.resume()`` gave, None for a run that never began.
    ``on_commit`` is called after each commit and must not raise.
    """

    def __init__(
        self,
        settings: Settings,
        flags: Mapping[str, Any],
        store: Store,
        before: RunState | None,
        *,
        make_engine: MakeEngine,
        display: Display,
        log: FilteringBoundLogger,
        accept_changes: bool = False,
        require_exact: bool = False,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.flags = dict(flags)
        self.store = store
        self.paths = RunPaths(Path(settings.run_root), Path(settings.repo_root))
        self.display = display
        self.log = log
        self.make_engine = make_engine
        self.accept_changes = accept_changes
        self.require_exact = require_exact
        self.on_commit = on_commit
        self.machine = Machine()
        self.committed = before
        self.kept: set[str] | None = None
        self.config = settings.model_dump_json(indent=1).encode()

    def run(self) -> ExitCode:
        """Go on until the run ends.

        Raises:
            UsageProblem, RunChanged: before anything was changed.
            Interrupted: a signal asked to stop; everything is saved and recorded.
            StateDamaged, DiskRefused: nothing committed was lost.
        """
        before = self.committed
        if before and before.state in TERMINAL and not self._reopens(before):
            self._refuse_other_settings(before)
            return self._finished(before)
        engine = self.make_engine(self.settings, self.store)
        try:
            hello = self._greeted(engine, before)
            context = Context(self.settings, self.paths, self.store, engine, hello, self.display, self.log)
            with signals.asked_to_stop(engine.stop) as stopping:
                run = self._begin(before, context)
                return self._finished(self._drive(context, run, stopping))
        finally:
            engine.close()

    def _greeted(self, engine: Engine, before: RunState | None) -> Hello:
        """What the engine has. A first start that is refused is told what is wrong with the frames at once, too."""
        known = before.fingerprint if before else None
        try:
            return engine.hello(HelloRequest(device=self.settings.device, threads=known.threads if known else None))
        except UsageProblem as exc:
            raise UsageProblem([*exc.problems, *([] if before else data_problems(self.settings))]) from exc

    def _drive(self, context: Context, run: RunState, stopping: Callable[[], bool]) -> RunState:
        if run.stalled_starts > run.loop.budgets.max_stalled_starts and run.state is not State.REPORT:
            run = self._step(run, Event.STALLED, {"stalled_starts": run.stalled_starts})
        while run.state not in TERMINAL:
            if stopping():
                raise self._interrupted(run)
            try:
                outcome = ACTIVITIES[run.state](context, run)
            except Interrupted:
                raise self._interrupted(run) from None
            run = self._step(outcome.run, outcome.event, outcome.facts)
        return run

    def _step(self, run: RunState, event: Event, facts: Mapping[str, Any]) -> RunState:
        return self._commit(self.machine.step(run, event), event, facts)

    def _commit(self, after: RunState, event: str, facts: Mapping[str, Any]) -> RunState:
        """The single commit point. Checkpoints that neither this nor the previous generation names go."""
        before = self.committed
        starting = before is None or (after.runner is not None and after.runner != before.runner)
        if starting:
            self._save_config(before)
        self.committed = self.store.commit(before, after, event, facts)
        if starting:
            self.store.started()
        named = self.committed.named_checkpoints() | (before.named_checkpoints() if before else set())
        if named != self.kept:
            self.kept = named
            for stage in Stage:
                checkpoints.sweep(self.paths.checkpoints(stage), {Path(path) for path in named}, self.committed.run_id)
        self.on_commit()
        return self.committed

    # --- beginning ----------------------------------------------------------------------------------------------

    def _begin(self, before: RunState | None, context: Context) -> RunState:
        runner = Runner(pid=os.getpid(), host=socket.gethostname(), started_at=now())
        if before is None:
            return RunState(
                run_id=uuid.uuid4().hex,
                run=self.store.paths.folder.name,
                train_stage=self.settings.train_stage,
                loop=self.settings.loop,
                flags=self.flags,
                runner=runner,
                config_sha256=hashlib.sha256(self.config).hexdigest(),
                created_at=now(),
            )
        if problems := data_problems(self.settings):
            raise UsageProblem(problems)
        run, facts = self._reconciled(before, context.hello)
        for stage, progress in run.stages.items():
            context.metrics[stage].verify(progress.metrics)
        run = self._with_usable_checkpoints(run, context.engine)
        if run.runner is not None:
            facts["died"] = run.runner.model_dump()
            run = run.but(interruptions=run.interruptions + 1)
            self.log.warning(f"the run was interrupted without warning (process {run.runner and run.runner.pid})")
        run = run.but(
            loop=self.settings.loop,
            flags=self.flags,
            runner=runner,
            config_sha256=hashlib.sha256(self.config).hexdigest(),
            stalled_starts=run.stalled_starts + 1,
        )
        if run.state in TERMINAL:
            return self._step(run, Event.REOPENED, {"budgets": run.loop.budgets.model_dump(), **facts})
        run = self._commit(run, "started", facts)
        where = f", {run.progress().completed} of {run.progress().target} updates done" if run.stage else ""
        self.log.info(f"resuming in {run.state}{where}")
        return run

    def _save_config(self, before: RunState | None) -> None:
        """Lay the effective configuration beside the state; the commit that follows vouches for it."""
        path = self.store.paths.config
        try:
            there = durable.read_small(path)
        except ValueError:
            there = b""
        if there == self.config:
            return
        if before and hashlib.sha256(there).hexdigest() != before.config_sha256:
            self.log.warning(f"{path} was altered or lost; it is written anew")
        durable.replace(path, self.config)

    def _reopens(self, run: RunState) -> bool:
        """A failed run is reopened at its gate by a change of budgets or thresholds."""
        loop = self.settings.loop.but(on_finish=run.loop.on_finish)
        return run.state is State.FAILED and run.failed_in is not None and run.loop != loop

    def _refuse_other_settings(self, run: RunState) -> None:
        """An ended run stands for the settings and data it ended with.

        Raises:
            RunChanged: others were given.
        """
        if run.fingerprint and (changes := fingerprint.settings_changes(run.fingerprint, self.settings)):
            raise RunChanged(
                f"run {run.run!r} has ended ({run.outcome}), with other settings than these:\n  "
                + "\n  ".join(changes)
                + "\nBegin another run with --run NAME, or leave the settings as they were to see how it ended."
            )

    def _reconciled(self, run: RunState, hello: Hello) -> tuple[RunState, dict[str, Any]]:
        """The run with what differs from its fingerprint accepted and recorded, or refused."""
        old, new = run.fingerprint, fingerprint.take(self.settings, hello)
        if old is None:
            return run, {}
        changes = fingerprint.changes(old, new)
        if changes and not self.accept_changes:
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
        if hardware and self.require_exact:
            raise RunChanged(
                "with --require-exact this run goes on only where it is bitwise the same:\n  " + "\n  ".join(hardware)
            )
        if not changes and not hardware:
            return run, {}
        for what in changes + hardware:
            self.log.warning(f"from here on not bitwise the same run: {what}")
        stage = run.stage or Stage.DYNAMICS
        new_entries = [
            Inexact(stage=stage, completed=run.stages[stage].completed, what=what) for what in changes + hardware
        ]
        first, *later = [*run.inexact, *new_entries]
        inexact = [first, *later[-INEXACT_KEPT:]]
        run = _with_new_training_config(run, old, new).but(fingerprint=new, inexact=inexact)
        return run, {"changed": changes + hardware}

    def _with_usable_checkpoints(self, run: RunState, engine: Engine) -> RunState:
        """Named checkpoints verified by their hashes; a damaged newest one falls back to the one before it.

        Raises:
            StateDamaged: no checkpoint of a stage is left that could be used in its place.
        """
        previous = self.store.previous()
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
                wrong = engine.problems(stage, self.settings.stages[stage], Path(ref.path), ref.sha256)
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
                checkpoints.set_aside_own(Path(progress.checkpoint.path), self.paths.checkpoints(stage), run.run_id)
                self.log.warning(f"{damage[0]}; going back to update {candidate.completed} of {stage}")
                run = run.with_stage(stage, **dict(candidate))
            self._warn_of_damaged_accepted(run, stage, engine)
        return run

    def _warn_of_damaged_accepted(self, run: RunState, stage: Stage, engine: Engine) -> None:
        """An accepted checkpoint that is not the newest is needed only if the chunk in hand is rejected."""
        ref = run.stages[stage].accepted
        if ref is None or ref == run.stages[stage].checkpoint:
            return
        if wrong := engine.problems(stage, self.settings.stages[stage], Path(ref.path), ref.sha256):
            checkpoints.set_aside_own(Path(ref.path), self.paths.checkpoints(stage), run.run_id)
            self.log.warning(f"{wrong[0]} The run goes on; should the chunk in hand be rejected, it cannot.")

    # --- ending -------------------------------------------------------------------------------------------------

    def _finished(self, run: RunState) -> ExitCode:
        return ExitCode.PASSED if run.state is State.PASSED else ExitCode.NOT_PASSED

    def _interrupted(self, run: RunState) -> Interrupted:
        if run.generation:
            self._commit(run.but(runner=None, interruptions=run.interruptions + 1), "interrupted", {})
        return Interrupted("interrupted; all progress is saved. The same command goes on from here.")


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
        run = run.with_stage(stage, tuning=progress.tuning.but(**tuning))
        if "n_updates" in changed:
            target = max(progress.completed, progress.target + changed["n_updates"] - old.config[f"{stage}.n_updates"])
            run = run.with_stage(stage, target=target, schedule=progress.schedule.but(end=target))
    return run
