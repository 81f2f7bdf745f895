"""Commands about all runs at once: ``runs``, and ``runs diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tiw_fsm.cli.options import AsJson, RepoRoot, StateDir, argument, complete_run, state_dir_of, store_of
from tiw_fsm.cli.terminal import err, out, print_json
from tiw_fsm.errors import UsageProblem

runs = typer.Typer(rich_markup_mode=None)


@runs.callback(invoke_without_command=True)
def overview(
    context: typer.Context, repo_root: RepoRoot = Path("."), state_dir: StateDir = None, as_json: AsJson = False
) -> None:
    """Every run under the state folder, a line each: state, progress, last verdict; `runs diff A B` compares two."""
    if context.invoked_subcommand is not None:
        if as_json or state_dir or repo_root != Path("."):
            raise UsageProblem(f"give the flags behind `runs {context.invoked_subcommand}`")
        return
    from tiw_fsm.reporting import runs as module

    folder = state_dir_of(repo_root, state_dir)
    found = module.overview(folder)
    if as_json:
        print_json(found)
    elif found:
        for line in module.table(found):
            out.print(line, soft_wrap=True)
    else:
        err.print(f"There is no run in {folder}: `tiw-fsm run` begins one.", soft_wrap=True)


@runs.command()
def diff(
    first: Annotated[str, argument("Name of a run.", complete_run)],
    second: Annotated[str, argument("Name of another.", complete_run)],
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """What two runs were told differently, and what came of each."""
    from tiw_fsm.reporting import differences

    found = differences.between(*(store_of(name, repo_root, state_dir) for name in (first, second)))
    if as_json:
        print_json(found)
        return
    for line in differences.table(found):
        out.print(line, soft_wrap=True)
