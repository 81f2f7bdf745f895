"""How the training process is started: in which environment, and before anybody knows what it has to do.

torch takes longer to be imported than all that the controller does until it needs the process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tiw_fsm.errors import TiwFsmError
from tiw_fsm.fsm.states import TERMINAL
from tiw_fsm.storage.state_folder import StateFolder
from tiw_fsm.system import processors
from tiw_fsm.system.child import Spare
from tiw_fsm.tinyworlds import determinism

QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Of torch's own words, where nobody wants more: what it warns of is expected between machines that come and go."""
IMPORTED = ("torch", "numpy", "h5py", "pydantic")
"""What every training process imports of other packages and takes long."""
NOT_SPARE = frozenset({"python_exec", "nproc_per_node", "nnodes"})
"""Flags with which the training process may be another, or several."""
_ready: list[Spare] = []
"""One at most: like what a signal does, it is this process's."""


def environment() -> dict[str, str]:
    """The child's: ours, but that no module is looked for in the working directory, which an empty entry names too.

    So have its ranks, if it is their launcher.
    """
    path = os.pathsep.join(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    defaults = QUIET | processors.wait_policy(os.environ)
    return defaults | os.environ | determinism.ENVIRONMENT | {"PYTHONSAFEPATH": "1", "PYTHONPATH": path}


def get_ready() -> None:
    """Have a process get ready to become the training process of whatever run this command will be about.

    It ends with this one at the latest, and before that where nobody wants it.
    """
    with suppress(TiwFsmError, OSError):  # whatever is wrong is told of where it matters
        _ready.append(Spare(*IMPORTED, environment=environment()))


def end_unless_wanted(folder: Path, typed: Mapping[str, Any]) -> None:
    """End the process that got ready where this start will not want it, as far as a look at the run tells.

    Args:
        folder: the run's state folder, which need not exist.
        typed: flags that were typed at this start, by name.
    """
    wanted = False
    with suppress(TiwFsmError, OSError):
        wanted = _wanted(StateFolder(folder), typed)
    if not wanted:
        end()


def taken() -> Spare | None:
    """The process that got ready, for the first who asks."""
    return _ready.pop() if _ready else None


def end() -> None:
    """End the process that got ready, if nobody took it."""
    if (spare := taken()) is not None:
        spare.close()


def _wanted(folder: StateFolder, typed: Mapping[str, Any]) -> bool:
    found = folder.document()
    state = found.state if found else {}
    flags = {**state.get("flags", {}), **typed}
    has_ended = state.get("state") in TERMINAL
    return not (has_ended or folder.alive() or NOT_SPARE & flags.keys()) and flags.get("engine", "native") == "native"
