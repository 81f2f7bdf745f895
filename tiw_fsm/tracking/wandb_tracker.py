"""W&B: the n-th item is step n of one W&B run, whose id is the run's own.

Online, W&B says at which step a run goes on: by ``starting_step``, since its ``step`` is 0 until something is logged.
Offline, each process writes a folder of its own for the same run: what these hold is read from their files, and the
next one goes on from there.
"""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb
from PIL import Image

from tiw_fsm.storage import wandb_file
from tiw_fsm.system import leftovers
from tiw_fsm.tracking.images import moving_gif, still_png
from tiw_fsm.tracking.items import AXES, Item
from tiw_fsm.tracking.tracker import WITHOUT_KEY, Shown, Tracker, wandb_can_log

MARK = "TIW_FSM_TRACKS"
"""In the environment of all that W&B starts: whose it is."""
INIT_TIMEOUT = 30.0
"""Seconds that W&B may take to begin."""


class Feeder(Tracker):
    """One W&B run.

    Raises:
        ValueError: W&B has no key, or is turned off.
    """

    def __init__(self, shown: Shown) -> None:
        if not wandb_can_log():
            raise ValueError(WITHOUT_KEY)
        if os.environ.get("WANDB_MODE") == "disabled":
            raise ValueError("WANDB_MODE=disabled turns it off")
        _end_before(shown.run_id)
        os.environ |= {MARK: shown.run_id, "WANDB_SILENT": os.environ.get("WANDB_SILENT", "true")}
        self._run = wandb.init(
            id=shown.run_id,
            name=os.environ.get("WANDB_NAME", shown.run),
            project=os.environ.get("WANDB_PROJECT", shown.project),
            dir=os.environ.get("WANDB_DIR", str(shown.paths.run_root)),
            resume="allow",
            config=shown.config,
            settings=_settings(),
        )
        self._drawn: set[str] = set()
        """Groups of keys that W&B has been told the axis of."""
        self._has = _logged(self._run, shown.run_id) if self._run.offline else self._run.starting_step
        self._next = 0

    def add(self, item: Item) -> None:
        number, self._next = self._next, self._next + 1
        if number >= self._has:
            self._draw(item)
            self._run.log(_row(item), step=number, commit=True)

    def _draw(self, item: Item) -> None:
        group, axis = _group(item), f"{item.group}/{AXES[item.group]}"
        if group not in self._drawn:
            self._drawn.add(group)
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{group}/*", step_metric=axis)

    def flush(self) -> None:
        pass  # it sends on its own

    def close(self) -> None:
        self._run.finish()


def _end_before(run_id: str) -> None:
    """End W&B's own process of an earlier feeder: it outlives the process that had started it, and writes on.

    The earlier feeder may have failed in this very process: then its end is asked for once it is dead, since W&B waits
    for all that it has to send, be there a server or not.

    Raises:
        TimeoutError: it does not end.
    """
    leftovers.end(MARK, run_id)
    with suppress(Exception, SystemExit):  # it says how its own process ended, which is as it was meant
        wandb.teardown()


def _settings() -> wandb.Settings:
    given = "WANDB_INIT_TIMEOUT" in os.environ
    return wandb.Settings(console="off", silent=True, **({} if given else {"init_timeout": INIT_TIMEOUT}))


def _logged(run: wandb.Run, run_id: str) -> int:
    """How many items the folders hold that earlier processes wrote offline."""
    files = Path(run.settings.wandb_dir).glob(f"*run-*-{run_id}/run-{run_id}.wandb")
    return max((step + 1 for path in files for step in _steps(path)), default=0)


def _steps(path: Path) -> list[int]:
    try:
        return list(wandb_file.steps(path))
    except (wandb_file.NotWandb, OSError):  # killed before its first byte, or removed just now
        return []


def _group(item: Item) -> str:
    """What is told of a step for another time stands under names of its own: W&B draws a key as one line."""
    return f"{item.group}_repeat_{item.repeat}" if item.repeat else item.group


def _row(item: Item) -> dict[str, Any]:
    group = _group(item)
    row: dict[str, Any] = {f"{item.group}/{AXES[item.group]}": item.step, f"{item.group}/repeat": item.repeat}
    row |= {f"{group}/{name}": value for name, value in item.values.items()}
    if item.picture and (png := still_png(item.picture)):
        row[f"{group}/picture"] = wandb.Image(Image.open(io.BytesIO(png)))
        if item.moves and (gif := moving_gif(item.picture)):
            row[f"{group}/rollout"] = wandb.Video(io.BytesIO(gif), format="gif")
    return row
