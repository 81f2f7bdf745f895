"""The loop: do the state's work, take the row, commit. Everything that must survive goes through ``_commit``."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from tiw_fsm.engines.protocol import Engine, Hello, HelloChanged, HelloRequest
from tiw_fsm.errors import DiskRefused, EngineCrashed, ExitCode, Interrupted, TiwFsmError, UsageProblem
from tiw_fsm.fsm.events import DEATHS, Changed, Event, Facts, NoFacts, Refused, RunnerEvent, Stalled
from tiw_fsm.fsm.machine import Machine
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import TERMINAL, State
from tiw_fsm.run import deaths, resume, sharing
from tiw_fsm.run.activities import ACTIVITIES
from tiw_fsm.run.ahead import FrameReading
from tiw_fsm.run.display import Display
from tiw_fsm.run.outcome import Outcome
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
        self._uncounted = 0
        """Deaths of a child where no budget counts them."""
        self._given_up = False
        """The child died at its start until its budget was used up: all that is left is to report."""
        self._left: list[str] = []
        """What could not be removed when it was last tried, a sentence each."""
        self._said: set[str] = set()
        self._pictures = PictureSweep(session.paths, (session.before, session.store.previous()))
        self._starting = False
        """The next commit is this start's first."""
        self._start_counts = False
        """This start is recorded as one that has not come to anything yet."""
        effective = places.portable(session.settings.model_dump(mode="json"), Path(session.settings.repo_root))
        self._config = json.dumps(effective, indent=1).encode()
        self._config_sha256 = hashlib.sha256(self._config).hexdigest()

    def run(self) -> ExitCode:
        """Go on until the run ends.

        Raises:
            UsageProblem, RunChanged: nothing was changed.
            Interrupted: a signal asked to stop; everything is saved and recorded.
            StateDamaged, DiskRefused: nothing committed was lost.
        """
        session, before = self.session, self.committed
        if before and before.state in TERMINAL and not resume.reopens(session, before):
            resume.refuse_other_settings(session, before)
            return _finished(before)
        engine = session.kind.make(session.settings, session.store.paths)
        first = before is None and session.settings.needs_frames
        reading = FrameReading(session.settings.data) if first else None
        try:
            hello = self._greeted(engine)
            with (
                ExitStack() as holding,
                Display(session.console) as display,
                signals.asked_to_stop(lambda: self._asked_to_stop(engine)) as stopping,
            ):
                context = Context(session, engine, hello, display, holding, stopping, reading)
                return self._work(context)
        finally:
            engine.close()
            if reading:
                reading.end()

    def _asked_to_stop(self, engine: Engine) -> None:
        """A signal's handler: what must wait for nobody is done in it, and a thread of its own says what happens."""
        engine.stop()
        threading.Thread(target=self._say_what_stopping_takes).start()

    def _say_what_stopping_takes(self) -> None:
        with suppress(TiwFsmError):  # a disk that refuses the log is met, and told of, by the commit
            self.session.log.info(
                "asked to stop: what is in hand is finished and saved first. Asked once more it ends at once, and what "
                "was done since the newest checkpoint is done again"
            )

    def _work(self, context: Context) -> ExitCode:
        try:
            return _finished(self._drive(context, self._begun(context)))
        except DiskRefused as exc:
            with suppress(TiwFsmError):  # a disk that takes nothing at all: then the start has cost one of many
                self._take_back(exc)
            raise

    def _greeted(self, engine: Engine) -> Hello:
        """What the engine has. A first start that is refused is told what is wrong with the frames at once, too.

        A child that is killed at its very start is no refusal: it is started again.
        """
        session, before = self.session, self.committed
        known = before.fingerprint if before else None
        request = HelloRequest(
            device=session.settings.device,
            threads=known.threads if known else None,
            optimizers=session.settings.optimizers,
            counts=sharing.counts(before) if before and before.stages else None,
            data=session.settings.data if session.settings.needs_frames else None,
        )
        if waiting := session.kind.waits_for(session.settings, session.store.paths.folder.name):
            session.log.info(waiting)
        while not self._given_up:
            try:
                return engine.hello(request)
            except UsageProblem as exc:
                also = [] if before else data_problems(session.settings, session.kind)
                raise UsageProblem([*exc.problems, *also]) from exc
            except EngineCrashed as exc:
                self._died_early(exc, lambda: False)  # a signal ends the process here and now
        assert known is not None, "what is counted has begun, and so has a fingerprint"
        return Hello(device=known.device, torch=known.torch, threads=known.threads, processes=known.processes)

    def _begun(self, context: Context) -> RunState:
        """``begin``, however often it takes; it asks the engine whether the checkpoints can be used."""
        while not self._given_up:
            try:
                return self.begin(context)
            except HelloChanged as exc:
                context.hello = exc.hello
            except EngineCrashed as exc:
                self._died_early(exc, context.stopping)
                if context.stopping():
                    raise Interrupted("interrupted; nothing was lost. The same command goes on from here.") from None
        assert self.committed is not None
        run = resume.found_again(self.session, self.committed)
        context.claim_run_root(run)
        return run

    def _died_early(self, death: EngineCrashed, stopping: Callable[[], bool]) -> None:
        """A child died where no activity could say so. It is counted if the state has a budget for that.

        Raises:
            TiwFsmError: it has none, and this was not the first.
        """
        run = self.committed
        if run is not None and run.state in deaths.COUNTED:
            outcome = deaths.told(self.session.log, run, death)
            # Where the run's files lie now is found out, and claimed, only by a start that begins.
            self._given_up = self._take_up(outcome, stopping, sweep=False).state is State.REPORT
            return
        deaths.say(self.session.log, run, death)
        self._uncounted += 1
        if self._uncounted == deaths.UNCOUNTED:
            raise deaths.refusal(death)
        self._wait(self._uncounted, stopping)

    def _wait(self, number: int, stopping: Callable[[], bool]) -> None:
        if self.session.kind.waits_after_death:
            deaths.wait(self.session.log, number, stopping)

    def begin(self, context: Context) -> RunState:
        """The run to go on with; of one that was there before, the start is committed."""
        if self.committed is None:
            self._starting = True
            return resume.begun(self.session, self._config_sha256)
        run, event, facts = resume.resumed(context, self.committed, self._config_sha256)
        self._starting = True
        self._say(self._half_written(run))
        if isinstance(event, Event):
            return self._step(run, event, facts)
        run = self._commit(run, event, facts)
        where = f", {run.progress().completed} of {run.progress().target} updates done" if run.stage else ""
        self.session.log.info(f"resuming in {run.state}{where}")
        return run

    def _drive(self, context: Context, run: RunState) -> RunState:
        if run.stalled_starts > run.loop.budgets.max_stalled_starts and run.state is not State.REPORT:
            run = self._step(run, Event.STALLED, Stalled(stalled_starts=run.stalled_starts))
        while run.state not in TERMINAL:
            if context.stopping():
                raise self._interrupted(run)
            try:
                run = self._take_up(ACTIVITIES[run.state](context, run), context.stopping)
            except Interrupted:
                raise self._interrupted(run) from None
            except HelloChanged as exc:
                run = self._held_to_account(context, run, exc.hello)
            except EngineCrashed as exc:
                self._died_early(exc, context.stopping)
                run = self.committed or run
        return run

    def _take_up(self, outcome: Outcome, stopping: Callable[[], bool], *, sweep: bool = True) -> RunState:
        """Commit what an activity found. After a death, let what caused it pass."""
        after = self._step(outcome.run, outcome.event, outcome.facts, sweep=sweep)
        if outcome.event in DEATHS.values() and after.state is not State.REPORT:
            deaths.say_what_changed(self.session.log, outcome.run, after)
            self._wait(after.deaths, stopping)
        return after

    def _held_to_account(self, context: Context, run: RunState, hello: Hello) -> RunState:
        """A new child is not what the run was begun on: refused, or accepted and recorded, as at a start."""
        context.hello = hello
        run, changed = resume.reconciled(context, run)
        return self._commit(run, RunnerEvent.CHANGED, Changed(changed=changed)) if changed else run

    def _step(self, run: RunState, event: Event, facts: Facts, *, sweep: bool = True) -> RunState:
        return self._commit(self._machine.step(run, event), event, facts, sweep=sweep)

    def _commit(self, after: RunState, event: Event | RunnerEvent, facts: Facts, *, sweep: bool = True) -> RunState:
        """The single commit point. Checkpoints that neither this nor the previous generation names go."""
        store, before = self.session.store, self.committed
        starting, self._starting = self._starting, False
        if starting:
            self._save_config(before)
            store.keep_command(self.session.command)
        self.committed = store.commit(before, after, event, facts)
        if starting:
            store.started()
            self._start_counts = before is not None  # a run's first start counts as none
        named = self.committed.named_checkpoints() | (before.named_checkpoints() if before else set())
        if sweep and (named != self.kept or self._left):
            self.kept = named
            self._sweep()
        self._pictures.committed(self.committed)
        self.session.on_commit()
        return self.committed

    def _sweep(self) -> None:
        """Remove the checkpoints that are not needed any more, and half of one that a failure left."""
        assert self.committed is not None
        self.session.store.require_lock()  # else another runner's may be among them
        kept = {Path(path) for path in self.kept or self.committed.named_checkpoints()}
        self._left = [
            sentence
            for stage in Stage
            for sentence in checkpoints.sweep(self.session.paths.checkpoints(stage), kept, self.committed.run_id)
        ]
        self._say(self._left)

    def _half_written(self, run: RunState) -> list[str]:
        """Remove the files that runners of this run left half written when they died; what cannot be removed yet."""
        paths = self.session.paths
        own = dict.fromkeys([self.session.store.paths.folder, *paths.replaced_in], "")
        shared = dict.fromkeys([paths.inference_results, paths.reports], run.mark)
        return [
            sentence
            for folder, named in {**own, **shared}.items()
            for sentence in durable.remove_half_written(folder, named)
        ]

    def _say(self, sentences: list[str]) -> None:
        """Warn, of each thing once."""
        for sentence in sentences:
            if sentence not in self._said:
                self._said.add(sentence)
                self.session.log.warning(sentence)

    def _take_back(self, exc: DiskRefused) -> None:
        """A start that the disk refused costs nothing: it does not count as one without progress."""
        run = self.committed
        if run is None or not self._start_counts:
            return
        self._sweep()  # first: what is half written takes the place that the commit needs
        starts = max(0, run.stalled_starts - 1)
        self._commit(run.evolve(runner=None, stalled_starts=starts), RunnerEvent.REFUSED, Refused(error=str(exc)))

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
