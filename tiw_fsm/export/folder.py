"""The folder of ``tiw-fsm export``: weights, sizes, starts, TinyWorlds' own checkpoints, pictures and a model card.

The same run gives the same bytes: no clock is looked at, and no path of this machine gets into a file.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from tiw_fsm.api import Run, gate_said
from tiw_fsm.config.settings import Settings
from tiw_fsm.data import pictures
from tiw_fsm.errors import StateDamaged, UsageProblem
from tiw_fsm.export import card
from tiw_fsm.fsm.inference_gate import Attempt
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoint_checks, checkpoints, exports
from tiw_fsm.storage.exports import ExportConfig, ExportedCheckpoint, Provenance
from tiw_fsm.system import whole_folder
from tiw_fsm.tinyworlds.training import read_weights
from tiw_fsm.values.printable import printable
from tiw_fsm.version import __version__
from tiw_fsm.worlds.exported import STARTS_KEY
from tiw_fsm.worlds.world import World

MOST_PIXELS = 1 << 26
"""Of a picture that is taken along."""
SIDE = 112
"""Pixels that a frame of the moving picture has at least."""
METADATA = "tiw_fsm"
"""The one key of a safetensors file's metadata: of several, the order would be another each time."""


class Exported(NamedTuple):
    """What was made.

    Attributes:
        folder: where.
        sums: SHA-256 of each file by its name.
        bytes: of all files together.
        starts: contexts to start from.
    """

    folder: Path
    config: ExportConfig
    sums: dict[str, str]
    bytes: int
    starts: int


def export(
    run: Run, folder: Path, *, force: bool, allow_failed: bool, each_file: Callable[[str], None] = lambda name: None
) -> Exported:
    """Make the folder of ``run``.

    Args:
        force: replace an export that is there.
        allow_failed: export a world that its gate has not passed, too.
        each_file: is told what is written next.

    Raises:
        UsageProblem: the run has no world, or has not passed; or something else bears the name of the folder.
        StateDamaged: a checkpoint is not what the state vouches for.
        DiskRefused: the disk did not take it; nothing is left.
    """
    folder = Path(os.path.abspath(folder))
    _require_room(folder, force)
    run.require_world(None if allow_failed else "--allow-failed exports it all the same")
    state, settings, world = run.newest_world()
    with whole_folder.made(folder) as new:
        config = _config(state, settings, world)
        weights: dict[str, Tensor] = {}
        for stage, checkpoint in config.provenance.checkpoints.items():
            place = exports.checkpoint(stage, checkpoint.updates)
            each_file(place)
            copied = _copied(state, stage, new / place)
            weights |= {f"{stage}.{key}": value for key, value in read_weights(copied).items()}
        each_file(exports.WEIGHTS)
        provenance = config.model_dump_json(include={"version", "run", "passed", "verdict", "attempt", "provenance"})
        _write(new / exports.WEIGHTS, _safetensors(weights, provenance))
        starts = {STARTS_KEY: torch.from_numpy(world.starts)}
        _write(new / exports.STARTS, _safetensors(starts, json.dumps({"run": config.run})))
        _write(new / exports.CONFIG, json.dumps(json.loads(config.model_dump_json()), indent=1).encode() + b"\n")
        drawn = _pictures(_judged(state), new)
        parameters = {stage: _count(weights, stage) for stage in config.stages}
        _write(new / exports.CARD, card.card(config, parameters, drawn, len(world.starts)).encode())
        each_file(exports.SUMS)
        sums = exports.write_sums(new)
        size = sum((new / name).stat().st_size for name in sums)
    return Exported(folder, config, sums, size, len(world.starts))


def conclusion(made: Exported, folder: Path) -> str:
    """One sentence or two: what was made, called ``folder``, and what to do with it."""
    said = f"Exported run {made.config.run} to {folder}: {len(made.sums)} files, {made.bytes / 1e6:.1f} MB"
    said += "." if made.config.passed else "; its gate has not passed it, which the model card says."
    if not made.starts:
        said += " The run's frames are gone, so it has no contexts to start from."
    loaded = folder if "/" in str(folder) else f"./{folder}"
    return f'{said} `tiw-fsm check {folder}` reads it back, `tiw_fsm.load("{loaded}")` steps through it.'


def _require_room(folder: Path, force: bool) -> None:
    """Raise UsageProblem if something bears the name that must not be replaced."""
    if not folder.name:
        raise UsageProblem(f"{folder} cannot be made: give -o the name of a new folder")
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UsageProblem(f"{folder} is no folder: give another with -o")
    if exports.is_export(folder):
        if not force:
            raise UsageProblem(f"{folder} is already there: --force exports it again, -o elsewhere")
    elif any(folder.iterdir()):
        raise UsageProblem(f"{folder} is there and is no export, so it is left as it is: give another with -o")


def _config(state: RunState, settings: Settings, world: World) -> ExportConfig:
    told = state.fingerprint
    assert told is not None  # else there were no world
    attempt = _judged(state)
    kept = {}
    for stage, progress in state.stages.items():
        assert progress.checkpoint is not None
        kept[stage] = ExportedCheckpoint(updates=progress.checkpoint.completed, sha256=progress.checkpoint.sha256)
    return ExportConfig(
        version=__version__,
        run=state.run,
        passed=state.outcome == "passed",
        verdict=gate_said(state),
        frame_size=world.frame_shape[0],
        n_actions=world.n_actions,
        keys={printable(name): action for name, action in world.keys.items()},
        stages=settings.stages,
        inference=settings.inference,
        attempt=attempt and attempt.evolve(png=None, result=None),
        provenance=Provenance(
            run_id=state.run_id,
            finished=state.updated_at,
            dataset=printable(Path(settings.data.path).name),
            data=told.data,
            content=told.content,
            config_sha256=state.config_sha256,
            code=told.code,
            torch=told.torch,
            device=told.device,
            processes=told.processes,
            exact=not state.inexact,
            checkpoints=kept,
        ),
    )


def _judged(state: RunState) -> Attempt | None:
    return state.inference.attempts[-1] if state.inference.attempts else None


def _copied(state: RunState, stage: Stage, target: Path) -> Path:
    """A copy of the checkpoint that the state names, verified.

    Raises:
        StateDamaged: it is not what the state vouches for.
    """
    ref = state.stages[stage].checkpoint
    assert ref is not None
    source = checkpoint_checks.verified(ref)
    target.mkdir(parents=True)
    for name in (*checkpoints.FILES, checkpoints.MANIFEST):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    if wrong := checkpoint_checks.altered(target, ref.sha256):
        raise StateDamaged(f"{source} changed while it was copied: {wrong[0]}")
    return target


def _safetensors(tensors: Mapping[str, Tensor], told: str) -> bytes:
    whole = {name: value.contiguous().clone() for name, value in tensors.items()}
    content: bytes = save(whole, {METADATA: told})
    return content


def _pictures(attempt: Attempt | None, folder: Path) -> list[str]:
    """Take the attempt's picture along, still and in motion; the names of those that could be."""
    if attempt is None or attempt.png is None or not pictures.is_png(attempt.png, MOST_PIXELS):
        return []
    still = Path(attempt.png).read_bytes()
    found = {exports.PICTURE: still, exports.MOVING: pictures.motion(still, least_side=SIDE)}
    for name, content in found.items():
        if content is not None:
            _write(folder / name, content)
    return [name for name, content in found.items() if content is not None]


def _write(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)


def _count(weights: Mapping[str, Tensor], stage: Stage) -> int:
    return sum(value.numel() for key, value in weights.items() if key.startswith(f"{stage}."))
