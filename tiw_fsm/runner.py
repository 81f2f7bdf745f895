"""One ``tiw-fsm run``: take the lock, load the state, merge flags, drive the controller, say how it ended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from structlog.typing import FilteringBoundLogger

from tiw_fsm import advice, page_file
from tiw_fsm.config import Settings
from tiw_fsm.controller import Controller
from tiw_fsm.display import Display
from tiw_fsm.engines.checkout import CheckoutEngine
from tiw_fsm.engines.native import NativeEngine
from tiw_fsm.engines.protocol import Engine
from tiw_fsm.engines.simulated import SimulatedEngine
from tiw_fsm.errors import ExitCode, RunChanged, StateDamaged, TiwFsmError, UsageProblem
from tiw_fsm.log import make_log
from tiw_fsm.run_state import RunState
from tiw_fsm.settings import load_settings
from tiw_fsm.states import TERMINAL
from tiw_fsm.status import print_rows
from tiw_fsm.store import Store
from tiw_fsm.wording import near


def make_engine(settings: Settings, store: Store) -> Engine:
    """The engine the settings ask for."""
    if settings.engine == "simulated":
        return SimulatedEngine()
    if settings.engine == "checkout":
        return CheckoutEngine(settings, store.paths)
    return NativeEngine(settings.python_exec, store.paths, settings.loop.max_silence)


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
    with store.hold(), word_of_refusals(store):
        before, damage = store.resume()
        flags = {**(before.flags if before else {}), **typed}
        settings = load_settings(flags, run=store.paths.folder.name, repo_root=repo_root)
        log = make_log(err, store.paths.log)
        for what in damage:
            log.warning(f"{what} Going on from the generation before.")
        keeper = page_file.Keeper(store, log)
        with Display(err) as display:
            controller = Controller(
                settings,
                flags,
                store,
                before,
                make_engine=make_engine,
                display=display,
                log=log,
                accept_changes=accept_changes,
                require_exact=require_exact,
                on_commit=keeper.committed,
            )
            try:
                code = controller.run()
            except TiwFsmError:
                raise
            except Exception:
                log.error("a bug in tiw-fsm; the state is as last committed", exc_info=True)
                raise
            finally:
                if controller.committed is not before:
                    keeper.ended()
        ended = controller.committed
        assert ended is not None
        with suppress(OSError):  # a full disk behind standard output: the run has ended all the same
            say_how_it_ended(out, ended)
    if settings.loop.on_finish and not (before and before.state in TERMINAL and before.generation == ended.generation):
        tell_the_user(settings.loop.on_finish, ended, code, Path(settings.repo_root), log)
    return code


def tell_the_user(command: str, run: RunState, code: ExitCode, folder: Path, log: FilteringBoundLogger) -> None:
    """Run ``on_finish``, once, with the run let go of. Whatever becomes of it, the outcome stands."""
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
    done = subprocess.run(command, shell=True, cwd=folder, env=os.environ | environment, check=False)
    if done.returncode:
        log.warning(f"on_finish ended with {done.returncode}; the outcome stands: {command}")


@contextmanager
def word_of_refusals(store: Store) -> Iterator[None]:
    """Whoever looks at a run that cron starts in vain shall find out why it does not go on."""
    try:
        yield
    except (UsageProblem, StateDamaged, RunChanged) as exc:
        if store.paths.state.exists():
            store.refuse(exc.exit_code, str(exc))
            with suppress(Exception):  # of a run that cannot be read there is no page either
                page_file.refresh(store, alive=False)
        raise


def say_how_it_ended(out: Console, run: RunState) -> None:
    """The outcome, its figures, where pictures and reports are, and what to do next."""
    attempt = run.inference.attempts[-1] if run.inference.attempts else None
    rows: list[tuple[str, Any]] = [("outcome", f"{(run.outcome or '').upper()}: {run.reason}")]
    if attempt is not None and attempt.mse is not None:
        rows += [("MSE", f"{attempt.mse:.4f} (max {attempt.max_mse:g})")]
        rows += [(f"  {name}", f"{value:.4f}") for name, value in attempt.baselines.items()]
        if attempt.skill is not None:
            note = "" if attempt.skill > 0 else " (no better than a trivial prediction)"
            rows += [("skill", f"{attempt.skill:+.3f}{note}")]
        rows += [("picture", near(attempt.png))]
    rows += [("report", near(path)) for path in run.reports]
    rows += [("next", step) for step in advice.next_steps(run)]
    rows += [("look further", f"tiw-fsm status --run {run.run}")]
    print_rows(out, rows)
