"""tiw_fsm: a resumable state machine that trains a TinyWorlds world model until it passes its inference gate.

The names in ``__all__`` are the Python API (docs/python.md). They are loaded when they are first used, so that to
import the package costs nothing. Every other module is private and may change with any version, but for what the guide
to engines of one's own uses (docs/add-an-engine.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tiw_fsm.version import __version__

if TYPE_CHECKING:
    from tiw_fsm.api import Run, load, open_run, simulate
    from tiw_fsm.engines.protocol import Engine, EngineKind
    from tiw_fsm.engines.simulated import Script
    from tiw_fsm.errors import ExitCode, TiwFsmError
    from tiw_fsm.stages import Stage
    from tiw_fsm.tinyworlds.rollout import WorldModel
    from tiw_fsm.worlds.world import World

__all__ = [
    "Engine",
    "EngineKind",
    "ExitCode",
    "Run",
    "Script",
    "Stage",
    "TiwFsmError",
    "World",
    "WorldModel",
    "__version__",
    "load",
    "open_run",
    "simulate",
]

_HOMES = {
    "Engine": "tiw_fsm.engines.protocol",
    "EngineKind": "tiw_fsm.engines.protocol",
    "ExitCode": "tiw_fsm.errors",
    "Run": "tiw_fsm.api",
    "Script": "tiw_fsm.engines.simulated",
    "Stage": "tiw_fsm.stages",
    "TiwFsmError": "tiw_fsm.errors",
    "World": "tiw_fsm.worlds.world",
    "WorldModel": "tiw_fsm.tinyworlds.rollout",
    "load": "tiw_fsm.api",
    "open_run": "tiw_fsm.api",
    "simulate": "tiw_fsm.api",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
