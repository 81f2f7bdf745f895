"""Whose a run root is: it belongs to one run, which sweeps there what it does not name.

The run root says itself whose it is, since two runs that were given the same one know nothing of each other; and a
runner holds it for as long as it works there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tiw_fsm.errors import NoLocks, RunHeld, TiwFsmError, UsageProblem
from tiw_fsm.storage import state_folder
from tiw_fsm.storage.paths import RunPaths
from tiw_fsm.system import durable, locking
from tiw_fsm.values.plain import JsonObject


@contextmanager
def claimed(paths: RunPaths, run_id: str, state: Path) -> Iterator[None]:
    """Hold the run root for the run ``run_id``, whose state lies in the folder ``state``, for the length of the block.

    Raises:
        UsageProblem: it is another run's.
        RunHeld: another runner is at work there.
        DiskRefused: it cannot be written to.
        StateDamaged: what stands in the place of its files is none.
    """
    durable.make_folder(paths.run_root)
    with ExitStack() as holding:
        with suppress(NoLocks):  # a file system without locks: whose it is stands there all the same
            if not holding.enter_context(locking.held(paths.lock)):
                raise RunHeld(f"another run is at work in {paths.run_root}; give this one another --run-root")
        mine = {"run_id": run_id, "state": _seen_from(paths, state)}
        owner = _owner(paths)
        if owner != mine:
            if owner is not None and _still_there(paths, owner):
                raise UsageProblem(
                    f"{paths.run_root} belongs to another run, whose state is in {_state(paths, owner)}; give this one "
                    f"another --run or --run-root, or, if that run is not wanted any more, remove {paths.owner}"
                )
            durable.replace(paths.owner, json.dumps(mine).encode())
        yield


def _owner(paths: RunPaths) -> JsonObject | None:
    """What the run root says of its owner; None if it says nothing that can be read.

    Raises:
        StateDamaged: no plain file stands there.
    """
    with suppress(ValueError, RecursionError):
        match json.loads(durable.read_small(paths.owner)):
            case {"run_id": str(run_id), "state": str(state)}:
                return {"run_id": run_id, "state": state}
    return None


def _still_there(paths: RunPaths, owner: JsonObject) -> bool:
    """Whether the owner may come back. One that moves with the run root is seen from here; of another, nobody knows."""
    if os.path.isabs(owner["state"]):
        return True
    try:
        found = state_folder.StateFolder(_state(paths, owner)).document()
    except TiwFsmError:
        return True
    return found is not None and found.state.get("run_id") == owner["run_id"]


def _state(paths: RunPaths, owner: JsonObject) -> Path:
    return Path(os.path.normpath(paths.run_root / owner["state"]))


def _seen_from(paths: RunPaths, state: Path) -> str:
    """A state folder as the run root tells it: relative where both lie below the working root and may move with it."""
    below = all(path.is_relative_to(paths.repo_root) for path in (paths.run_root, state))
    return os.path.relpath(state, paths.run_root) if below else str(state)
