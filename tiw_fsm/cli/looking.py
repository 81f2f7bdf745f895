"""Commands that show a run, and change nothing: ``status``, ``graph``, ``history``, ``metrics``, ``report``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tiw_fsm.cli.options import AsJson, RepoRoot, Run, RunName, StateDir, folder_of, option, places_typed, store_of
from tiw_fsm.cli.terminal import err, out, print_json, standard_output
from tiw_fsm.errors import UsageProblem
from tiw_fsm.reporting.wording import near, not_begun
from tiw_fsm.stages import Stage
from tiw_fsm.storage.state_folder import StateFolder
from tiw_fsm.system import durable


def status(
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every 2 seconds, until the run ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Where the run is and what happens next."""
    from tiw_fsm.reporting import screen
    from tiw_fsm.reporting import status as module

    folder = StateFolder(folder_of(run, repo_root, state_dir))
    if watch:
        screen.watch(out, lambda: module.status(folder), every=2.0)
        return
    found = module.status(folder)
    if as_json:
        print_json(found)
    else:
        screen.show(out, found)


def graph(run: Run = "default", repo_root: RepoRoot = Path("."), state_dir: StateDir = None) -> None:
    """The state machine as Mermaid, from the live table, with the run's state and the ways it took."""
    from tiw_fsm.reporting.journal import taken
    from tiw_fsm.reporting.mermaid import mermaid

    store = store_of(run, repo_root, state_dir)
    found = store.load()
    with standard_output() as file:
        print(mermaid(found.state, taken(store.lines())) if found else mermaid(), file=file)
    if found is None:
        err.print(not_begun(run), soft_wrap=True)


def history(
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    since: Annotated[str | None, option("Only from then on: 2026-01-31T12:00, or 2h for two hours ago.")] = None,
    state: Annotated[str | None, option("Only steps out of or into this state.")] = None,
    all_steps: Annotated[
        bool, typer.Option("--all", help="Every step by itself, not the last 200 alone; --json has all.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What happened, step by step, and how long each took."""
    from tiw_fsm.fsm.states import State
    from tiw_fsm.reporting import history as module

    if state is not None and state.upper() not in list(State):
        raise UsageProblem(f"--state {state} is none of {', '.join(State)}")
    store = store_of(run, repo_root, state_dir)
    begun = store.load()
    moment = module.moment(since) if since else None
    state = state and state.upper()
    every = module.entries(store.lines(), since=moment, state=state)
    if as_json:
        with standard_output() as file:
            module.write_json(every, file.write)
        return
    shown = module.show(out, every if all_steps else module.folded(module.latest(store, since=moment, state=state)))
    out.print(module.conclusion(begun.generation if begun else 0, shown, run), soft_wrap=True)


def metrics(
    run: RunName = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    stage: Annotated[Stage | None, option("Of this stage alone [default: of all].")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Every update, as CSV to standard output.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the CSV to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Losses, rates and all else that every committed update measured, as CSV; without --csv, what there is of it."""
    from tiw_fsm.reporting import metrics as module
    from tiw_fsm.reporting.rows import Committed
    from tiw_fsm.reporting.screen import print_rows

    if as_json and (as_csv or output):
        raise UsageProblem("--json tells what there is, --csv and --output give it; give one of them")
    if output and output.exists() and not output.is_file():
        raise UsageProblem(f"--output {output}: is no file, and would be replaced by one; name a file")
    committed = Committed(store_of(run, repo_root, state_dir))
    wanted = [each for each in committed.stages if stage in (None, each)]
    if output:
        with durable.written_whole(output.resolve()) as file:
            count = module.write_csv(committed, wanted, file)
        out.print(f"{output} has {count} updates of run {run}, a line each.", soft_wrap=True)
    elif as_csv:
        with standard_output() as file:
            module.write_csv(committed, wanted, file)
    elif as_json:
        print_json({"run": run, "stages": module.summary(committed, wanted)})
    else:
        print_rows(out, [("run", run), *module.told(module.summary(committed, wanted))])
        command = shlex.join(
            ["tiw-fsm", "metrics", run, *places_typed(repo_root, state_dir), "--csv", "-o", "metrics.csv"]
        )
        out.print(f"`{command}` writes all of them, a line each.", soft_wrap=True)


def report(
    run: Run = "default", repo_root: RepoRoot = Path("."), state_dir: StateDir = None, as_json: AsJson = False
) -> None:
    """The run as one HTML page that opens from disk; a run at work keeps it current by itself."""
    from tiw_fsm.reporting.html import writer

    path = writer.write_now(store_of(run, repo_root, state_dir))
    if as_json:
        print_json({"path": path and str(path)})
        return
    sentence = f"{near(str(path))} is written: open it in a browser." if path else not_begun(run)
    out.print(sentence, soft_wrap=True)
