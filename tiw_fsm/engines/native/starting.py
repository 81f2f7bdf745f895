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
        taken(fits=False)


def taken(*, fits: bool) -> Spare | None:
    """The process that got ready, for the first who asks; it ends where it does not fit what is asked for."""
    spare = _ready.pop() if _ready else None
    if spare is not None and not fits:
        spare.close()
        return None
    return spare


def _wanted(folder: StateFolder, typed: Mapping[str, Any]) -> bool:
    found = folder.document()
    state = found.state if found else {}
    engine = {**state.get("flags", {}), **typed}.get("engine", "native")
    return engine == "native" and state.get("state") not in TERMINAL and not folder.alive()
