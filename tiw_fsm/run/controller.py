"""The loop: do the state's work, take the row, commit. Everything that must survive goes through ``_commit``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tiw_fsm.engines.protocol import Engine, Hello, HelloRequest
from tiw_fsm.errors import ExitCode, Interrupted, UsageProblem
from tiw_fsm.fsm.events import Event, Facts, NoFacts, RunnerEvent, Stalled
from tiw_fsm.fsm.machine import Machine
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import TERMINAL, State
from tiw_fsm.run import resume
from tiw_fsm.run.activities import ACTIVITIES
from tiw_fsm.run.display import Display
from tiw_fsm.run.preflight import data_problems
from tiw_fsm.run.session import Context, Session
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoints, places
from tiw_fsm.storage.picture_sweep import PictureSweep
from tiw_fsm.system import durable, signals


class Controller:
    """Runs one run from wherever it is to its end, to an interruption, or to an error.

    Attributes:
        committed: the state as it was last committed; None before the first commit.
        kept: checkpoints that were spared when others were last swept; None before the first commit.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.committed = session.before
        self._machine = Machine()
        self.kept: set[str] | None = None
        self._pictures = PictureSweep(session.paths, (session.before, session.store.previous()))
        effective = places.portable(session.settings.model_dump(mode="json"), Path(session.settings.repo_root))
        self._config = json.dumps(effective, indent=1).encode()
        self._config_sha256 = hashlib.sha256(self._config).hexdigest()

    def run(self) -> ExitCode:
        """Go on until the run ends.

        Raises:
            UsageProblem, RunChanged: before anything was changed.
            Interrupted: a signal asked to stop; everything is saved and recorded.
            StateDamaged, DiskRefused: nothing committed was lost.
        """
        session, before = self.session, self.committed
        if before and before.state in TERMINAL and not resume.reopens(session, before):
            resume.refuse_other_settings(session, before)
            return _finished(before)
        engine = session.kind.make(session.settings, session.store.paths)
        try:
            hello = self._greeted(engine)
            with (
                ExitStack() as holding,
                Display(session.console) as display,
                signals.asked_to_stop(engine.stop) as stopping,
            ):
                context = Context(session, engine, hello, display, holding)
                return _finished(self._drive(context, self.begin(context), stopping))
        finally:
            engine.close()

    def _greeted(self, engine: Engine) -> Hello:
        """What the engine has. A first start that is refused is told what is wrong with the frames at once, too."""
        session, before = self.session, self.committed
        known = before.fingerprint if before else None
        request = HelloRequest(device=session.settings.device, threads=known.threads if known else None)
        try:
            return engine.hello(request)
        except UsageProblem as exc:
            also = [] if before else data_problems(session.settings, session.kind)
            raise UsageProblem([*exc.problems, *also]) from exc

    def begin(self, context: Context) -> RunState:
        """The run to go on with; of one that was there before, the start is committed."""
        if self.committed is None:
            return resume.begun(self.session, self._config_sha256)
        run, event, facts = resume.resumed(context, self.committed, self._config_sha256)
        if isinstance(event, Event):
            return self._step(run, event, facts)
        run = self._commit(run, event, facts)
        where = f", {run.progress().completed} of {run.progress().target} updates done" if run.stage else ""
        self.session.log.info(f"resuming in {run.state}{where}")
        return run

    def _drive(self, context: Context, run: RunState, stopping: Callable[[], bool]) -> RunState:
        if run.stalled_starts > run.loop.budgets.max_stalled_starts and run.state is not State.REPORT:
            run = self._step(run, Event.STALLED, Stalled(stalled_starts=run.stalled_starts))
        while run.state not in TERMINAL:
            if stopping():
                raise self._interrupted(run)
            try:
                outcome = ACTIVITIES[run.state](context, run)
            except Interrupted:
                raise self._interrupted(run) from None
            run = self._step(outcome.run, outcome.event, outcome.facts)
        return run

    def _step(self, run: RunState, event: Event, facts: Facts) -> RunState:
        return self._commit(self._machine.step(run, event), event, facts)

    def _commit(self, after: RunState, event: Event | RunnerEvent, facts: Facts) -> RunState:
        """The single commit point. Checkpoints that neither this nor the previous generation names go."""
        store, paths, before = self.session.store, self.session.paths, self.committed
        starting = before is None or (after.runner is not None and after.runner != before.runner)
        if starting:
            self._save_config(before)
        self.committed = store.commit(before, after, event, facts)
        if starting:
            store.started()
        named = self.committed.named_checkpoints() | (before.named_checkpoints() if before else set())
        if named != self.kept:
            self.kept = named
            for stage in Stage:
                checkpoints.sweep(paths.checkpoints(stage), {Path(path) for path in named}, self.committed.run_id)
        self._pictures.committed(self.committed)
        self.session.on_commit()
        return self.committed

    def _save_config(self, before: RunState | None) -> None:
        """Lay the effective configuration beside the state; the commit that follows vouches for it."""
        path = self.session.store.paths.config
        try:
            there = durable.read_small(path)
        except ValueError:
            there = b""
        if there == self._config:
            return
        if before and hashlib.sha256(there).hexdigest() != before.config_sha256:
            self.session.log.warning(f"{path} was altered or lost; it is written anew")
        durable.replace(path, self._config)

    def _interrupted(self, run: RunState) -> Interrupted:
        if run.generation:
            after = run.evolve(runner=None, interruptions=run.interruptions + 1)
            self._commit(after, RunnerEvent.INTERRUPTED, NoFacts())
        return Interrupted("interrupted; all progress is saved. The same command goes on from here.")


def _finished(run: RunState) -> ExitCode:
    return ExitCode.PASSED if run.state is State.PASSED else ExitCode.NOT_PASSED
