"""``track``: what a run has committed, given to its trackers afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tiw_fsm.cli.options import RepoRoot, Run, StateDir, option, store_of
from tiw_fsm.cli.terminal import out, progress

if TYPE_CHECKING:
    from tiw_fsm.storage.store import Store


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

    store = store_of(run, repo_root, state_dir)
    for name in afterwards.named(store, tracker or []):
        out.print(f"{name} has all of run {run}: {_fed(store, name)} items.", soft_wrap=True)


def _fed(store: Store, name: str) -> int:
    """How many items a tracker has once it has caught up; meanwhile that is shown."""
    from tiw_fsm.tracking import afterwards

    with progress(name) as show:
        return afterwards.catch_up(store, name, lambda items: show(0, None, f"{name}: {items} items"))
