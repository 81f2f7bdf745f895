"""Commands that do a run's work: ``run``, on one machine, and ``join``, on a further one."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tiw_fsm.cli.options import (
    RepoRoot,
    Run,
    Set,
    StateDir,
    argument,
    complete_run,
    folder_of,
    option,
    store_of,
    store_to_write,
    typed_flags,
)
from tiw_fsm.cli.terminal import err, out
from tiw_fsm.config.flags import FLAGS, Flag
from tiw_fsm.errors import TiwFsmError, UsageProblem


def remembered(flag: Flag) -> inspect.Parameter:
    """A flag that runs remember, as a parameter that typer makes an option of."""
    if flag.kind is dict:
        return inspect.Parameter(flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Set)
    names = (f"{flag.option}/--no-{flag.option[2:]}",) if flag.kind is bool else (flag.option,)
    kind: Any = Literal[flag.choices] if flag.choices else flag.kind  # typer reads the values at run time
    annotation = Annotated[kind | None, typer.Option(*names, help=flag.help, show_default=False)]
    return inspect.Parameter(flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def run(
    run_name: Annotated[str, typer.Option("--run", help="Name of the run.", autocompletion=complete_run)] = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    if_idle: Annotated[
        bool, typer.Option("--if-idle", help="Exit 0 silently if a runner is at work: for cron.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Take changed config, data, code or torch into the run.")
    ] = False,
    require_exact: Annotated[
        bool, typer.Option("--require-exact", help="Refuse to go on where the run would not be bitwise the same.")
    ] = False,
    **flags: Any,
) -> None:
    """Start a run, or resume it exactly where it stopped."""
    from tiw_fsm.engines.native import starting

    typed = typed_flags(flags)
    starting.end_unless_wanted(folder_of(run_name, repo_root, state_dir), typed)
    from tiw_fsm.run.launch import run_once

    store = store_to_write(run_name, repo_root, state_dir)
    code = run_once(
        store,
        typed,
        repo_root=repo_root,
        err=err,
        out=out,
        accept_changes=accept_changes,
        require_exact=require_exact,
    )
    raise typer.Exit(code)


def join(
    endpoint: Annotated[str, argument("HOST:PORT of the first machine, as its --rdzv-endpoint says.")],
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    nproc_per_node: Annotated[str, typer.Option(help="Processes on this machine: a number, or auto, one a GPU.")] = "1",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where GPUs are looked for.")] = "auto",
    python_exec: Annotated[Path | None, option("Interpreter of the training processes [default: this one].")] = None,
    patience: Annotated[float, typer.Option(help="Seconds to wait for a first machine that does not answer.")] = 1800,
) -> None:
    """Take part in a run of many machines, on a further one of them, until the run has ended."""
    from tiw_fsm.config import processes
    from tiw_fsm.engines.native import joining, settings
    from tiw_fsm.fsm.states import TERMINAL

    problems: list[str] = []
    per_node = processes.per_node({"nproc_per_node": nproc_per_node}, None, problems)
    try:
        address = settings.endpoint(endpoint)
    except ValueError as exc:
        problems.append(str(exc))
    if problems:
        raise UsageProblem(problems)
    store = store_of(run, repo_root, state_dir)

    def has_ended() -> bool:
        try:
            found = store.load()
        except TiwFsmError:  # the run's own start will say so
            return False
        return found is not None and found.state in TERMINAL

    interpreter = str(python_exec or sys.executable)
    joining.join(joining.Joiner(address, store.paths, per_node, device, interpreter, patience, has_ended))
    err.print(f"run {run} has ended: tiw-fsm status --run {run}", soft_wrap=True)


own = list(inspect.signature(run, eval_str=True).parameters.values())[:-1]
run.__signature__ = inspect.Signature([*own, *map(remembered, FLAGS.values())])  # type: ignore[attr-defined]
run.__annotations__ = {parameter.name: parameter.annotation for parameter in run.__signature__.parameters.values()}  # type: ignore[attr-defined]
