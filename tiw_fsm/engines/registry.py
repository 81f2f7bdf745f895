"""Which engines there are: ours by name, and those that other packages bring by an entry point."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from tiw_fsm.engines.protocol import EngineKind
from tiw_fsm.errors import UsageProblem

GROUP = "tiw_fsm.engines"
"""Of the entry points that name an ``EngineKind`` instance."""
BUILT_IN = {
    "native": "tiw_fsm.engines.native.kind",
    "checkout": "tiw_fsm.engines.checkout.kind",
    "simulated": "tiw_fsm.engines.simulated",
}
"""Our engines: the module whose ``KIND`` describes each."""


def find(name: str) -> EngineKind:
    """The engine that ``--engine`` calls ``name``.

    Raises:
        UsageProblem: there is none, or it cannot be used.
    """
    if name in BUILT_IN:
        kind: EngineKind = import_module(BUILT_IN[name]).KIND
        return kind
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if name not in installed:
        known = ", ".join([*BUILT_IN, *sorted(installed)])
        raise UsageProblem(f"--engine {name}: no such engine; there are {known}")
    return _loaded(installed[name])


def _loaded(point: EntryPoint) -> EngineKind:
    try:
        kind = point.load()
    except Exception as exc:  # somebody else's code
        raise UsageProblem(
            f"--engine {point.name}: {point.value} cannot be imported ({exc}); mend or remove it"
        ) from exc
    if not isinstance(kind, EngineKind):
        raise UsageProblem(f"--engine {point.name}: {point.value} is no instance of tiw_fsm's EngineKind; correct it")
    return kind
