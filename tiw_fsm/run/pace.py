"""How long a run will take on a CPU, told before its first update: only where that is long."""

from __future__ import annotations

import os

from tiw_fsm.config.settings import Settings
from tiw_fsm.engines.protocol import EngineKind
from tiw_fsm.system import processors

DAY = 86400.0
"""Seconds of all updates from which on it is told of."""
UNITS = ((DAY, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "s"), (1e-3, "ms"))
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What is there where torch may find a GPU: NVIDIA's and AMD's drivers, and that of Windows' Linux."""


def told_here(settings: Settings, kind: EngineKind) -> str | None:
    """As ``told``, for this machine, as far as can be known without torch; None where it may have a GPU to use."""
    if settings.device == "cuda" or (settings.device == "auto" and any(map(os.path.exists, GPUS))):
        return None
    return told(settings, kind, processors.share(os.cpu_count() or 1))


def told(settings: Settings, kind: EngineKind, threads: int) -> str | None:
    """What an update of the longest stage, and all of the run, will take on ``threads`` of a CPU, and what would fit;
    None unless they take long."""
    estimates = {
        stage: kind.seconds_of_update(stage, config, threads)
        for stage, config in settings.stages.items()
        if settings.trains(stage)
    }
    known = {stage: seconds for stage, seconds in estimates.items() if seconds is not None}
    whole = {stage: seconds * settings.stages[stage].n_updates for stage, seconds in known.items()}
    total = sum(whole.values())
    if total < DAY:
        return None
    longest = max(whole, key=whole.__getitem__)
    updates = sum(settings.stages[stage].n_updates for stage in known)
    cpus = "one CPU" if threads == 1 else f"{threads} CPUs"
    return (
        f"by its sizes, on {cpus} an update of {longest} will take about {_about(known[longest])} at best, and all "
        f"{updates:,} of the run about {_about(total)}: use a GPU, or begin with configs/demo, which takes minutes "
        "(`tiw-fsm init --demo` writes it)"
    )


def _about(seconds: float) -> str:
    """A length of time as a guess may be told, in one unit."""
    size, unit = next(((size, unit) for size, unit in UNITS if seconds >= size), UNITS[-1])
    return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
