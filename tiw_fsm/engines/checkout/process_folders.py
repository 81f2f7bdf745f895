"""The folders of a checkout's processes: what each was begun with, what it left, and what of that goes on.

A script saves in place and says nothing when it is done; so a process gets a folder of its own, and what is complete
in it is copied to where the controller publishes it.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tiw_fsm.data import pictures
from tiw_fsm.engines.checkout import script_output
from tiw_fsm.engines.protocol import TrainRequest, TrainResult
from tiw_fsm.errors import disk_errors
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoint_checks, checkpoints, wandb_file
from tiw_fsm.system import durable
from tiw_fsm.values.frozen import FrozenModel, Tuning

PROCESS = "process.json"


class Process(FrozenModel):
    """What a process was begun with; lies in its folder from before its start."""

    start: int
    resume: str | None
    first: int
    n_updates: int
    log_interval: int
    offset: int
    tuning: Tuning


def left_behind(request: TrainRequest, attempt: Path, notes: list[str]) -> TrainResult | None:
    """What processes that were ended within this attempt had saved beyond its start; None if nothing."""
    found: list[tuple[int, Path, Process, Path]] = []
    for folder in folders_of(attempt):
        process = begun_with(folder)
        if process is None or (process.start, process.resume) != (
            request.start,
            request.resume and request.resume.sha256,
        ):
            continue
        newest = newest_saved(folder, request.stage, notes)
        step = (checkpoints.completed_of(newest) or 0) - 1 if newest else -1
        if newest and step > process.first:  # the first save of a process is worth one update
            found.append((step, folder, process, newest))
    if not found:
        return None
    step, folder, process, newest = max(found, key=lambda each: each[0])
    rows = rows_of(folder, process)
    completed = step + 1 + process.offset
    reached = max([updates_shown(folder, process), *(row["update"] + 1 for row in rows), completed])
    kept = [row for row in rows if row["update"] < completed]
    if reached > completed:
        notes.append(
            f"the script was ended at update {reached} or later; its newest complete checkpoint is that of update "
            f"{completed}, so {reached - completed} updates are repeated"
        )
    if len(kept) < completed - request.start:
        missing = completed - request.start - len(kept)
        notes.append(f"W&B had not written the metrics of {missing} updates when the script was ended")
    return published(request, folder, process, newest, kept, notes, 0.0)


def folders_of(attempt: Path) -> list[Path]:
    folders = attempt.glob("process_*") if attempt.is_dir() else ()
    return sorted(folders, key=lambda path: int(path.name.rpartition("_")[2]))


def tidy(attempt: Path, request: TrainRequest) -> None:
    """Remove the complete checkpoints of this run's earlier attempts, of which copies were published; torn ones stay.

    Raises:
        DiskRefused: the disk did not let one go.
    """
    for earlier in attempt.parent.glob(f"{request.owner[:8]}_*"):
        if int(earlier.name.rpartition("_")[2]) < request.attempt:
            saved = [*earlier.glob(f"process_*/{request.stage}/checkpoints/*"), *earlier.glob("process_*/from")]
            for folder in saved:
                if folder.name == "from" or not checkpoint_checks.problems(folder):
                    durable.discard(folder)  # what cannot be removed yet is tried again with the next chunk


def new_folder(attempt: Path) -> Path:
    before = folders_of(attempt)
    number = int(before[-1].name.rpartition("_")[2]) + 1 if before else 1
    folder = attempt / f"process_{number}"
    durable.make_folder(folder)
    return folder


def begun_with(folder: Path) -> Process | None:
    """What the process of ``folder`` was begun with; None if that is not known, so that it counts for nothing."""
    try:
        return Process.model_validate_json(durable.read_small(folder / PROCESS))
    except (ValueError, ValidationError):
        return None


def disown(folder: Path) -> None:
    """Have what the process of ``folder`` left count for nothing."""
    with disk_errors("removing", folder / PROCESS):
        (folder / PROCESS).unlink(missing_ok=True)


def newest_saved(folder: Path, stage: Stage, notes: list[str]) -> Path | None:
    """The newest complete checkpoint that a process saved; torn ones are named, and stay."""
    newest, passed_over = checkpoint_checks.newest_valid(folder / stage / "checkpoints", stage)
    notes += [f"{torn} is not complete, so it is not used: {reasons[0]}" for torn, reasons in passed_over]
    return newest


def published(
    request: TrainRequest,
    folder: Path,
    process: Process,
    source: Path,
    rows: list[dict[str, Any]],
    notes: list[str],
    seconds: float,
) -> TrainResult:
    """A script's checkpoint, and its picture, copied to where the controller wants them."""
    completed = (checkpoints.completed_of(source) or 0) + process.offset
    target = Path(request.checkpoint)
    with disk_errors("writing", target):
        durable.clear(target)
        target.mkdir(parents=True)
        for name in checkpoints.FILES:
            shutil.copyfile(source / name, target / name)
        drawn = [path for path in folder.glob(f"{request.stage}/visualizations/*.png") if pictures.is_png(str(path))]
        if drawn and request.picture and completed >= request.stop_at:
            shutil.copyfile(max(drawn, key=_drawn_after), request.picture)
    sha256 = checkpoints.write_manifest(target, request.stage, completed, request.owner)
    kept = [row for row in rows if row["update"] < completed]
    return TrainResult(completed=completed, sha256=sha256, rows=kept, seconds=seconds, notes=list(dict.fromkeys(notes)))


def rows_of(folder: Path, process: Process) -> list[dict[str, Any]]:
    """One row per update of the W&B run in a process's folder, with the loss undivided by the accumulation."""
    logged: dict[int, dict[str, Any]] = {}
    for path in sorted(folder.glob("wandb/*run-*/run-*.wandb")):
        if path.parent.is_symlink():  # latest-run
            continue
        try:
            history = wandb_file.history(path)
        except (wandb_file.NotWandb, OSError):
            continue
        for row in history:
            if "train/loss" in row and "_step" in row:
                logged[int(row["_step"]) + process.offset] = row
    rows = []
    measured: dict[str, Any] = {}
    for update in sorted(logged):
        row = logged[update]
        measured |= {key: row[key] for key in ("unique_actions", "action_entropy") if key in row}
        loss = row["train/loss"]
        finite = isinstance(loss, int | float) and math.isfinite(loss)
        rows.append(
            {
                "update": update,
                "loss": loss * process.tuning.gradient_accumulation_steps if finite else None,
                "learning_rate": float(row.get("learning_rate/group_0", process.tuning.learning_rate)),
                "grad_norm": None,
                **measured,
            }
        )
    return rows


def updates_shown(folder: Path, process: Process) -> int:
    """How many updates, by our count, the progress bar of a process showed last."""
    try:
        text = (folder / "output.log").read_text(errors="replace")
    except OSError:
        return 0
    done = script_output.updates_done(text, process.n_updates - process.first)
    return process.start + done if done is not None else 0


def _drawn_after(picture: Path) -> int:
    """How many updates a script's picture shows, by its name: ``…_step_<N>.png``."""
    return checkpoints.completed_of(picture.with_suffix("")) or 0
