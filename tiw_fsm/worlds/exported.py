"""The world of a folder that ``tiw-fsm export`` made: weights, sizes and starts, and nothing that could be executed."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from tiw_fsm.errors import UsageProblem
from tiw_fsm.storage import exports
from tiw_fsm.tinyworlds import determinism
from tiw_fsm.tinyworlds.rollout import assembled
from tiw_fsm.tinyworlds.training import frozen
from tiw_fsm.values.printable import excerpt
from tiw_fsm.worlds.devices import device_called
from tiw_fsm.worlds.world import World

STARTS_KEY = "starts"
"""Of the one tensor in ``exports.STARTS``."""


def load_export(folder: Path, *, device: str, allow_failed: bool) -> World:
    """The world of an export, verified.

    Args:
        device: ``cpu``, ``cuda``, or ``auto``.
        allow_failed: take a world that its gate has not passed, too.

    Raises:
        UsageProblem: the folder is no whole export, its world has not passed, or the device is not there.
    """
    if not exports.is_export(folder):
        raise UsageProblem(f"{folder} is no folder that `tiw-fsm export` made; the name of a run has no slash in it")
    if wrong := exports.problems(folder):
        raise UsageProblem([f"{folder / name}: {problem}" for name, problem in wrong.items()])
    config = exports.read_config(folder)
    if not (config.passed or allow_failed):
        raise UsageProblem(
            f"{folder} has a world that has not passed its inference gate; allow_failed=True loads it all the same. "
            f"{config.verdict}"
        )
    place = device_called(device)
    if place.type == "cuda":
        determinism.allow_tf32(config.inference.tf32)
    try:
        weights = load_file(folder / exports.WEIGHTS)
        models = {
            stage: frozen(
                stage,
                options,
                {key.removeprefix(f"{stage}."): value for key, value in weights.items() if key.startswith(f"{stage}.")},
                place,
            )
            for stage, options in config.stages.items()
        }
        starts = load_file(folder / exports.STARTS)[STARTS_KEY].numpy()
        model = assembled(models, config.stages)
    except (SafetensorError, RuntimeError, LookupError) as exc:
        raise UsageProblem(f"{folder} is no world that this version can load: {excerpt(str(exc))}") from exc
    return World(
        model,
        config.inference,
        config.frame_size,
        starts if len(starts) else None,
        keys=config.keys,
        verdict=config.verdict,
        lacking="the run's frames were gone when it was exported",
    )
