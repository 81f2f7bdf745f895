"""``tiw-fsm track``: trackers are brought up to date with a run that may have ended long ago."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import Progress

from tiw_fsm.config.settings import Settings
from tiw_fsm.errors import StateDamaged, UsageProblem
from tiw_fsm.storage.store import Store
from tiw_fsm.system.needs import installed
from tiw_fsm.tracking.feeding import Status, feed
from tiw_fsm.tracking.tracker import MODULES, wanted


def catch_up(store: Store, names: Sequence[str], console: Console) -> Iterator[tuple[str, int]]:
    """Feed the trackers of these ``names``, or those of the run's last start; each, and how many items it has.

    Raises:
        UsageProblem: the run has not begun or has no tracker, one is not installed, or one failed.
        RunHeld: another process feeds one.
    """
    run = store.load()
    if run is None:
        raise UsageProblem(f"run {store.paths.folder.name!r} has not begun; there is nothing to track")
    names = names or _of_last_start(store)
    if unknown := [name for name in names if name not in MODULES]:
        raise UsageProblem(f"--tracker {unknown[0]} is none of {', '.join(MODULES)}")
    if missing := [name for name in names if not installed(name)]:
        raise UsageProblem([f"{name} is not installed: pip install 'tiw_fsm[{name}]'" for name in missing])
    for name in dict.fromkeys(names):
        yield name, _fed(store, name, console).items


def _fed(store: Store, name: str, console: Console) -> Status:
    with Progress("{task.description}", console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name)
        last = Status()

        def look(status: Status) -> None:
            nonlocal last
            last = status
            bar.update(task, description=f"{name}: {status.items} items")

        feed(store, name, lambda seconds: True, look)
    if last.reason:
        raise UsageProblem(f"{name} was not fed: {last.reason}. Mend that, and run `tiw-fsm track` again")
    return last


def _of_last_start(store: Store) -> list[str]:
    run = store.load()
    assert run is not None
    try:
        settings = Settings.model_validate_json(json.dumps(store.config(run)))
    except ValueError as exc:
        raise StateDamaged(f"{store.paths.config} cannot be used ({exc}); name trackers with --tracker") from exc
    names, notes = wanted(settings)
    if not names:
        raise UsageProblem(
            [*notes, "the run was told of no tracker: name one with --tracker wandb or --tracker tensorboard"]
        )
    return names
