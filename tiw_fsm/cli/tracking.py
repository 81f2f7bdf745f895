"""``track``: what a run has committed, given to its trackers afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tiw_fsm.cli.options import RepoRoot, Run, StateDir, option, store_of
from tiw_fsm.cli.terminal import err, out


def track(
    run: Run = "default",
    repo_root: RepoRoot = Path("."),
    state_dir: StateDir = None,
    tracker: Annotated[
        list[str] | None,
        option("wandb or tensorboard; may be given twice [default: those of the run's last start]."),
    ] = None,
) -> None:
    """Bring trackers up to date with a run, of which they may have nothing yet, or all but the end."""
    from tiw_fsm.tracking import afterwards

    for name, items in afterwards.catch_up(store_of(run, repo_root, state_dir), tracker or [], err):
        out.print(f"{name} has all of run {run}: {items} items.", soft_wrap=True)
