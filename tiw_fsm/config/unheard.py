"""Keys that a file says and nobody hears: accepted, because TinyWorlds' files have them, and without effect here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiw_fsm.config.alignment import Files
from tiw_fsm.config.schema import MixtureFile
from tiw_fsm.stages import Stage
from tiw_fsm.tinyworlds.config import InferenceConfig, StageConfig

TRACKING = {"use_wandb", "wandb_project"}
HEARD: dict[str, set[str]] = {
    "training": {
        *StageConfig.model_fields,
        *MixtureFile.model_fields,
        *("dataset", "fps", "preload_ratio", "device", "distributed", "nproc_per_node"),
        *TRACKING,
    },
    "inference": {*InferenceConfig.model_fields, "dataset", "device"},
    **{stage.value: {*StageConfig.model_fields, *TRACKING} for stage in Stage},
}
"""Keys that have an effect, by file."""
SAYS_NOTHING = (None, "")


def unheard(files: Files) -> list[str]:
    """The keys without effect, a text for each file that has some.

    Args:
        files: what each YAML file says, by file name without suffix, flags not applied.
    """
    told = {name: _of_file(name, files[name], files["training"]) for name in HEARD}
    return [f"{name}.yaml: {', '.join(keys)}" for name, keys in told.items() if keys]


def _of_file(name: str, said: Mapping[str, Any], training: Mapping[str, Any]) -> list[str]:
    found = []
    for key, value in said.items():
        if value in SAYS_NOTHING:
            continue
        first = training.get(key) if name in list(Stage) else None
        if first is not None and first != value:
            found.append(f"{key} (training.yaml's comes first)")
        elif key not in HEARD[name] and first is None:
            found.append(key)
    return found
