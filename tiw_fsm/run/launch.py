"""One ``tiw-fsm run``: take the lock, load the state, merge flags, drive the controller, say how it ended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from tiw_fsm.errors import (
    DiskRefused,
    ExitCode,
    MemoryRefused,
    NoLocks,
    NotPermitted,
    RunChanged,
    StateDamaged,
    TiwFsmError,
    UsageProblem,
)
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import TERMINAL
from tiw_fsm.reporting import advice
from tiw_fsm.reporting.figures import figures
from tiw_fsm.reporting.html.current import PageWriter
from tiw_fsm.reporting.screen import print_rows
from tiw_fsm.reporting.wording import near
from tiw_fsm.run.controller import Controller
from tiw_fsm.run.session import Session
from tiw_fsm.storage.store import Store
from tiw_fsm.system import killer
from tiw_fsm.tracking.alongside import Trackers


def run_once(
    store: Store,
    typed: Mapping[str, Any],
    *,
    repo_root: Path,
    err: Console,
    out: Console,
    accept_changes: bool = False,
    require_exact: bool = False,
) -> ExitCode:
    """Start or resume a run and go on until it ends. Typed flags win over those saved at earlier starts.

    Raises:
        TiwFsmError: as ``Controller.run`` says; also RunHeld.
    """
    if accept_changes and require_exact:
        raise UsageProblem("--accept-changes takes changes in and --require-exact refuses them; give one of the two")
    with trackers_let_go(store, err) as trackers:
        with store.hold(), word_of_refusals(store):
            session = Session.open(
                store,
                typed,
                repo_root=repo_root,
                console=err,
                accept_changes=accept_changes,
                require_exact=require_exact,
            )
            code, ended = run_session(session, trackers)
            with suppress(OSError):  # a full disk behind standard output: the run has ended all the same
                say_how_it_ended(out, ended)
            before = session.before
            had_ended = before and before.state in TERMINAL and before.generation == ended.generation
            told = had_ended or not session.command or not command_is_kept(session)
        if not told:
            tell_the_user(session, ended, code)
    return code


@contextmanager
def trackers_let_go(store: Store, err: Console) -> Iterator[Trackers]:
    """Trackers that may take the rest when all is done and said: in a hurry, where it was cut short."""
    trackers, hurry = Trackers(store), True
    try:
        yield trackers
        hurry = False
    finally:
        say = partial(err.print, style="yellow", soft_wrap=True)
        trackers.close(hurry=hurry, say=say)


def command_is_kept(session: Session) -> bool:
    """Whether the command of ``on_finish`` stands in its file, as this start has read it, to be run from there."""
    try:
        session.store.keep_command(session.command)
    except DiskRefused as exc:
        session.log.warning(f"on_finish is not run: {exc}")
        return False
    return True


def run_session(session: Session, trackers: Trackers) -> tuple[ExitCode, RunState]:
    """Go on until the run ends, its page kept current and its trackers fed; the exit code and the state it ended in.

    Raises:
        TiwFsmError: as ``Controller.run`` says.
    """
    page_writer = PageWriter(session.store, session.log)
    trackers.start(session.settings, session.log)

    def committed() -> None:
        page_writer.committed()
        trackers.committed()

    session.on_commit = committed
    controller = Controller(session)
    try:
        code = controller.run()
    except TiwFsmError:
        raise
    except Exception as exc:
        if killer.is_shortage(exc):
            raise MemoryRefused(
                f"memory did not suffice for the controller: {exc!r}. Nothing committed was lost; {killer.REMEDY}, and "
                "run again."
            ) from exc
        session.log.error("a bug in tiw-fsm; the state is as last committed", exc_info=True)
        raise
    finally:
        if controller.committed is not session.before:
            page_writer.ended()
    assert controller.committed is not None
    return code, controller.committed


def tell_the_user(session: Session, run: RunState, code: ExitCode) -> None:
    """Run ``on_finish``, once, with the run let go of. Whatever becomes of it, the outcome stands.

    It is run from its file, for what is typed on a command line is there for all to see.
    """
    attempt = run.inference.attempts[-1] if run.inference.attempts else None
    outcome = {
        "TIW_RUN": run.run,
        "TIW_OUTCOME": run.outcome,
        "TIW_EXIT_CODE": int(code),
        "TIW_REASON": run.reason,
        "TIW_MSE": attempt and attempt.mse,
        "TIW_SKILL": attempt and attempt.skill,
        "TIW_REPORT": run.reports[0] if run.reports else None,
    }
    environment = {name: str(value) for name, value in outcome.items() if value is not None}
    script = session.store.paths.on_finish
    done = subprocess.run(
        ["/bin/sh", script], cwd=session.settings.repo_root, env=os.environ | environment, check=False
    )
    if done.returncode:
        session.log.warning(f"on_finish ended with {done.returncode}; the outcome stands. The command is in {script}")


@contextmanager
def word_of_refusals(store: Store) -> Iterator[None]:
    """Whoever looks at a run that cron starts in vain shall find out why it does not go on."""
    try:
        yield
    except (UsageProblem, StateDamaged, RunChanged, NotPermitted, NoLocks) as exc:
        with suppress(Exception):  # where no word can be left, and of a run that cannot be read there is no page either
            if store.paths.state.exists():
                store.refuse(exc.exit_code, str(exc))
                from tiw_fsm.reporting.html import writer

                writer.refresh(store, alive=False)
        raise


def say_how_it_ended(out: Console, run: RunState) -> None:
    """The outcome, its figures, where pictures and reports are, and what to do next."""
    attempt = run.inference.attempts[-1] if run.inference.attempts else None
    rows: list[tuple[str, Any]] = [("outcome", f"{(run.outcome or '').upper()}: {run.reason}")]
    if attempt is not None and attempt.mse is not None:
        rows += [("MSE", f"{attempt.mse:.4f} (max {attempt.max_mse:g})")]
        rows += [(f"  {name}", f"{value:.4f}") for name, value in attempt.baselines.items()]
        told = attempt.model_dump()
        rows += [*figures(told).items(), *(("note", note) for note in advice.verdict(told).notes)]
        rows += [("picture", near(attempt.png))]
    rows += [("report", near(path)) for path in run.reports]
    rows += [("next", step) for step in advice.next_steps(run)]
    rows += [("look further", f"tiw-fsm status --run {run.run}")]
    print_rows(out, rows)
