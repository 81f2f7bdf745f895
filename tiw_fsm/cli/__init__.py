"""The command line. Commands parse, call, print and turn errors into exit codes; nothing is decided here."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tiw_fsm.cli import checking, exporting, gathering, looking, many, playing, running, scheduling, starting, tracking
from tiw_fsm.cli.terminal import err, help_told, out
from tiw_fsm.errors import ExitCode, Interrupted, RunHeld, TiwFsmError, refusal
from tiw_fsm.system import killer
from tiw_fsm.version import __version__

app = typer.Typer(
    name="tiw-fsm",
    help="Train a TinyWorlds world model until it passes its inference gate, resuming wherever it was stopped.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS = (
    starting.demo,
    starting.init,
    running.run,
    running.join,
    looking.status,
    looking.graph,
    looking.history,
    looking.metrics,
    looking.report,
    checking.check,
    checking.verify,
    scheduling.schedule,
    tracking.track,
    gathering.frames,
    gathering.record,
    starting.download,
    playing.play,
    exporting.export,
)
"""In the order in which ``--help`` has them."""
CLASSES = {checking.verify: checking.BareReplay, exporting.export: exporting.BareVideo}
"""Of commands that read their words in a way of their own."""
for command in COMMANDS:
    app.command(cls=CLASSES.get(command))(command)
app.add_typer(many.runs, name="runs")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


@contextmanager
def permission_told() -> Iterator[None]:
    """What the system does not permit is no bug, wherever it is met: whose the file is has to be said."""
    try:
        yield
    except PermissionError as exc:
        if exc.filename is None:
            raise
        raise refusal("using", Path(os.fsdecode(exc.filename)), exc) from exc


def main() -> None:
    """Entry point: errors become messages and exit codes here and nowhere else."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a letter shall not cost the answer
    try:
        with permission_told(), help_told():
            app()
    except TiwFsmError as exc:
        if isinstance(exc, RunHeld) and "--if-idle" in sys.argv:
            sys.exit(ExitCode.PASSED)
        err.print(str(exc), style="yellow" if isinstance(exc, Interrupted) else "red", soft_wrap=True)
        sys.exit(exc.exit_code)
    except Exception as exc:
        if killer.is_shortage(exc):
            err.print(f"memory does not suffice: {exc!r}; {killer.REMEDY}, and run again.", style="red", soft_wrap=True)
            sys.exit(ExitCode.DISK)
        traceback.print_exc()
        err.print("This is a bug in tiw-fsm: state is untouched. The traceback above is what to report.", style="red")
        sys.exit(ExitCode.BUG)
