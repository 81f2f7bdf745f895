"""What trackers have of a run, read from their own records with their own readers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from tests.support.run_folder import RunFolder
from tiw_fsm.stages import Stage
from tiw_fsm.storage import wandb_file


class Row(NamedTuple):
    """An update of a stage, as a tracker has it."""

    stage: str
    update: int
    loss: float


def committed(run: RunFolder) -> list[Row]:
    """The rows of the metrics files: what trackers should have, each once."""
    rows = [(stage, row) for stage in Stage for row in run.rows(stage)]
    finite = [(stage, row) for stage, row in rows if row["loss"] is not None]
    return sorted(Row(stage, row["update"] + 1, _single(row["loss"])) for stage, row in finite)


def wandb_history(root: Path) -> list[dict[str, Any]]:
    """The rows of all folders that W&B has of the run offline, in the order of their steps."""
    files = root.glob("results/default/wandb/offline-run-*/run-*.wandb")
    return sorted((row for path in files for row in _history(path)), key=lambda row: int(row["_step"]))


def _history(path: Path) -> list[dict[str, Any]]:
    try:
        return wandb_file.history(path)
    except wandb_file.NotWandb:  # of a process that was killed before its first byte
        return []


def wandb_runs(root: Path) -> set[str]:
    """The ids of the runs that W&B has."""
    return {path.name.rpartition("-")[2] for path in root.glob("results/default/wandb/*run-*")}


def wandb_rows(root: Path) -> list[Row]:
    return losses_in(wandb_history(root))


def losses_in(history: list[dict[str, Any]]) -> list[Row]:
    """The losses in W&B's rows, and that those of repeated chunks are marked."""
    rows = []
    for row in history:
        for key, loss in row.items():
            group, _, name = key.rpartition("/")
            stage, _, repeat = group.partition("_repeat_")
            if name == "loss":
                assert row[f"{stage}/repeat"] == int(repeat or 0)
                rows.append(Row(stage, row[f"{stage}/update"], _single(loss)))
    return sorted(rows)


def event_files(root: Path) -> list[Path]:
    """TensorBoard's, that of the run itself first."""
    return sorted(root.glob("results/default/tensorboard/**/events.*"), key=lambda path: path.parent.name[0] != "t")


def tensorboard_values(root: Path) -> Iterator[tuple[str, str, int, Any]]:
    """Folder, tag, step and value of all that TensorBoard has."""
    for path in event_files(root):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                yield path.parent.name, value.tag, event.step, tensor_util.make_ndarray(value.tensor)


def tensorboard_rows(root: Path) -> list[Row]:
    """Its losses; in none of its runs has a tag a step twice."""
    seen = [(folder, tag, step) for folder, tag, step, _ in tensorboard_values(root)]
    assert len(seen) == len(set(seen))
    losses = [(tag, step, value) for _, tag, step, value in tensorboard_values(root) if tag.endswith("/loss")]
    return sorted(Row(tag.partition("/")[0], step, _single(value)) for tag, step, value in losses)


def tensorboard_shows(root: Path) -> EventAccumulator:
    """The run itself as TensorBoard's own page gets it."""
    shown = EventAccumulator(str(event_files(root)[0].parent))
    shown.Reload()
    return shown


def _single(loss: Any) -> float:
    """As TensorBoard keeps numbers."""
    return float(np.float32(loss))
