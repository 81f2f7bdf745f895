"""``play``: a run's world model under the keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tiw_fsm.cli.options import RepoRoot, RunName, StateDir, folder_of
from tiw_fsm.cli.terminal import out


def play(
    run: RunName = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    terminal: Annotated[bool, typer.Option("--terminal", help="Play in this terminal instead of a browser.")] = False,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto, cpu or cuda.")] = "auto",
    port: Annotated[int, typer.Option(help="Port of the page; 0 takes one that is free.", min=0, max=65535)] = 8008,
    host: Annotated[
        str, typer.Option(help="Address to listen at; on another than loopback the page wants the token printed.")
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page in a browser.")] = False,
) -> None:
    """Play a run's world model with the keyboard, in a browser or in the terminal."""
    from tiw_fsm.api import open_run
    from tiw_fsm.play import launch

    folder = folder_of(run, repo_root, state_dir)
    played = open_run(run, state_dir=folder.parent)
    if terminal:
        launch.play_in_terminal(played, device=device, out=out)
    else:
        launch.play_in_browser(played, device=device, host=host, port=port, browser=not no_browser, out=out)
