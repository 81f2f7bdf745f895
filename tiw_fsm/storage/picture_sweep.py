"""Which of a run's pictures stay: a run of a month draws tens of thousands, and the newest are looked at.

Metrics, results and the journal keep every figure. Of the pictures that several runs may draw in one folder, those of
inference, only those go that this run's states have named; those of its chunks lie in its own run root, and are told by
their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.stages import Stage
from tiw_fsm.storage.paths import RunPaths

CHUNKS = 8
"""Chunk attempts of a stage whose pictures stay, the newest; of inference attempts, those that the state has."""


class PictureSweep:
    """Removes, after each commit, what has become too much.

    Args:
        states: those on the disk now, newest and before: after a kill, what only the older one names still has to go.
    """

    def __init__(self, paths: RunPaths, states: Iterable[RunState | None]) -> None:
        self._paths = paths
        self._inferred = {name for run in states if run for name in _inferred(run)}
        self._drawn: dict[Stage, str] = {}

    def committed(self, run: RunState) -> None:
        """``run`` is the state on the disk. A picture that the disk does not let go stays."""
        named = _inferred(run)
        for name in self._inferred - named:
            _remove(self._paths.inference_results / name)
        self._inferred = named
        for stage, progress in run.stages.items():
            if progress.picture and self._drawn.get(stage) != progress.picture:
                self._drawn[stage] = progress.picture
                self._sweep(stage, Path(progress.picture).name)

    def _sweep(self, stage: Stage, newest: str) -> None:
        pattern = re.compile(self._paths.chunk_picture(stage, r"\d+", r"(\d+)").name.replace(".", r"\."))
        if last := pattern.fullmatch(newest):
            with suppress(OSError):
                for path in list(self._paths.visualizations(stage).iterdir()):
                    found = pattern.fullmatch(path.name)
                    if found and int(found[1]) <= int(last[1]) - CHUNKS:
                        _remove(path)


def _inferred(run: RunState) -> set[str]:
    """Names of the inference pictures that a state names."""
    best = [run.inference.best] if run.inference.best else []
    return {Path(attempt.png).name for attempt in [*run.inference.attempts, *best] if attempt.png}


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
