"""``tiw-fsm track``: trackers are brought up to date with a run that may have ended long ago."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tiw_fsm.errors import UsageProblem
from tiw_fsm.storage.store import Store
from tiw_fsm.system.needs import installed
from tiw_fsm.tracking.feeding import Status, feed
from tiw_fsm.tracking.tracker import MODULES, wanted


def named(store: Store, names: Sequence[str]) -> list[str]:
    """The trackers to feed: those of these ``names``, or those of the run's last start.

    Raises:
        UsageProblem: the run has not begun or has no tracker, or one is not installed.
        StateDamaged, DiskRefused: its state or its configuration cannot be read.
    """
    run = store.load()
    if run is None:
        raise UsageProblem(f"run {store.paths.folder.name!r} has not begun; there is nothing to track")
    notes: list[str] = []
    if not names:
        names, notes = wanted(store.settings(run))
    if not names:
        raise UsageProblem(
            [*notes, "the run was told of no tracker: name one with --tracker wandb or --tracker tensorboard"]
        )
    if unknown := [name for name in names if name not in MODULES]:
        raise UsageProblem(f"--tracker {unknown[0]} is none of {', '.join(MODULES)}")
    if missing := [name for name in names if not installed(name)]:
        raise UsageProblem([f"{name} is not installed: pip install 'tiw_fsm[{name}]'" for name in missing])
    return list(dict.fromkeys(names))


def catch_up(store: Store, name: str, each: Callable[[int], None] = lambda items: None) -> int:
    """Feed one tracker with all that it lacks; how many items it has then.

    Args:
        each: is told, again and again, how many it has.

    Raises:
        UsageProblem: it failed.
        RunHeld: another process feeds it.
    """
    last = Status()

    def look(status: Status) -> None:
        nonlocal last
        last = status
        each(status.items)

    feed(store, name, lambda seconds: True, look)
    if last.reason:
        raise UsageProblem(f"{name} was not fed: {last.reason}. Mend that, and run `tiw-fsm track` again")
    return last.items
